"""Reading tests/golden, and the one way in which values are compared with it."""

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

GOLDEN = Path(__file__).parent / "golden"


def golden(name: str) -> dict[str, Tensor]:
    return load_file(GOLDEN / f"{name}.safetensors")


def under(values: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The entries whose name starts with `prefix.`, without it."""
    return {name[len(prefix) + 1 :]: value for name, value in values.items() if name.startswith(prefix + ".")}


def gradient_weights(output: Tensor) -> Tensor:
    """The fixed weights of golden/README.md, by which an output is summed before its gradient is taken."""
    return torch.cos(0.37 * torch.arange(output.numel(), dtype=torch.float64)).reshape(output.shape)


def assert_close(found: Tensor, expected: Tensor, tolerance: float, name: str = "") -> None:
    """Assert that two tensors differ by at most `tolerance` of the largest value compared."""
    assert found.shape == expected.shape, name
    scale = max(expected.abs().max().item(), 1e-300)
    difference = (found.double() - expected.double()).abs().max().item()
    assert difference <= tolerance * scale, f"{name}: differs by {difference / scale:.2e} of {scale:.3g}"
