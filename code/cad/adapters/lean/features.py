"""Operators of the lean adapter on one image's features, and what carries their gradients back.

Features are contiguous (H, W, C): a band of rows is one block of memory, and a 1x1 convolution a matrix product.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from cad.adapters.conv_block import NEGATIVE_SLOPE
from cad.adapters.lean.batch_norm import statistics_dtype

DILATION = 2  # also the width of the zero padding, and of the halo of rows that a band needs above and below


def channels_last(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """A convolution's weight in the features' type and in the layout that is fastest for (H, W, C)."""
    return weight.to(dtype).contiguous(memory_format=torch.channels_last)


def channels_first(features: Tensor) -> Tensor:
    """(H, W, C) -> (1, C, H, W) in PyTorch's channels_last memory format, without a copy."""
    return features[None].permute(0, 3, 1, 2)


def rows_first(features: Tensor) -> Tensor:
    """(1, C, H, W) -> (H, W, C), without a copy where an operator kept the channels_last format."""
    return features.permute(0, 2, 3, 1)[0].contiguous()


def convolve(features: Tensor, weight: Tensor, row_padding: int = DILATION) -> Tensor:
    """The blocks' dilated 3x3 convolution without bias: (H, W, C) -> (H, W, C)."""
    padding = (row_padding, DILATION)
    return rows_first(F.conv2d(channels_first(features), weight, padding=padding, dilation=DILATION))


def pool(features: Tensor) -> Tensor:
    """2x2 average pooling, (H, W, C) -> (H/2, W/2, C)."""
    return rows_first(F.avg_pool2d(channels_first(features), 2))


def add_pool_gradient(total: Tensor, gradient: Tensor) -> None:
    """Add the gradient of `pool`, given that of its result: total (H, W, C), gradient (H/2, W/2, C)."""
    height, width, channels = gradient.shape
    total.view(height, 2, width, 2, channels).add_(gradient[:, None, :, None], alpha=0.25)


def pooled_activation_gradient(gradient: Tensor, activation: Tensor) -> Tensor:
    """The gradient of z in activation = LeakyReLU(z) (H, W, C), given that of pool(activation) (H/2, W/2, C).

    `activation` may be z itself.
    """
    height, width, channels = gradient.shape
    quarters = (gradient * 0.25)[:, None, :, None].expand(height, 2, width, 2, channels)
    # LeakyReLU keeps the sign, so its result tells the slope as well as its input does.
    result = torch.ops.aten.leaky_relu_backward(quarters, activation.view_as(quarters), NEGATIVE_SLOPE, True)
    return result.view(2 * height, 2 * width, channels)


def pool_to_grid(features: Tensor, grid: int) -> Tensor:
    """Adaptive average pooling, (H, W, C) -> (G, G, C)."""
    return rows_first(F.adaptive_avg_pool2d(channels_first(features), grid))


def grid_gradient(gradient: Tensor, height: int, width: int, top: int, bottom: int) -> Tensor:
    """The gradient of `pool_to_grid` for rows top..bottom: (G, G, C) -> (bottom - top, W, C)."""
    grid, _, channels = gradient.shape

    def shares(size: int) -> Tensor:  # (size, G): the share of every pixel in every cell along one axis
        return F.adaptive_avg_pool1d(torch.eye(size, dtype=gradient.dtype, device=gradient.device)[None], grid)[0]

    rows = shares(height)[top:bottom] @ gradient.view(grid, grid * channels)
    return shares(width) @ rows.view(bottom - top, grid, channels)


def turned(weight: Tensor) -> Tensor:
    """The weight of the convolution that carries an output's gradient back to the input."""
    return weight.flip(2, 3).transpose(0, 1).contiguous(memory_format=torch.channels_last)


def with_halo(features: Tensor, top: int, bottom: int) -> Tensor:
    """Rows top - 2 .. bottom + 2 of (H, W, C), zeros outside: all outputs that rows top..bottom reach."""
    above, below = max(top - DILATION, 0), min(bottom + DILATION, features.shape[0])
    missing = (above - (top - DILATION), bottom + DILATION - below)
    return F.pad(features[above:below], (0, 0, 0, 0, *missing)) if any(missing) else features[above:below]


def turned_weight_gradient(halo: Tensor, features: Tensor) -> Tensor:
    """The gradient of `turned(weight)` from a band of the convolution's input and the gradient of all it reaches.

    <y gradient, convolve(x, weight)> = <convolve(y gradient, turned weight), x>, so it is the weight gradient of the
    turned convolution. This way round the halo is on the gradient, which is in memory, and not on x, which is not.
    One matrix product a tap: on a CPU that is faster than PyTorch's own weight gradient.
    """
    rows, width, channels = features.shape
    halo = F.pad(halo, (0, 0, DILATION, DILATION))
    pixels = features.reshape(-1, channels).T
    offsets = (0, DILATION, 2 * DILATION)
    taps = [pixels @ halo[y : y + rows, x : x + width].reshape(-1, channels) for y in offsets for x in offsets]
    return torch.stack(taps, dim=-1).view(channels, channels, 3, 3)


def project(features: Tensor, weight: Tensor) -> Tensor:
    """A 1x1 convolution without bias, its result as the mask decoder takes it: (H, W, C), (c, C) -> (c, H, W)."""
    return (weight @ features.flatten(0, 1).T).view(-1, *features.shape[:2])


class ProjectionGradient:
    """Carries the gradient of `project` back to its input and its weight, a band of rows at a time.

    Args:
        weight: (c, C).
        of_maps: (B, c, H, W), the gradient of what `project` made of every image.

    Attributes:
        of_weight: (c, C), the sum over the bands so far.
    """

    def __init__(self, weight: Tensor, of_maps: Tensor) -> None:
        self.weight = weight
        self.of_maps = of_maps
        self.of_weight = torch.zeros_like(weight, dtype=statistics_dtype(weight.dtype))

    def carry_back(self, image: int, top: int, features: Tensor, total: Tensor) -> None:
        """Add the gradient of a band of features (rows, W, C) of one image to `total`, of the same shape."""
        rows, _, channels = features.shape
        of_map = self.of_maps[image, :, top : top + rows].flatten(1)
        self.of_weight += of_map @ features.view(-1, channels)
        total.view(-1, channels).addmm_(of_map.T, self.weight)
