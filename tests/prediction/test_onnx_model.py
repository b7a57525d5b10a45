import os
import sys

import pytest
from mean_model import DESCRIPTION, write_model
from trained import random_images

from cad.errors import MissingPathError, UserError
from cad.prediction.onnx_model import OnnxModel


@pytest.mark.parametrize("threads", ["1", ""])
def test_an_exported_model_is_run(tmp_path, monkeypatch, threads):
    monkeypatch.setenv("OMP_NUM_THREADS", threads)
    model = OnnxModel(write_model(tmp_path / "model.onnx", DESCRIPTION))
    assert (model.image_size, model.metadata) == (8, DESCRIPTION)
    images = random_images(2, 8)
    assert abs(model.mask_logits(images) - images.mean(axis=3)[:, None]).max() < 1e-3


@pytest.mark.parametrize(
    ("changes", "interface", "message"),
    [
        (
            {"format": "another"},
            {},
            "not one that export_onnx.py wrote: expected format 'sam-cad onnx' in its meta",
        ),
        ({"version": "2"}, {}, "format version 2, expected 1; update sam-cad or export the model again"),
        ({"image_size": "16"}, {}, r"name image_size '16', but its input and output are .*8, 8, 3"),
        ({"image_size": "many"}, {}, r"name image_size 'many', but"),
        ({}, {"name": "depth"}, r"but its input and output are .*'depth'"),
    ],
)
def test_a_model_of_another_origin_is_refused(tmp_path, changes, interface, message):
    path = write_model(tmp_path / "model.onnx", DESCRIPTION | changes, **interface)
    with pytest.raises(UserError, match=message):
        OnnxModel(path)


def test_a_model_without_metadata_is_refused(tmp_path):
    with pytest.raises(UserError, match="an ONNX model, but not one that export_onnx.py wrote: .*found None"):
        OnnxModel(write_model(tmp_path / "model.onnx", {}))


@pytest.mark.parametrize("content", [b"", os.urandom(1000), b"PK\x03\x04" + bytes(100), None])
def test_anything_else_is_one_line(tmp_path, content, capfd):
    path = tmp_path / "model.onnx"
    path.write_bytes(write_model(path, DESCRIPTION).read_bytes()[:-200] if content is None else content)
    with pytest.raises(UserError, match=r"model.onnx: truncated, or not an ONNX model|not one that export_onnx"):
        OnnxModel(path)
    assert capfd.readouterr().err == ""


def test_a_missing_file_or_package_is_named(tmp_path, monkeypatch):
    with pytest.raises(MissingPathError, match=r"model.onnx: no such file"):
        OnnxModel(tmp_path / "model.onnx")
    with pytest.raises(MissingPathError, match="a folder"):
        OnnxModel(tmp_path)
    path = write_model(tmp_path / "model.onnx", DESCRIPTION)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UserError, match="the package onnxruntime is missing: pip install onnxruntime"):
        OnnxModel(path)
