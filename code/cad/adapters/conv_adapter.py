"""The convolutional adapter (CAD): a small network beside the frozen encoder that corrects its embedding.

    image, high frequency (B, 6, S, S)
        |  divide each channel by its maximum
        |  conv_up, 1x1, 6 -> C
        x0 (B, C, S, S)
        |  conv_block1                       a = LeakyReLU(BatchNorm(conv 3x3, dilation 2))
        x1 (B, C, S/2, S/2) ----------+      out = AvgPool2(a + input)
        |  conv_block2                |
        x2 (B, C, S/4, S/4) -------+  |
        |  conv_block3             |  |
        x3 (B, C, S/8, S/8) ----+  |  |
                                v  v  v
                 tanh(sum of the three, pooled to the embedding's grid)  (B, C, G, G)

With a high-resolution path, x1 and x2 go to the mask decoder as well: high_resolution.py.

Module names are the original's, so its weights load. Source: arXiv 2409.15889, section 3; docs/METHOD.md.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cad.adapters.conv_block import ConvBlock, divide_by_peak
from cad.adapters.high_resolution import fill_in_zeros, resized, zero_projection
from cad.adapters.lean.execution import lean_conv_adapter

EXECUTIONS = ("lean", "plain")


class Corrections(NamedTuple):
    """What the adapter adds: to the embedding, and inside the mask decoder."""

    embedding: Tensor  # (B, C, G, G) in (-1, 1)
    maps: tuple[Tensor, ...]  # (B, C/4, 2G, 2G) and (B, C/8, 4G, 4G); none without a high-resolution path


class ConvAdapter(nn.Module):
    """The adapter: (B, 6, S, S) -> a correction (B, C, G, G) in (-1, 1).

    Args:
        channels: C, the width of SAM's image embedding (256).
        grid: G, the side of SAM's image embedding (64).
        in_channels: channels of the input, 6 for image and high frequency.
        execution: "plain" runs the forward below; "lean" computes the same function, gradients and running statistics
            in a fraction of the memory and time (lean_conv_adapter.py), for inputs that need no gradient themselves.
        high_resolution: whether there are maps for the mask decoder too (high_resolution.py).

    Raises:
        ValueError: `execution` is neither.
    """

    def __init__(
        self,
        channels: int,
        grid: int,
        in_channels: int = 6,
        execution: str = "lean",
        high_resolution: bool = False,
    ) -> None:
        super().__init__()
        if execution not in EXECUTIONS:
            raise ValueError(f"execution {execution!r} is unknown: use one of {', '.join(EXECUTIONS)}")
        self.execution = execution
        self.grid = grid
        self.conv_up = nn.Conv2d(in_channels, channels, kernel_size=1)
        self.conv_block1 = ConvBlock(channels)
        self.conv_block2 = ConvBlock(channels)
        self.conv_block3 = ConvBlock(channels)
        self.hires1 = zero_projection(channels, channels // 8) if high_resolution else None
        self.hires2 = zero_projection(channels, channels // 4) if high_resolution else None
        if high_resolution:
            self.register_load_state_dict_pre_hook(fill_in_zeros)

    def projections(self) -> list[nn.Conv2d]:
        """The high-resolution path's 1x1 convolutions of x1 and x2, if there is one."""
        return [projection for projection in (self.hires1, self.hires2) if projection is not None]

    def forward(self, inputs: Tensor) -> Tensor:
        """inputs: (B, 6, S, S), image and high frequency in 0..255, S a multiple of 8 -> (B, C, G, G)."""
        return self.corrections(inputs).embedding

    def corrections(self, inputs: Tensor) -> Corrections:
        """What `forward` returns, and with it the maps for the mask decoder."""
        if self.execution == "lean":
            correction, maps = lean_conv_adapter(self, inputs)
        else:
            correction, maps = self._plain(inputs)
        # Block 2's map is for the decoder's first step, to twice the grid; block 1's for the second.
        sides = (2 * self.grid, 4 * self.grid)
        return Corrections(correction, tuple(resized(*step) for step in zip(reversed(maps), sides, strict=False)))

    def _plain(self, inputs: Tensor) -> tuple[Tensor, list[Tensor]]:
        x1 = self.conv_block1(self.conv_up(divide_by_peak(inputs)))
        x2 = self.conv_block2(x1)
        x3 = self.conv_block3(x2)
        pooled = [F.adaptive_avg_pool2d(x, self.grid) for x in (x1, x2, x3)]
        maps = [projection(x) for projection, x in zip(self.projections(), (x1, x2), strict=False)]
        return torch.tanh(pooled[0] + pooled[1] + pooled[2]), maps
