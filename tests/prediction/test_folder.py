"""Folders predicted with real weights, in-process: what is written, what is skipped, what an interruption leaves."""

import argparse
import json
import signal
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from predicted import contents, write_photographs, write_weights

from cad.datasets.pairs import read_image
from cad.errors import MissingPathError, UserError
from cad.prediction import folder as folder_module
from cad.prediction.folder import predict_folder
from cad.prediction.model import TorchModel
from cad.prediction.options import prediction_parser

BROKEN = (4, 7, 9)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return write_weights(tmp_path_factory.mktemp("weights") / "w.pth")


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photographs") / "in"
    write_photographs(folder, 12, BROKEN)
    return folder


@pytest.fixture
def flags(weights, photographs, tmp_path):
    def parsed(*more: object, output: Path = tmp_path / "out", images: object = photographs) -> argparse.Namespace:
        needed = ["--checkpoint", weights, "--input", images, "--output", output, "--device", "cpu"]
        return prediction_parser("predict.py", "").parse_args([str(flag) for flag in (*needed, *more)])

    return parsed


ALL = ("--overlay", "--probabilities", "--coco")


def test_a_folder_with_broken_files_is_predicted_all_the_same(flags, photographs, tmp_path, capsys):
    assert not predict_folder(flags(*ALL, tmp_path / "r.json"))
    printed = capsys.readouterr()
    assert "predicted 9 of 12 images in" in printed.out and "images/s; the model waited for files" in printed.out
    lines = printed.err.splitlines()
    assert lines[0] == "error: 3 of 12 images have no result:" and len(lines) == 4
    assert all(any(f"photo_{index:03}" in line for line in lines[1:]) for index in BROKEN)
    masks = sorted((tmp_path / "out" / "masks").rglob("*.png"))
    assert len(masks) == 9 and len(list((tmp_path / "out" / "overlays").rglob("*.jpg"))) == 9
    shares = []
    for path in masks:
        mask = np.asarray(Image.open(path))
        below = path.relative_to(tmp_path / "out" / "masks").with_suffix("")
        source = next(photographs.glob(f"{below}.*"))
        assert mask.shape == read_image(source).shape[:2] and set(np.unique(mask)) <= {0, 255}
        probabilities = np.asarray(Image.open(tmp_path / "out" / "probabilities" / f"{below}.png"))
        # 128 is the nearest of 8 bits on either side of one half.
        assert probabilities[mask > 0].min(initial=255) >= 128 >= probabilities[mask == 0].max(initial=0)
        shares.append(mask.mean() / 255)
    assert 0.01 < np.mean(shares) < 0.99
    coco = json.loads((tmp_path / "r.json").read_text())
    assert [image["file_name"] for image in coco["images"]] == sorted(image["file_name"] for image in coco["images"])
    assert len(coco["images"]) == 9 and "more/photo_002.jpg" in {image["file_name"] for image in coco["images"]}


def test_a_second_run_does_nothing_and_needs_no_model(flags, tmp_path, monkeypatch, capsys):
    write_photographs(tmp_path / "in", 2)
    predict_folder(flags(images=tmp_path / "in"))
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.png")}
    monkeypatch.setattr(folder_module, "load_model", lambda *arguments: 1 / 0)
    capsys.readouterr()
    assert predict_folder(flags(images=tmp_path / "in"))
    assert "predicted 0 of 2 images, 2 were there" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.png")} == before


class Stop(BaseException):
    """A run that ends in the middle of something, as when it is killed."""


@pytest.mark.parametrize("how", ["killed", "Ctrl-C"])
def test_an_interrupted_run_goes_on_to_the_results_of_one_that_was_not(flags, tmp_path, monkeypatch, capsys, how):
    predict_folder(flags(*ALL, tmp_path / "whole.json", output=tmp_path / "whole"))
    calls = []
    original = TorchModel.mask_logits

    def interrupted(self, images):
        calls.append(len(images))
        if len(calls) == 2 and how == "killed":
            raise Stop
        if len(calls) == 2:
            signal.raise_signal(signal.SIGINT)
        return original(self, images)

    monkeypatch.setattr(TorchModel, "mask_logits", interrupted)
    capsys.readouterr()
    with pytest.raises(Stop if how == "killed" else KeyboardInterrupt):
        predict_folder(flags(*ALL, tmp_path / "r.json"))
    done = len(list((tmp_path / "out" / "masks").rglob("*.png")))
    assert 0 < done < 9 and not (tmp_path / "r.json").exists() and len(calls) == 2
    if how == "Ctrl-C":
        said = capsys.readouterr().err
        assert "finishing the images in flight; Ctrl-C again stops at once" in said
        assert f"{done} of 12 images are done; the same command goes on with the rest" in said
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    else:
        (tmp_path / "out" / "masks" / ".photo_000.png.1-0a1b2c.tmp").touch()
        next((tmp_path / "out" / "masks").rglob("photo*.png")).unlink()
    monkeypatch.setattr(TorchModel, "mask_logits", original)
    predict_folder(flags(*ALL, tmp_path / "r.json"))
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    assert (tmp_path / "r.json").read_bytes() == (tmp_path / "whole.json").read_bytes()


def test_tiles_and_flips_are_recorded_and_not_mixed_with_others(flags, tmp_path):
    write_photographs(tmp_path / "in", 2)
    assert predict_folder(flags("--tile", 128, "--flip_average", images=tmp_path / "in"))
    recorded = json.loads((tmp_path / "out" / "predict.json").read_text())
    assert (recorded["tile"], recorded["overlap"], recorded["flip_average"]) == (128, 16, True)
    tiled = contents(tmp_path / "out" / "masks")
    with pytest.raises(UserError, match="holds masks made with tile 128, now None and overlap 16, now 0 and flip_av"):
        predict_folder(flags(images=tmp_path / "in"))
    assert predict_folder(flags("--overwrite", images=tmp_path / "in"))
    whole = contents(tmp_path / "out" / "masks")
    assert whole.keys() == tiled.keys() and whole != tiled


def test_no_reading_threads_give_the_same(flags, tmp_path):
    predict_folder(flags(output=tmp_path / "a"))
    predict_folder(flags("--num_workers", 0, output=tmp_path / "b"))
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_output_among_the_images_and_images_among_the_output(flags, photographs, tmp_path):
    with pytest.raises(UserError, match="is the folder of the images; choose another"):
        predict_folder(flags(output=photographs))
    with pytest.raises(UserError, match="holds results of --output"):
        predict_folder(flags(images=tmp_path / "out" / "masks"))
    write_photographs(tmp_path / "in", 2)
    for _ in range(2):  # results below the images are not taken for images
        assert predict_folder(flags(images=tmp_path / "in", output=tmp_path / "in" / "results"))
    assert len(list((tmp_path / "in" / "results" / "masks").rglob("*.png"))) == 2


def test_wrong_paths_are_named_before_anything_is_written(flags, tmp_path):
    (tmp_path / "text.pth").write_text("no weights")
    for wrong, error, message in (
        (("--checkpoint", tmp_path / "none.pth"), MissingPathError, "--checkpoint .*none.pth: no such file"),
        (("--checkpoint", tmp_path), MissingPathError, "a folder; expected trained weights"),
        (("--checkpoint", tmp_path / "text.pth"), UserError, "text.pth: refused: damaged, not a PyTorch weights file"),
        (("--coco", tmp_path), UserError, "expected a file name, found a folder"),
        (("--coco", tmp_path / "none" / "r.json"), UserError, "expected a file in a folder that exists"),
        (("--tile", 64, "--overlap", 64), UserError, "overlap 64: expected 0 or more and less than the tile, 64"),
        (("--overlap", 64), UserError, "overlap 64: only tiles overlap"),
    ):
        with pytest.raises(error, match=message):
            predict_folder(flags(*wrong))
    assert not (tmp_path / "out").exists()
