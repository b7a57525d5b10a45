"""The building blocks of the convolutional adapter, which its plain and its lean execution share.

Source: arXiv 2409.15889, section 3; docs/METHOD.md.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cad.adapters.high_frequency import high_frequency

NEGATIVE_SLOPE = 0.1
PEAK_OFFSET = 1e-5


def adapter_input(images: Tensor, with_high_frequency: bool = True) -> Tensor:
    """Images (B, 3, S, S) in 0..255 -> images and their high-frequency components, or zeros (B, 6, S, S)."""
    return torch.cat((images, high_frequency(images) if with_high_frequency else torch.zeros_like(images)), dim=1)


def divide_by_peak(inputs: Tensor) -> Tensor:
    """Divide every channel of every image by its own spatial maximum (plus 1e-5): (B, C, H, W), at most 1."""
    return inputs / (inputs.amax(dim=(-2, -1), keepdim=True) + PEAK_OFFSET)


class ConvBlock(nn.Module):
    """Dilated convolution, BatchNorm, LeakyReLU, shortcut, 2x2 average pooling: (B, C, H, W) -> (B, C, H/2, W/2)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, kernel_size=3, padding="same", dilation=2)
        self.bn = nn.BatchNorm2d(channels)
        nn.init.kaiming_normal_(self.conv.weight, mode="fan_out", nonlinearity="relu")
        nn.init.zeros_(self.conv.bias)  # type: ignore[arg-type]  # nn.Conv2d types its bias as optional

    def forward(self, x: Tensor) -> Tensor:
        activation = F.leaky_relu(self.bn(self.conv(x)), NEGATIVE_SLOPE)
        return F.avg_pool2d(activation + x, 2)
