"""prepare_data.py in-process: what a user gets, and what wrong flags get."""

import json
from pathlib import Path

import numpy as np
import prepare_data
import pytest
from PIL import Image


@pytest.fixture
def istd(tmp_path):
    """A download of one test pair."""
    for kind in "AB":
        folder = tmp_path / "ISTD_Dataset" / "test" / f"test_{kind}"
        folder.mkdir(parents=True)
        Image.fromarray(np.zeros((2, 2), np.uint8)).save(folder / "90-1.png")
    return tmp_path


def run(folder, *flags, dataset="istd"):
    return prepare_data.main(
        ["--dataset", dataset, "--from_dir", str(folder / "ISTD_Dataset"), "--to_dir", str(folder / "out"), *flags]
    )


def test_it_lays_out_and_tells(istd, capsys):
    assert run(istd) == 0
    out = capsys.readouterr().out
    assert "test: 1 pairs of ISTD linked into" in out and "1 pairs where 540 were published" in out
    assert (istd / "out/test/mask/90-1.png").readlink() == Path("../../../ISTD_Dataset/test/test_B/90-1.png")


def test_copies_of_one_split(istd):
    assert run(istd, "--copy", "--split", "test") == 0
    assert not (istd / "out/test/mask/90-1.png").is_symlink()


@pytest.mark.parametrize(
    ("flags", "dataset", "message"),
    [
        (["--split", "train"], "istd", "no ISTD train set found"),
        ([], "kvasir", "no Kvasir-SEG found"),
        (["--split", "train"], "nc4k", "NC4K is a test set only"),
        (["--annotations", "a.json"], "istd", "--annotations belongs to --dataset coco"),
        (["--categories", "frog"], "sbu", "--categories belongs to --dataset coco"),
        ([], "coco", "--annotations is missing"),
        (["--annotations", "none.json"], "coco", "no such file"),
    ],
)
def test_errors_are_one_line_and_exit_code_2(istd, capsys, flags, dataset, message):
    assert run(istd, *flags, dataset=dataset) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and message in error
    assert not (istd / "out").exists()


def test_unknown_data_sets_are_one_line(istd, capsys):
    with pytest.raises(SystemExit) as exit_:
        run(istd, dataset="imagenet")
    assert exit_.value.code == 2 and capsys.readouterr().err.count("\n") == 1


def test_coco_masks_are_drawn_beside_links(tmp_path, capsys):
    (tmp_path / "images").mkdir()
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / "images" / "a.png")
    content = {
        "images": [{"id": 1, "file_name": "a.png", "height": 4, "width": 4}],
        "annotations": [{"image_id": 1, "category_id": 3, "segmentation": [[0, 0, 2, 0, 2, 2, 0, 2]]}],
        "categories": [{"id": 3, "name": "frog"}],
    }
    (tmp_path / "instances.json").write_text(json.dumps(content))
    flags = ["--from_dir", str(tmp_path / "images"), "--to_dir", str(tmp_path / "out"), "--categories", "frog"]
    assert prepare_data.main(["--dataset", "coco", *flags, "--annotations", str(tmp_path / "instances.json")]) == 0
    assert (np.asarray(Image.open(tmp_path / "out/train/mask/a.png")) == 255).sum() == 4
    assert "train: 1 images linked into" in capsys.readouterr().out
