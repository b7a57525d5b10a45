from functools import partial

import pytest
import torch
from golden_values import assert_close, golden, gradient_weights, under
from segment_anything.modeling import ImageEncoderViT
from torch import nn

from cad.adapters.sam_adapter import SamAdapterEncoder
from cad.encoders.attention import use_lean_attention
from cad.encoders.sam import SAM_SIZES, build_random_sam, normalise_for_encoder
from cad.training.memory.live_storages import LiveStorages


def pattern(channels: int, height: int, width: int) -> torch.Tensor:
    """The golden encoder's input before normalisation, (C, H, W) in 0..255."""
    y = torch.arange(height, dtype=torch.float64).view(1, -1, 1) / height
    x = torch.arange(width, dtype=torch.float64).view(1, 1, -1) / width
    k = torch.arange(channels, dtype=torch.float64).view(-1, 1, 1)
    waves = 100 * torch.sin(2 * torch.pi * ((3 + k) * y + (5 - k) * x) + 0.7 * k)
    ripples = 20 * torch.cos(2 * torch.pi * (31 + 7 * k) * x * y)
    return (127.5 + waves + ripples).clamp(0, 255).round()


@pytest.mark.parametrize("lean", [True, False], ids=["lean_attention", "plain_attention"])
def test_equals_the_golden_values(lean):
    values = golden("sam_adapter_encoder")
    encoder = ImageEncoderViT(
        img_size=1024,
        embed_dim=48,
        depth=2,
        num_heads=4,
        mlp_ratio=2,
        out_chans=16,
        use_rel_pos=True,
        window_size=14,
        global_attn_indexes=(1,),
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
    )
    if lean:
        use_lean_attention(encoder)
    adapted = SamAdapterEncoder(encoder, tune_width=12, hidden_width=8).double()
    # The original names the shared up-projection once more in every block.
    state = {name: value for name, value in under(values, "state").items() if ".up_projection." not in name}
    adapted.load_state_dict(state, strict=True)

    output = adapted(normalise_for_encoder(pattern(3, 1024, 1024).unsqueeze(0)))
    assert_close(output, values["output"], 1e-9)
    (output * gradient_weights(output)).sum().backward()
    for name, expected in under(values, "grad").items():
        assert_close(adapted.get_parameter(name).grad, expected, 1e-9, name)


@pytest.fixture
def demo_encoder():
    torch.manual_seed(0)
    return SamAdapterEncoder(build_random_sam(SAM_SIZES["vit_demo"], seed=1).image_encoder)


def outputs_and_gradients(encoder, inputs):
    encoder.zero_grad()
    output = encoder(inputs)
    (output * gradient_weights(output)).sum().backward()
    return [output.detach(), *(layer.grad for layer in encoder.parameters() if layer.grad is not None)]


def test_gradient_checkpointing_changes_no_output_and_no_gradient(demo_encoder):
    encoder = demo_encoder.double()
    inputs = torch.randn(2, 3, 256, 256, dtype=torch.float64)
    kept = outputs_and_gradients(encoder, inputs)
    encoder.grad_checkpointing = True
    recomputed = outputs_and_gradients(encoder, inputs)
    assert len(kept) == len(recomputed) > 60
    for found, expected in zip(recomputed, kept, strict=True):
        assert_close(found, expected, 1e-12)


def test_gradient_checkpointing_keeps_less_for_backward(demo_encoder):
    encoder = demo_encoder.requires_grad_(False)
    for layer in encoder.adapter_layers():
        layer.requires_grad_(True)
    inputs = torch.randn(1, 3, 256, 256)
    kept = {}
    for encoder.grad_checkpointing in (False, True):
        with LiveStorages() as live:
            output = encoder(inputs)
            kept[encoder.grad_checkpointing] = live.current_bytes
        del output
    assert kept[True] < 0.5 * kept[False]
