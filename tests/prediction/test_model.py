import numpy as np
import pytest
import torch
from predicted import write_weights

from cad.errors import MissingPathError
from cad.prediction.model import TorchModel, load_model
from cad.trained_weights import load_segmenter


def test_the_model_of_trained_weights_gives_the_segmenters_logits(tmp_path):
    weights = write_weights(tmp_path / "w.pth", "cad")
    images = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
    model = load_model(weights, torch.device("cpu"))
    logits = model.mask_logits(images)
    assert isinstance(model, TorchModel) and model.image_size == 64
    assert logits.dtype == np.float32 and logits.shape == (2, 1, 64, 64)
    segmenter, _ = load_segmenter(weights, tmp_path)
    with torch.no_grad():
        assert np.array_equal(logits, segmenter(torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()).numpy())


def test_missing_weights_are_named(tmp_path):
    with pytest.raises(MissingPathError, match="w.pth: no such checkpoint file"):
        load_model(tmp_path / "w.pth", torch.device("cpu"))
