import argparse
import sys

import numpy as np
import onnx
import pytest
import torch
from conftest import write_pairs
from mean_model import DESCRIPTION, mean_model
from trained import random_images, trained_segmenter

from cad.errors import MissingPathError, UserError
from cad.export import exportable, onnx_export
from cad.export.onnx_export import check_size, comparison_images, export, export_onnx
from cad.prediction.model import MaskModel, TorchModel, load_model
from cad.prediction.onnx_model import OnnxModel


@pytest.mark.parametrize(
    ("method", "image_size", "design"),
    [
        ("cad", 64, {}),
        pytest.param("cad", 64, {"adapter": "cad_hires", "adapter_gate": "relative"}, marks=pytest.mark.slow),
        ("sam_adapter", 64, {}),
        *(pytest.param(method, 256, {}, marks=pytest.mark.slow) for method in ("cad", "sam_adapter", "decoder")),
        pytest.param("cad", 256, {"adapter": "cad_hires", "high_frequency": False}, marks=pytest.mark.slow),
    ],
)
def test_the_exported_model_gives_the_segmenters_logits_at_every_batch_size(tmp_path, method, image_size, design):
    segmenter, metadata = trained_segmenter(method, image_size, **design)
    metadata["settings"] = {"train_image_dir": "/home/someone/images"}
    path = tmp_path / "model.onnx"
    agreement = export_onnx(path, segmenter, metadata, comparison_images(None, image_size))
    assert agreement.probability_difference < 1e-5 and agreement.same_mask > 0.9999
    model: MaskModel = load_model(path, torch.device("cpu"))
    assert isinstance(model, OnnxModel) and model.image_size == image_size
    expected = TorchModel(segmenter, image_size, torch.device("cpu"))
    for count in (1, 2, 5):
        images = random_images(count, image_size, seed=count)
        logits = model.mask_logits(images)
        assert (logits.shape, logits.dtype) == ((count, 1, image_size, image_size), np.float32)
        assert np.abs(logits - expected.mask_logits(images)).max() < 1e-5
    check_description(path, method, image_size)


def check_description(path, method, image_size):
    """The file says what it is, and names no folder of the machine that wrote it."""
    assert OnnxModel(path).metadata == {
        "format": "sam-cad onnx",
        "version": "1",
        "method": method,
        "model_type": "vit_demo",
        "image_size": str(image_size),
        "demo": "true",
        "run": "May21_172910",
    }
    content = path.read_bytes()
    assert b"/home/" not in content and str(path.parent).encode() not in content and b".py" not in content
    graph = onnx.load_from_string(content).graph
    shape = [dimension.dim_param or dimension.dim_value for dimension in graph.output[0].type.tensor_type.shape.dim]
    assert shape == ["batch", 1, image_size, image_size]


def fixed_batch(model):
    """Make a model that only takes the batch of two that it was traced with."""
    shape = onnx.numpy_helper.from_array(np.array([2, 64, 64, 3]), "shape")
    model.graph.initializer.append(shape)
    model.graph.node.insert(0, onnx.helper.make_node("Reshape", ["images", "shape"], ["two"]))
    model.graph.node[1].input[0] = "two"
    return model


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda model: model,
            r"another model than PyTorch: probabilities differ by at most [0-9.e-]+, the mask",
        ),
        (fixed_batch, "model.onnx: not written, since onnxruntime cannot run it on a batch of 1: .*Reshape"),
    ],
)
def test_an_export_that_computes_something_else_leaves_no_file(tmp_path, monkeypatch, change, message):
    segmenter, metadata = trained_segmenter("decoder", 64)
    wrong = change(mean_model(DESCRIPTION | {"image_size": "64"}, side=64)).SerializeToString()
    monkeypatch.setattr(onnx_export, "onnx_content", lambda *args: wrong)
    with pytest.raises(UserError, match=message):
        export_onnx(tmp_path / "model.onnx", segmenter, metadata, random_images(3, 64))
    assert list(tmp_path.iterdir()) == []


def test_an_export_that_onnxruntime_cannot_load_leaves_no_file(tmp_path, monkeypatch):
    segmenter, metadata = trained_segmenter("decoder", 64)
    model = mean_model(DESCRIPTION | {"image_size": "64"}, side=64)
    model.ir_version = 999
    monkeypatch.setattr(onnx_export, "onnx_content", lambda *args: model.SerializeToString())
    with pytest.raises(UserError, match=r"model.onnx: not written, since .*this onnxruntime can run .*IR version"):
        export_onnx(tmp_path / "model.onnx", segmenter, metadata, random_images(3, 64))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("part", ["resize", "adapter", "nan"])
def test_a_wrong_part_is_found(tmp_path, monkeypatch, part):
    segmenter, metadata = trained_segmenter("cad", 64)
    if part == "resize":
        monkeypatch.setattr(exportable.FixedResize, "forward", lambda self, x: torch.zeros(2, 3, 256, 256))
    elif part == "adapter":
        monkeypatch.setattr(exportable, "divide_by_peak", lambda x: x)
    else:
        monkeypatch.setattr(exportable, "normalise_for_encoder", lambda x, *_: x * float("nan"))
    with pytest.raises(UserError, match="not written, since onnxruntime"):
        export_onnx(tmp_path / "model.onnx", segmenter, metadata, random_images(3, 64))
    assert list(tmp_path.iterdir()) == []


def test_a_failing_exporter_is_one_line_and_leaves_no_file(tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise torch.onnx.errors.OnnxExporterError("no such operator\nand more")

    monkeypatch.setattr(torch.onnx, "export", fail)
    segmenter, metadata = trained_segmenter("decoder", 64)
    with pytest.raises(UserError, match=r"PyTorch .* cannot export this model to ONNX .no such operator."):
        export_onnx(tmp_path / "model.onnx", segmenter, metadata, random_images(3, 64))
    assert list(tmp_path.iterdir()) == []


def flags(tmp_path, **changes):
    """Flags of an export that would work but for the changes."""
    values = {"checkpoint": tmp_path / "w.pth", "output": tmp_path / "model.onnx", "sam_checkpoint": None}
    return argparse.Namespace(**values | {"method": None, "images": None} | changes)


def test_what_cannot_work_is_said_before_anything_is_computed(tmp_path, monkeypatch):
    (tmp_path / "old.onnx").touch()
    with pytest.raises(UserError, match="old.onnx: exists already; remove it or choose another name"):
        export(flags(tmp_path, output=tmp_path / "old.onnx"))
    with pytest.raises(UserError, match=r"model.pth: expected a file name that ends in .onnx"):
        export(flags(tmp_path, output=tmp_path / "model.pth"))
    with pytest.raises(UserError, match="there is no folder .*nowhere; make it"):
        export(flags(tmp_path, output=tmp_path / "nowhere" / "model.onnx"))
    with pytest.raises(MissingPathError, match=r"w.pth: no such checkpoint file"):
        export(flags(tmp_path))
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UserError, match="the package onnxruntime is missing: pip install onnxruntime"):
        export(flags(tmp_path))
    with torch.device("meta"):
        from cad.encoders.sam import SAM_SIZES, Sam

        large = torch.nn.ModuleList([Sam(SAM_SIZES["vit_h"])])
        small = Sam(SAM_SIZES["vit_l"])
    with pytest.raises(UserError, match=r"vit_h: its weights take 2.4 GiB, and one ONNX file holds less than 2 GiB"):
        check_size(large, "vit_h")
    check_size(small, "vit_l")


def test_comparison_images_differ_and_have_the_models_size(tmp_path):
    images = comparison_images(None, 64)
    assert (images.shape, images.dtype) == ((3, 64, 64, 3), np.uint8)
    assert all(image.std() > 5 for image in images)
    folder, _ = write_pairs(tmp_path, count=2)
    assert comparison_images(folder, 64).shape == (2, 64, 64, 3)
    with pytest.raises(MissingPathError, match=r"--images .*none: no such folder"):
        comparison_images(tmp_path / "none", 64)


def test_agreement_is_strict():
    agreement = onnx_export.Agreement
    assert agreement(9e-4, 0.9995).is_enough
    assert not agreement(2e-3, 1.0).is_enough
    assert not agreement(0.0, 0.99).is_enough
    assert not agreement(float("nan"), 1.0).is_enough
