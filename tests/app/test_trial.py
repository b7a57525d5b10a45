import numpy as np
import pytest
import torch
from PIL import Image
from predicted import write_photographs, write_weights

import cad
from cad.app.trial import Models, name_models
from cad.errors import UserError

CPU = torch.device("cpu")


@pytest.fixture
def models(tmp_path):
    names = ("a.pth", "b.pth", "c.pth")
    paths = {name: write_weights(tmp_path / name, seed=seed) for seed, name in enumerate(names, start=3)}
    return Models(paths, CPU)


def test_a_trial_has_the_masks_of_every_threshold(models, tmp_path):
    (image,) = write_photographs(tmp_path / "in", 1)
    trial = models.try_on("a.pth", image)
    assert trial.size == Image.open(image).size[::-1] and trial.seconds > 0 and "MiB" in trial.memory
    areas = []
    for threshold in (0.2, 0.5, 0.8):
        expected = cad.load(models.paths["a.pth"], device="cpu", threshold=threshold).predict(image)
        assert np.array_equal(trial.mask(threshold), expected)
        areas.append(expected.sum())
    assert areas[0] > areas[1] > 0


def test_models_are_kept_loaded_up_to_two(models, tmp_path):
    (image,) = write_photographs(tmp_path / "in", 1)
    for name in ("a.pth", "b.pth", "a.pth", "c.pth"):
        models.try_on(name, image)
    assert list(models._loaded) == ["a.pth", "c.pth"]


def test_only_named_models_are_loaded(models, tmp_path):
    (image,) = write_photographs(tmp_path / "in", 1)
    with pytest.raises(UserError, match="not among the weights"):
        models.try_on(str(models.paths["a.pth"]), image)


def test_models_have_names_that_differ_and_sam_is_none_of_them(tmp_path):
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    for name in ("sam_cad.pth", "sam_vit_b_01ec64.pth", "model.onnx", "README.md"):
        (folder / name).touch()
    given = tmp_path / "sam_cad.pth"
    given.touch()
    assert name_models([given, given, folder / "model.onnx"], folder) == {
        "sam_cad.pth": given,
        "model.onnx": folder / "model.onnx",
        "checkpoints/sam_cad.pth": folder / "sam_cad.pth",
    }
    assert name_models([], tmp_path / "none") == {}
    with pytest.raises(UserError, match="--checkpoint .*missing.pth: no such file"):
        name_models([tmp_path / "missing.pth"], folder)
