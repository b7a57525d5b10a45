import json
import re
from pathlib import Path

import pytest

from cad.errors import UserError
from cad.files import hide_home, refuse_existing, start_run_folder, write_atomically, write_json


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "weights.pth"
    path.write_bytes(b"old")

    def fail_half_way(file):
        file.write(b"ne")
        raise OSError(28, "No space left on device")

    with pytest.raises(UserError, match=r"weights.pth: cannot be written: No space left"):
        write_atomically(path, fail_half_way)
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["weights.pth"]


def test_an_output_that_exists_or_has_no_folder_is_refused(tmp_path):
    refuse_existing(tmp_path / "new.pth")
    (tmp_path / "old.pth").touch()
    with pytest.raises(UserError, match=r"--output .*old.pth: exists already; remove it or choose another name"):
        refuse_existing(tmp_path / "old.pth")
    with pytest.raises(UserError, match=r"--output .*new.pth: there is no folder .*nowhere; make it or choose"):
        refuse_existing(tmp_path / "nowhere" / "new.pth")


def test_json_is_replaced_and_refuses_nan(tmp_path):
    path = tmp_path / "summary.json"
    write_json(path, {"dice": 0.5})
    write_json(path, {"dice": 0.75})
    assert json.loads(path.read_text()) == {"dice": 0.75}
    with pytest.raises(ValueError, match="JSON"):
        write_json(path, {"dice": float("nan")})
    assert json.loads(path.read_text()) == {"dice": 0.75}


def test_run_folders_are_named_after_the_start_and_never_shared(tmp_path):
    folders = [start_run_folder(tmp_path) for _ in range(4)]
    assert len(set(folders)) == 4
    assert all(re.fullmatch(r"[A-Z][a-z]{2}\d\d_\d{6}(_\d+)?", folder.name) for folder in folders)


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "runs").write_text("a file in the way")
    with pytest.raises(UserError, match="runs: cannot be written"):
        start_run_folder(tmp_path)


def test_the_folder_of_an_evaluation_has_a_suffix_behind_the_number(tmp_path):
    names = [start_run_folder(tmp_path, "-eval").name for _ in range(3)]
    assert len(set(names)) == 3 and all(re.fullmatch(r"\w+-eval", name) for name in names)


def test_the_home_folder_is_a_tilde():
    assert hide_home(Path.home() / "images") == "~/images"
    assert hide_home("/data/images") == "/data/images"


def test_a_blocked_checkpoints_folder_is_one_line_and_leaves_no_run(tmp_path):
    (tmp_path / "checkpoints").write_text("a file in the way")
    with pytest.raises(UserError, match=r"checkpoints: cannot be written"):
        start_run_folder(tmp_path)
    assert not (tmp_path / "runs").exists()


def test_the_longest_name_that_a_folder_takes_can_be_written(tmp_path):
    for name in ("x" * 255, "\N{SNOWMAN}" * 85):
        write_atomically(tmp_path / name, lambda file: file.write(b"whole"))
        assert (tmp_path / name).read_bytes() == b"whole"
    assert len(list(tmp_path.iterdir())) == 2
