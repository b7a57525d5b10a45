"""The high-frequency component of an image, which both adapters see. Source: docs/METHOD.md."""

import math

import torch
from torch import Tensor


def high_frequency(images: Tensor, tau: float = 0.25) -> Tensor:
    """Remove the centre of the spectrum and return the magnitude of what is left.

    Args:
        images: (..., H, W), floating point, any range.
        tau: share of the spectrum's area that is removed around frequency zero, in (0, 1).

    Returns:
        (..., H, W), the absolute value of the filtered image, in the units of `images`.

    Source: Liu et al., "Explicit Visual Prompting for Low-Level Structure Segmentations", CVPR 2023, section 3.2.
    """
    height, width = images.shape[-2:]
    half = int(math.sqrt(height * width * tau) // 2)
    keep = torch.ones(height, width, dtype=images.dtype, device=images.device)
    top, left = max(height // 2 - half, 0), max(width // 2 - half, 0)
    keep[top : height // 2 + half, left : width // 2 + half] = 0
    # The mask moves to the spectrum's own order (zero frequency first): cheaper than shifting every spectrum.
    keep = torch.fft.ifftshift(keep)
    spectrum = torch.fft.fft2(images, norm="forward") * keep
    return torch.fft.ifft2(spectrum, norm="forward").real.abs()
