import pytest
import torch

from cad.adapters.lean import patches as lean_patches
from cad.adapters.lean.patches import input_moments, padded_image, patch_products, patches_of


@pytest.mark.parametrize("height, width", [(8, 8), (16, 24), (40, 16)])
def test_products_are_those_of_the_patches(height, width, monkeypatch):
    monkeypatch.setattr("cad.adapters.lean.batch_norm.BAND_ELEMENTS", 36 * 21 * width)  # bands of six rows
    padded = padded_image(255 * torch.rand(6, height, width, generator=torch.manual_seed(0)), torch.float64)
    patches = patches_of(padded, 0, height)
    assert torch.allclose(patch_products(padded), patches @ patches.T, rtol=0, atol=1e-11)


def test_a_pixel_at_the_corner_by_hand():
    padded = torch.zeros(7, 12, 12)
    padded[0, 2, 2] = 3.0  # the first pixel of an image of 8x8: the patches at (0, 0), (0, 2), (2, 0), (2, 2) see it
    products = patch_products(padded)
    assert products.count_nonzero() == products.diagonal().count_nonzero() == 4
    assert products.diagonal()[[0, 1, 3, 4]].tolist() == [9.0] * 4


def test_moments_are_those_of_all_patches_of_the_batch():
    inputs = 255 * torch.rand(2, 6, 8, 16, generator=torch.manual_seed(0), dtype=torch.float64)
    patches = torch.cat([patches_of(padded_image(one, torch.float64), 0, 8) for one in inputs], dim=1)
    moments = input_moments(inputs, torch.float64)
    assert moments.samples == 2 * 8 * 16
    assert torch.allclose(moments.mean, patches.mean(dim=1), rtol=0, atol=1e-14)
    assert torch.allclose(moments.spread, torch.cov(patches, correction=0), rtol=0, atol=1e-14)
    assert (patches[lean_patches.CENTRE_OF_ONES] == 1).all()
