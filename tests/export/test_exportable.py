import numpy as np
import pytest
import torch
from trained import random_images, trained_segmenter

from cad.adapters.conv_adapter import ConvAdapter
from cad.adapters.high_frequency import high_frequency
from cad.encoders.sam import resize_for_encoder
from cad.export import exportable
from cad.export.exportable import ExportableSegmenter, FixedHighFrequency, FixedResize, FoldedConvAdapter


@pytest.mark.parametrize("size", [16, 33, 128])
def test_high_frequency_as_matrix_products(size):
    images = torch.from_numpy(random_images(2, size)).permute(0, 3, 1, 2)
    found = FixedHighFrequency(size)(images / 255)
    assert (found - high_frequency(images.double() / 255)).abs().max() < 1e-5
    assert found.max() > 0.1


@pytest.mark.parametrize(("side", "encoder_side"), [(128, 256), (96, 256), (256, 256), (80, 64)])
def test_resize_is_pillows_to_the_last_bit_when_it_enlarges_and_within_a_level_when_it_shrinks(side, encoder_side):
    image = random_images(1, side)[0]
    found = FixedResize(side, encoder_side)(torch.from_numpy(image).permute(2, 0, 1)[None].float())
    difference = found[0].permute(1, 2, 0).numpy() - resize_for_encoder(image, encoder_side).astype(np.float32)
    if encoder_side >= side:
        assert not difference.any()
    else:  # Pillow's weights have 22 bits, which decides the ties
        assert np.abs(difference).max() <= 1 and (difference != 0).mean() < 0.05


@pytest.mark.parametrize("image_size", [64, 80])
def test_the_folded_adapter_is_the_plain_one_in_eval_mode(image_size):
    torch.manual_seed(0)
    adapter = ConvAdapter(channels=16, grid=8, execution="plain")
    for parameter in adapter.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    inputs = 255 * torch.rand(2, 6, image_size, image_size)
    with torch.no_grad():
        adapter.train()(inputs)
        expected = adapter.eval()(inputs)
        found = FoldedConvAdapter(adapter, image_size)(inputs).embedding
    assert expected.std() > 0.1
    assert (found - expected).abs().max() < 1e-5


@pytest.mark.parametrize(
    ("method", "design"),
    [
        ("cad", {}),
        ("cad", {"adapter": "cad_hires"}),
        ("cad", {"adapter": "cad_hires", "adapter_gate": "channel", "high_frequency": False}),
        ("cad", {"adapter_gate": "relative", "adapter_scale": 0.5}),
        ("sam_adapter", {}),
        ("decoder", {}),
    ],
)
@pytest.mark.parametrize("image_size", [64, 256])  # where the path's maps are enlarged, and where they shrink
def test_equals_the_segmenter_and_leaves_it_alone(method, design, image_size, monkeypatch):
    monkeypatch.setattr(exportable, "MOST_QUERIES", 100)  # of 256: parts that do not divide them
    segmenter, _ = trained_segmenter(method, image_size, **design)
    images = torch.from_numpy(random_images(2, image_size))
    with torch.no_grad():
        expected = segmenter(images.permute(0, 3, 1, 2))
        found = ExportableSegmenter(segmenter, image_size)(images)
        again = segmenter(images.permute(0, 3, 1, 2))
    assert expected.std() > 0.02
    assert (found - expected).abs().max() < 1e-5 * expected.abs().max()
    assert torch.equal(again, expected)
    assert any(parameter.requires_grad for parameter in segmenter.parameters())
