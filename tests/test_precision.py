import pytest
import torch

from cad.encoders.sam import SAM_SIZES, build_random_sam
from cad.precision import PRECISIONS, autocast, gradient_scaler, halve_frozen_weights, pick_precision

CPU = torch.device("cpu")


def test_fp32_changes_nothing():
    layer = torch.nn.Linear(2, 2).requires_grad_(False)
    halve_frozen_weights(layer, "fp32")
    with autocast("fp32", CPU):
        assert layer(torch.ones(1, 2)).dtype == torch.float32
    assert pick_precision("bf16", CPU) == "bf16"


def test_a_gpu_without_bf16_falls_back_and_says_so(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: False)
    assert pick_precision("bf16", torch.device("cuda")) == "fp32"
    assert capsys.readouterr().out == "bf16: not supported by this GPU, using fp32\n"


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_halved_frozen_weights_give_what_autocast_gives(precision):
    encoder = build_random_sam(SAM_SIZES["vit_demo"], 0).image_encoder.requires_grad_(False).eval()
    image = torch.randn(1, 3, 256, 256)
    with torch.no_grad(), autocast(precision, CPU):
        expected = encoder(image)
        halve_frozen_weights(encoder, precision)
        assert encoder.blocks[0].mlp.lin1.weight.dtype == PRECISIONS[precision]
        assert torch.equal(encoder(image), expected)


def test_trained_weights_stay_in_full_precision():
    module = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))
    module[0].requires_grad_(False)
    halve_frozen_weights(module, "bf16")
    assert [layer.weight.dtype for layer in module] == [torch.bfloat16, torch.float32]


def test_only_fp16_scales_its_loss():
    assert [gradient_scaler(name, CPU).is_enabled() for name in ("fp32", "bf16", "fp16")] == [False, False, True]
