"""Files that change during a run: one line that names the file, exit code 2, and the best weights so far stay."""

import os

import numpy as np
import pytest
import run_cad
import torch
from conftest import write_pairs
from PIL import Image

from cad.trained_weights import read_weights
from cad.training.logger import RunLog
from cad.training.run import check_data

SMALL = ["--model_type", "vit_demo", "--image_size", "32", "--batch_size", "2", "--views", "0"]
SMALL += ["--wandb", "disabled", "--device", "cpu"]


def flags_for(folders, output, *more):
    data = ["--train_image_dir", str(folders[0]), "--train_mask_dir", str(folders[1]), "--output_dir", str(output)]
    return [*data, *SMALL, *more]


@pytest.fixture
def folders(tmp_path):
    return write_pairs(tmp_path / "data", count=4)


def truncate(path):
    path.write_bytes(path.read_bytes()[:-100])


def replace_by_another_size(path):
    Image.new("RGB", (20, 20), "red").save(path)


def replace_by_another_image(path):
    Image.new("RGB", (40, 32), "red").save(path)


DAMAGES = {
    "deleted": (lambda path: path.unlink(), r"unreadable or truncated image file (No such file or directory)"),
    "truncated": (truncate, "unreadable or truncated image file (image file is truncated"),
    "emptied": (lambda path: path.write_bytes(b""), "unreadable or truncated image file (0 bytes)"),
    "no image": (lambda path: path.write_text("<html>"), "unreadable or truncated image file (none of JPEG"),
    "another size": (replace_by_another_size, "is 20x20 pixels (width x height) and its mask"),
    "another image": (replace_by_another_image, "its embedding is no longer in"),
}
CASES = [
    ("deleted", 0, []),
    ("deleted", 1, []),
    ("truncated", 1, []),
    ("another size", 0, ["--no_cache"]),
    ("another image", 1, []),
    *[
        pytest.param(damage, workers, cache, marks=pytest.mark.slow)
        for damage in DAMAGES
        for workers in (0, 1)
        for cache in ([], ["--no_cache"])
        if not (damage == "another image" and cache)
    ],
]


def the_error(capsys):
    """The one line that starts with error; nothing else may look like a defect."""
    stderr = capsys.readouterr().err
    assert "Traceback" not in stderr
    (line,) = [line for line in stderr.splitlines() if line.startswith("error:")]
    return line


@pytest.mark.parametrize("damage, workers, cache", CASES)
def test_a_file_that_changes_during_training_is_named_and_the_weights_stay(
    folders, tmp_path, capsys, monkeypatch, damage, workers, cache
):
    change, expected = DAMAGES[damage]
    image, checkpoints, kept = folders[0] / "photo_2.jpg", tmp_path / "out" / "checkpoints", {}
    log = RunLog.log

    def log_and_change(self, record):
        log(self, record)
        if record["epoch"] == 1:
            change(image)
            kept.update({file.name: file.read_bytes() for file in checkpoints.iterdir()})

    monkeypatch.setattr(RunLog, "log", log_and_change)
    flags = ["--epoch", "3", "--val_fraction", "0", "--num_workers", str(workers), "--publish", "mine.pth", *cache]
    assert run_cad.main(flags_for(folders, tmp_path / "out", *flags)) == 2
    line = the_error(capsys)
    assert line.startswith(f"error: {image}") and expected in line
    assert len(kept) == 1 and {file.name: file.read_bytes() for file in checkpoints.iterdir()} == kept
    assert read_weights(next(checkpoints.iterdir())).metadata["metrics"]["epoch"] == 1


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("part", [0, 1], ids=["image", "mask"])
def test_a_file_that_changes_after_the_check_is_named(folders, tmp_path, capsys, monkeypatch, part, workers):
    file = sorted(folders[part].iterdir())[1]

    def check_and_change(data, args):
        check_data(data, args)
        truncate(file) if part == 0 else replace_by_another_size(file)

    monkeypatch.setattr("cad.training.run.check_data", check_and_change)
    assert run_cad.main(flags_for(folders, tmp_path / "out", "--epoch", "1", "--num_workers", str(workers))) == 2
    line = the_error(capsys)
    assert str(file) in line and ("truncated" if part == 0 else "expected the same size") in line
    assert not list((tmp_path / "out" / "checkpoints").iterdir())


def test_a_replaced_image_is_encoded_anew_whatever_its_size_and_date(tmp_path, capsys):
    folders = write_pairs(tmp_path / "data", count=4, suffix=".bmp")
    image = folders[0] / "photo_1.bmp"
    flags = ["--epoch", "1", "--val_fraction", "0", "--num_workers", "0", "--batch_size", "4"]
    assert run_cad.main(flags_for(folders, tmp_path / "out", *flags)) == 0
    assert "encoded 4 views, 0 were in the cache" in capsys.readouterr().out

    before = image.stat()
    replaced = Image.fromarray(np.random.default_rng(9).integers(0, 255, (32, 40, 3), np.uint8))
    replaced.save(image)
    os.utime(image, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert image.stat().st_size == before.st_size and image.stat().st_mtime_ns == before.st_mtime_ns
    assert run_cad.main(flags_for(folders, tmp_path / "out", *flags, "--publish", "again.pth")) == 0
    assert "encoded 1 views, 3 were in the cache" in capsys.readouterr().out
    assert run_cad.main(flags_for(folders, tmp_path / "fresh", *flags, "--publish", "fresh.pth")) == 0
    again, fresh = (
        read_weights(tmp_path / part / "checkpoints" / name).state
        for part, name in (("out", "again.pth"), ("fresh", "fresh.pth"))
    )
    assert all(torch.equal(again[key], fresh[key]) for key in fresh)
