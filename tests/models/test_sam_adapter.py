from functools import partial

import torch
from golden_values import assert_close, golden, gradient_weights, under
from segment_anything.modeling import ImageEncoderViT
from torch import nn

from cad.models.sam import normalise_for_encoder
from cad.models.sam_adapter import SamAdapterEncoder


def pattern(channels: int, height: int, width: int) -> torch.Tensor:
    """The golden encoder's input before normalisation, (C, H, W) in 0..255."""
    y = torch.arange(height, dtype=torch.float64).view(1, -1, 1) / height
    x = torch.arange(width, dtype=torch.float64).view(1, 1, -1) / width
    k = torch.arange(channels, dtype=torch.float64).view(-1, 1, 1)
    waves = 100 * torch.sin(2 * torch.pi * ((3 + k) * y + (5 - k) * x) + 0.7 * k)
    ripples = 20 * torch.cos(2 * torch.pi * (31 + 7 * k) * x * y)
    return (127.5 + waves + ripples).clamp(0, 255).round()


def test_equals_the_golden_values():
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
    adapted = SamAdapterEncoder(encoder, tune_width=12, hidden_width=8).double()
    # The original names the shared up-projection once more in every block.
    state = {name: value for name, value in under(values, "state").items() if ".up_projection." not in name}
    adapted.load_state_dict(state, strict=True)

    output = adapted(normalise_for_encoder(pattern(3, 1024, 1024).unsqueeze(0)))
    assert_close(output, values["output"], 1e-9)
    (output * gradient_weights(output)).sum().backward()
    for name, expected in under(values, "grad").items():
        assert_close(adapted.get_parameter(name).grad, expected, 1e-9, name)
