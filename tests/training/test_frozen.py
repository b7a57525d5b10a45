import pytest
import torch
from torch import nn

from cad.training.frozen import FrozenParameters, checksum


def model():
    layers = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    layers[0].requires_grad_(False)
    return layers


def test_training_what_is_trained_is_fine():
    layers = model()
    frozen = FrozenParameters(layers)
    layers[1].weight.data.add_(1.0)
    frozen.verify()
    assert set(frozen.checksums) == {"0.weight", "0.bias"}


def test_the_smallest_change_of_a_frozen_parameter_is_noticed():
    layers = model()
    frozen = FrozenParameters(layers)
    layers[0].weight.data[2, 1] = torch.nextafter(layers[0].weight.data[2, 1], torch.tensor(9.0))
    with pytest.raises(RuntimeError, match="0.weight is frozen but has changed"):
        frozen.verify()


def test_a_frozen_parameter_that_is_trained_later_is_noticed():
    layers = model()
    frozen = FrozenParameters(layers)
    layers[0].bias.requires_grad_(True)
    with pytest.raises(RuntimeError, match="0.bias is frozen but has changed"):
        frozen.verify()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_checksums_see_every_bit(dtype):
    assert checksum(torch.tensor([0.0], dtype=dtype)) != checksum(torch.tensor([-0.0], dtype=dtype))
    nan = torch.tensor([float("nan")], dtype=dtype)
    assert checksum(nan) == checksum(nan.clone())
