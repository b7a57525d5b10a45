from check_requirements import numbers, unmet


def test_versions_compare_as_numbers():
    assert numbers("2.6.0+cpu") == (2, 6) < numbers("2.10") < numbers("3")
    assert numbers("4.9.0.80") == (4, 9, 0, 80)


def test_what_is_missing_or_outside_the_range_is_said(tmp_path):
    (tmp_path / "base.txt").write_text("numpy>=1.0  # a comment\nnot-a-package>=1\n\n")
    (tmp_path / "dev.txt").write_text("-r base.txt\ntqdm>=1000\npytest<1000\n")
    problems = unmet(tmp_path / "dev.txt")
    assert problems[0] == "not-a-package>=1 (not installed)"
    assert problems[1].startswith("tqdm>=1000 (found ")
    assert len(problems) == 2


def test_the_files_of_this_project_are_met_here():
    from cad.options import PROJECT_ROOT

    assert unmet(PROJECT_ROOT / "requirements-dev.txt") == []
