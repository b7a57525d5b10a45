import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cad.errors import UserError
from cad.prediction.inputs import InputImage
from cad.prediction.outputs import PredictionFolder, eight_bits

FIRST = InputImage(Path("in/a.jpg"), "a.jpg", "a")
SECOND = InputImage(Path("in/sub/b.jpg"), "sub/b.jpg", "sub/b")
SETTINGS = {"checkpoint": "w.pth", "checkpoint_sha256": "ab" * 32, "threshold": 0.5, "tile": None}
MASK = np.arange(48).reshape(6, 8) % 5 == 0
PROBABILITIES = np.arange(48, dtype=np.uint8).reshape(6, 8) * 5
ALL = frozenset({"probabilities", "overlays", "coco"})


@pytest.fixture
def folder(tmp_path):
    return PredictionFolder(tmp_path / "out", ALL)


def fill(folder, *images):
    for image in images:
        folder.write(image, MASK, PROBABILITIES, np.full((6, 8, 3), 90, np.uint8))


def test_results_are_lossless_and_in_the_folders_of_the_images(folder):
    fill(folder, SECOND)
    with Image.open(folder.folder / "masks" / "sub" / "b.png") as mask:
        assert mask.mode == "L" and np.array_equal(np.asarray(mask), MASK * np.uint8(255))
    with Image.open(folder.folder / "probabilities" / "sub" / "b.png") as probabilities:
        assert np.array_equal(np.asarray(probabilities), PROBABILITIES)
    with Image.open(folder.folder / "overlays" / "sub" / "b.jpg") as overlay:
        assert overlay.size == (8, 6)
    ((name, record),) = folder.coco_records([FIRST, SECOND])
    assert name == "sub/b.jpg" and (record["width"], record["height"]) == (8, 6)
    assert record["annotation"]["score"] == pytest.approx(PROBABILITIES[MASK].mean() / 255, abs=1e-6)


def test_an_image_is_done_when_everything_that_is_asked_for_is_there(folder):
    fill(folder, FIRST)
    assert folder.is_done(FIRST) and not folder.is_done(SECOND)
    folder.path("overlays", FIRST).unlink()
    assert not folder.is_done(FIRST) and PredictionFolder(folder.folder, frozenset()).is_done(FIRST)


def test_the_mask_is_written_last(folder, monkeypatch):
    monkeypatch.setattr("cad.prediction.outputs.draw_overlay", lambda picture, mask: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        fill(folder, FIRST)
    assert folder.path("probabilities", FIRST).exists() and not folder.path("masks", FIRST).exists()


def test_results_of_other_settings_are_not_mixed(folder):
    folder.check(SETTINGS, [FIRST], overwrite=False)
    folder.start(SETTINGS, [FIRST], overwrite=False)
    assert json.loads((folder.folder / "predict.json").read_text()) == SETTINGS
    fill(folder, FIRST)
    folder.check(SETTINGS | {"checkpoint": "copy.pth"}, [FIRST, SECOND], overwrite=False)
    changed = SETTINGS | {"threshold": 0.3, "checkpoint_sha256": "cd" * 32}
    with pytest.raises(UserError) as error:
        folder.check(changed, [FIRST], overwrite=False)
    assert str(error.value) == (
        f"--output {folder.folder}: holds masks made with checkpoint_sha256 abababababab..., now cdcdcdcdcdcd... and "
        "threshold 0.5, now 0.3; pass --overwrite, or another --output"
    )
    folder.check(changed, [FIRST], overwrite=True)
    with pytest.raises(UserError, match="also holds 1 masks of other images, which would be mixed"):
        folder.check(changed, [SECOND], overwrite=True)


def test_overwriting_removes_what_is_there_so_that_it_can_be_interrupted(folder):
    folder.start(SETTINGS, [FIRST, SECOND], overwrite=False)
    fill(folder, FIRST, SECOND)
    folder.start(SETTINGS | {"threshold": 0.3}, [FIRST], overwrite=True)
    assert not folder.is_done(FIRST) and folder.is_done(SECOND)


@pytest.mark.parametrize("content", [None, "{", "[]"])
def test_masks_without_a_record_of_their_settings_are_not_mixed(folder, content):
    fill(folder, FIRST)
    if content is not None:
        (folder.folder / "predict.json").write_text(content)
    with pytest.raises(UserError, match=r"predict.json (that says|is damaged).* were made with; pass --overwrite"):
        folder.check(SETTINGS, [FIRST], overwrite=False)


def test_what_a_killed_run_left_half_written_is_removed(folder):
    fill(folder, FIRST)
    half = folder.folder / "masks" / ".a.png.123-0a1b2c.tmp"
    others = folder.folder / "masks" / ".z.png.123-0a1b2c.tmp"
    half.touch()
    others.touch()
    folder.start(SETTINGS, [FIRST], overwrite=False)
    assert not half.exists() and others.exists() and folder.is_done(FIRST)


def test_a_folder_that_cannot_be_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="file: expected a folder, found a file"):
        PredictionFolder(tmp_path / "file", ALL).check(SETTINGS, [FIRST], overwrite=False)
    with pytest.raises(UserError, match="--output .*below: cannot be written: Not a directory"):
        PredictionFolder(tmp_path / "file" / "below", ALL).start(SETTINGS, [FIRST], overwrite=False)


def test_eight_bits_round_to_the_nearest():
    logits = np.array([[-100, 0, 0.01, 100]], np.float32)
    assert eight_bits(logits).tolist() == [[0, 128, 128, 255]]
