from copy import deepcopy
from functools import partial

import pytest
import torch
from golden_values import assert_close, gradient_weights
from segment_anything.modeling.image_encoder import Attention, Block
from torch import nn

from cad.encoders.attention import MOST_TOKENS_WITH_BIAS, LeanAttention, use_lean_attention, use_plain_attention
from cad.encoders.sam import SAM_SIZES, Sam, build_random_sam
from cad.training.memory.live_storages import LiveStorages


def build_attention(input_size, dim=24, heads=3, **options):
    attention = Attention(dim, heads, use_rel_pos=True, input_size=input_size, **options)
    randomise_positions(attention)
    return attention


def randomise_positions(attention):
    torch.manual_seed(1)
    for table in (attention.rel_pos_h, attention.rel_pos_w):
        nn.init.normal_(table)  # zero at first, which would hide a wrong position


def as_lean(attention):
    lean = deepcopy(attention)
    lean.__class__ = LeanAttention
    return lean


def assert_same_function(lean, plain, inputs, tolerance):
    """Outputs, the input's gradient and every parameter's gradient."""
    gradients = []
    for module in (plain, lean):
        leaf = inputs.clone().requires_grad_()
        output = module(leaf)
        (output * gradient_weights(output).to(output.dtype)).sum().backward()
        gradients.append({"output": output.detach(), "input": leaf.grad} | dict(module.named_parameters()))
    expected_values, found_values = gradients
    for name, expected in expected_values.items():
        found = found_values[name]
        if isinstance(expected, nn.Parameter):
            assert expected.grad is not None and expected.grad.abs().max() > 0, name
            expected, found = expected.grad, found.grad
        assert_close(found, expected, tolerance, name)


# Square or not, with tables made for this grid or for another one.
GRIDS = {
    "small": ((12, 12), (12, 12)),
    "small_wide": ((7, 11), (7, 11)),
    "small_interpolated": ((7, 11), (9, 6)),
    "large": ((20, 20), (20, 20)),
    "large_wide": ((12, 31), (12, 31)),
    "large_interpolated": ((18, 19), (8, 25)),
}


@pytest.mark.parametrize(("grid", "table"), GRIDS.values(), ids=GRIDS.keys())
def test_equals_the_original_in_float64(grid, table):
    plain = build_attention(table).double()
    lean = as_lean(plain)
    inputs = torch.randn(2, *grid, 24, dtype=torch.float64)
    assert_same_function(lean, plain, inputs, 1e-9)
    with torch.no_grad():  # another form on small grids
        assert_close(lean(inputs), plain(inputs), 1e-9)


@pytest.mark.parametrize("grid", [(14, 14), (32, 32)], ids=["window", "global"])
def test_equals_the_original_in_float32_at_the_head_width_of_vit_b(grid):
    plain = build_attention(grid, dim=128, heads=2)
    lean, inputs = as_lean(plain), torch.randn(1, *grid, 128)
    assert_same_function(lean, plain, inputs, 1e-4)
    with torch.no_grad():
        assert_close(lean(inputs), plain(inputs), 1e-4)


def test_the_grids_cover_both_forms():
    tokens = [rows * columns for (rows, columns), _ in GRIDS.values()]
    assert min(tokens) < MOST_TOKENS_WITH_BIAS < max(tokens)


@pytest.mark.parametrize("grid", [(14, 14), (20, 20)])
def test_equals_the_original_without_relative_positions(grid):
    plain = Attention(24, 3).double()
    assert_same_function(as_lean(plain), plain, torch.randn(1, *grid, 24, dtype=torch.float64), 1e-9)


@pytest.mark.parametrize("window_size", [7, 14, 18])
def test_equals_the_original_in_padded_windows(window_size):
    block = Block(24, 3, use_rel_pos=True, norm_layer=partial(nn.LayerNorm, eps=1e-6), window_size=window_size)
    block = block.double()
    randomise_positions(block.attn)
    lean = deepcopy(block)
    lean.attn.__class__ = LeanAttention
    # 20 x 17 tokens fill no whole number of windows: the rest is padded with zeros
    assert_same_function(lean, block, torch.randn(2, 20, 17, 24, dtype=torch.float64), 1e-9)


@pytest.mark.parametrize("grid", [(14, 14), (20, 20)], ids=["window", "global"])
def test_bfloat16_stays_near_float32(grid):
    plain = build_attention(grid)
    lean = as_lean(plain)
    inputs = torch.randn(1, *grid, 24)
    expected = plain(inputs)
    with torch.autocast("cpu", torch.bfloat16):
        leaf = inputs.clone().requires_grad_()
        output = lean(leaf)
    assert output.dtype == torch.bfloat16
    assert_close(output, expected, 0.03)
    output.float().sum().backward()
    assert torch.isfinite(leaf.grad).all() and leaf.grad.dtype == torch.float32
    with torch.no_grad():
        with torch.autocast("cpu", torch.bfloat16):
            assert_close(lean(inputs), expected, 0.03)
        assert_close(lean.bfloat16()(inputs.bfloat16()), expected, 0.03)


@pytest.mark.parametrize("backward", [False, True])
def test_a_global_attention_never_holds_the_matrix(backward):
    tokens, heads, dim = 64 * 64, 4, 48
    attention = as_lean(build_attention((64, 64), dim, heads)).requires_grad_(False)
    inputs = torch.randn(1, 64, 64, dim, requires_grad=backward)
    with LiveStorages() as live, torch.set_grad_enabled(backward):
        output = attention(inputs)
        if backward:
            output.sum().backward()
    matrix_bytes = tokens * tokens * inputs.element_size()  # of one head; the original holds three for every head
    assert live.largest_bytes < matrix_bytes / 4
    assert live.peak_bytes < heads * matrix_bytes / 3


def test_windows_with_gradient_store_no_attention_maps():
    attention = as_lean(build_attention((14, 14), dim=64, heads=4)).requires_grad_(False)
    inputs = torch.randn(2, 14, 14, 64, requires_grad=True)
    with LiveStorages() as live:
        attention(inputs).sum().backward()
    assert live.largest_bytes < 2 * 4 * 196 * 196 * inputs.element_size()


def test_sam_has_lean_attention_and_can_have_the_original_back():
    encoder = build_random_sam(SAM_SIZES["vit_demo"], seed=1).image_encoder
    parameters = dict(encoder.named_parameters())
    for name, parameter in parameters.items():
        if "rel_pos" in name:
            nn.init.normal_(parameter)
    images = torch.randn(1, 3, 256, 256)
    outputs = {}
    for switch, attention_class in ((use_plain_attention, Attention), (use_lean_attention, LeanAttention)):
        switch(encoder)
        assert all(type(block.attn) is attention_class for block in encoder.blocks)
        assert all(parameter is parameters[name] for name, parameter in encoder.named_parameters())
        with torch.no_grad():
            outputs[attention_class] = encoder(images)
    assert_close(outputs[LeanAttention], outputs[Attention], 1e-4)


def test_lean_is_the_default():
    with torch.device("meta"):
        sam = Sam(SAM_SIZES["vit_b"])
    assert all(type(block.attn) is LeanAttention for block in sam.image_encoder.blocks)
