"""Nothing that a run writes holds a key, the home folder, the user or the host."""

import os
import platform
import time

import evaluate
import pytest
import run_cad
from conftest import write_pairs

from cad.files import hide_home, hide_home_in_file

KEY = "0123456789abcdef" * 2 + "deadbeef"
HOME, USER = "home-of-marvin", "user-marvin"
SMALL = ["--model_type", "vit_demo", "--image_size", "32", "--batch_size", "2", "--epoch", "1", "--num_workers", "0"]


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A home folder behind a link, as where /home is another disk, and the environment of its user."""
    (tmp_path / "disk" / HOME).mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "disk")
    folder = tmp_path / "link" / HOME
    monkeypatch.setenv("HOME", str(folder))
    for name in ("USER", "LOGNAME", "USERNAME", "WANDB_USERNAME"):
        monkeypatch.setenv(name, USER)
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv("HF_TOKEN", f"hf_{KEY}")
    return folder


def secrets():
    host = platform.node()
    return [KEY.encode(), HOME.encode(), USER.encode(), *([host.encode()] if len(host) > 5 else [])]


def leaks(folder):
    """(file, secret) of every file, its name included, that holds one."""
    return [
        (str(path.relative_to(folder)), secret)
        for path in folder.rglob("*")
        for secret in secrets()
        if secret in os.fsencode(path.relative_to(folder)) or (path.is_file() and secret in path.read_bytes())
    ]


def written_by_a_run(home, resolved, monkeypatch, way):
    """A run and its evaluation with every path in the home folder, spelled in one of three ways."""
    images, masks = write_pairs(home / "projects" / "frogs")
    spelled = {
        "absolute": lambda path: str(path),
        "resolved": lambda path: str(path.resolve()),
        "relative": lambda path: os.path.relpath(path.resolve(), resolved / "elsewhere"),
    }[way]
    (resolved / "elsewhere").mkdir()
    monkeypatch.chdir(resolved / "elsewhere")
    output = ["--output_dir", spelled(home / "out"), "--num_workers", "0"]
    cache = ["--cache_dir", spelled(home / "cache"), "--project_name", "frogs", "--publish", "sam_cad.pth"]
    data = ["--train_image_dir", spelled(images), "--train_mask_dir", spelled(masks), *SMALL, *cache, *output]
    assert run_cad.main([*data, "--wandb", "offline"]) == 0
    test = ["--test_image_dir", spelled(images), "--test_mask_dir", spelled(masks), *output]
    assert evaluate.main(["--checkpoint", spelled(home / "out" / "checkpoints" / "sam_cad.pth"), *test]) == 0


@pytest.mark.parametrize(
    "way", ["absolute", *(pytest.param(way, marks=pytest.mark.slow) for way in ("resolved", "relative"))]
)
def test_no_file_of_a_run_or_an_evaluation_says_whose_it_is(home, tmp_path, monkeypatch, way):
    written_by_a_run(home, tmp_path.resolve(), monkeypatch, way)
    out = home / "out"
    (args,) = out.glob("runs/*/args.json")
    (stored,) = args.parent.glob("wandb/offline-*/*.wandb")
    for file in (args, stored, args.parent / "report.html", *out.glob("checkpoints/*.pth")):
        assert b"~/projects/frogs/image" in file.read_bytes()  # the search below looks at what it should
    assert b"Logging user logs to ~/out" in next(args.parent.glob("wandb/offline-*/logs/debug.log")).read_bytes()
    assert leaks(out) == []


def test_the_home_folder_is_hidden_however_it_is_spelled(home, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    resolved = tmp_path.resolve() / "disk" / HOME
    for path in (home / "a", resolved / "a", f"link/../disk/{HOME}/a", f"./x/../disk/{HOME}/a"):
        assert hide_home(path) == "~/a"
    assert hide_home(home) == "~"
    for path in (f"{home}-2/a", "a/b", "cpu", "/data", f"disk/{HOME}-2/../a"):
        assert hide_home(path) == str(path)


def test_a_text_file_loses_the_home_folder_and_nothing_else(home, tmp_path):
    file = tmp_path / "debug.log"
    resolved = tmp_path.resolve() / "disk" / HOME
    file.write_text(f"to {home}/a and '{resolved}', not {home}-2/b or {home}.old; end {home}")
    hide_home_in_file(file)
    assert file.read_text() == f"to ~/a and '~', not {home}-2/b or {home}.old; end ~"
    before = file.stat().st_mtime_ns
    time.sleep(0.01)
    hide_home_in_file(file)
    assert file.stat().st_mtime_ns == before


def test_a_user_without_a_home_folder_keeps_all_paths(monkeypatch):
    def none():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr("pathlib.Path.home", none)
    assert hide_home("/data/images") == "/data/images"
