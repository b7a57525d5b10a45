"""What the lean adapter's first convolution sees: the 3x3 taps around every pixel of 7 channels, and their moments.

The channels are image, high frequency and ones, so a patch has 63 values in the order (channel, row tap, column tap).
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from cad.adapters.conv_block import divide_by_peak
from cad.adapters.lean.batch_norm import Moments, product_moments, row_bands
from cad.adapters.lean.features import DILATION

CHANNELS, TAPS = 7, 3
PATCH = CHANNELS * TAPS**2
CENTRE_OF_ONES = (CHANNELS - 1) * TAPS**2 + TAPS**2 // 2


def padded_image(image: Tensor, dtype: torch.dtype) -> Tensor:
    """One image (6, H, W), each channel divided by its peak, and ones, with zeros around: (7, H + 4, W + 4)."""
    scaled = divide_by_peak(image).to(dtype)
    return F.pad(torch.cat((scaled, torch.ones_like(scaled[:1]))), [DILATION] * 4)


def patches_of(padded: Tensor, top: int, bottom: int) -> Tensor:
    """The 3x3 taps around every pixel of rows top..bottom: (63, (bottom - top) * W)."""
    return F.unfold(padded[None, :, top : bottom + 2 * DILATION], kernel_size=3, dilation=DILATION)[0]


@torch.no_grad()
def input_moments(inputs: Tensor, dtype: torch.dtype) -> Moments:
    """Moments of all patches of all images (B, 6, H, W), whose values are rounded to `dtype`."""
    products = torch.zeros(PATCH, PATCH, dtype=torch.float64, device=inputs.device)
    for image in inputs:
        products += patch_products(padded_image(image, dtype))
    return product_moments(products, CENTRE_OF_ONES, len(inputs) * inputs.shape[-2] * inputs.shape[-1])


def patch_products(padded: Tensor) -> Tensor:
    """The sum of patch @ patch' over all pixels of one padded image (7, H + 4, W + 4): (63, 63) in float64.

    The product of a tap in row `i` of a patch and one in row `j` depends on the rows' distance j - i only, but for the
    image's first and last rows: three sums over rows, of 21 column taps each, instead of one over patches of 63.
    """
    height, width = padded.shape[-2] - 2 * DILATION, padded.shape[-1] - 2 * DILATION
    products = padded.new_zeros(CHANNELS, TAPS, TAPS, CHANNELS, TAPS, TAPS, dtype=torch.float64)
    for apart in range(TAPS):
        last = padded.shape[-2] - apart * DILATION
        bands = row_bands(last, 6 * CHANNELS * TAPS * width)  # float64, and up to three copies
        everywhere = sum(row_products(padded, apart, top, bottom) for top, bottom in bands)
        for tap in range(TAPS - apart):
            first = tap * DILATION
            outside = row_products(padded, apart, 0, first) + row_products(padded, apart, first + height, last)
            both = (everywhere - outside).view(CHANNELS, TAPS, CHANNELS, TAPS)
            products[:, tap, :, :, tap + apart] = both
            products[:, tap + apart, :, :, tap] = both.permute(2, 3, 0, 1)
    return products.view(PATCH, PATCH)


def row_products(padded: Tensor, apart: int, top: int, bottom: int) -> Tensor:
    """The sum over rows top..bottom of their column taps times those of the rows `apart` taps below: (21, 21)."""
    width = padded.shape[-1] - 2 * DILATION
    rows = padded[:, top : bottom + apart * DILATION].double()
    taps = torch.stack([rows[..., x * DILATION : x * DILATION + width] for x in range(TAPS)], dim=1).flatten(0, 1)
    return taps[:, : bottom - top].flatten(1) @ taps[:, apart * DILATION :].flatten(1).T
