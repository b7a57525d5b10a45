import io
import os

import pytest
from torch.utils.data import DataLoader, Dataset

from cad.errors import MissingPathError, UserError, first_names, optional_package, run_script


def test_a_user_error_is_one_line_and_exit_code_2(capsys):
    def body():
        raise UserError("mask.png: expected\n a mask")

    assert run_script(body) == 2
    assert capsys.readouterr().err == "error: mask.png: expected a mask\n"


class Broken(Dataset):
    def __getitem__(self, index):
        raise UserError("Error: a  frog.png: vanished (ValueError: 3)")

    def __len__(self):
        return 1


def test_an_error_of_a_worker_process_is_one_line_too(capsys):
    assert run_script(lambda: list(DataLoader(Broken(), num_workers=1))) == 2
    assert capsys.readouterr().err == "error: Error: a  frog.png: vanished (ValueError: 3)\n"


def test_the_file_systems_refusals_and_missing_packages_are_one_line(capsys, tmp_path):
    assert run_script(lambda: (tmp_path / ("n" * 300)).write_text("")) == 2
    assert capsys.readouterr().err.endswith(f"{'n' * 300}: File name too long\n")
    assert run_script(lambda: __import__("no_such_package")) == 2
    assert capsys.readouterr().err.startswith("error: the package no_such_package is missing: use ./run.sh once")


def test_an_optional_package_is_named_with_what_installs_it():
    assert optional_package("json").dumps([1]) == "[1]"
    with pytest.raises(UserError, match="the package no_such_package is missing: pip install no_such_package"):
        optional_package("no_such_package")


def test_a_defect_keeps_its_traceback():
    with pytest.raises(ValueError, match="inner"):
        run_script(lambda: int("inner"))


def test_ctrl_c_is_not_a_traceback(capsys):
    def body():
        raise KeyboardInterrupt

    assert run_script(body) == 130
    assert "interrupted" in capsys.readouterr().err


def test_a_missing_path_is_both_kinds_of_error():
    error = MissingPathError("images: no such folder")
    assert isinstance(error, FileNotFoundError) and isinstance(error, UserError)
    assert str(error) == "images: no such folder"


def test_first_names():
    assert first_names(["a", "b"]) == "a, b"
    assert first_names(list("abcdefgh")) == "a, b, c, d, e and 3 more"


def test_control_characters_of_a_message_do_not_reach_the_terminal(capsys):
    def fail():
        raise UserError("image \x1b]0;owned\x07\x1b[2J.png: no such file")

    assert run_script(fail) == 2
    assert capsys.readouterr().err == "error: image \N{REPLACEMENT CHARACTER}]0;owned\N{REPLACEMENT CHARACTER}" + (
        "\N{REPLACEMENT CHARACTER}[2J.png: no such file\n"
    )


def test_a_file_name_that_is_not_utf_8_can_be_printed(monkeypatch):
    stream = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    monkeypatch.setattr("sys.stdout", stream)
    assert run_script(lambda: print(os.fsdecode(b"frog_\xff.png"))) == 0
    stream.flush()
    assert stream.buffer.getvalue() == b"frog_\\udcff.png\n"
