"""The high-resolution path of `cad_hires`: from the adapter's first two blocks into SAM's mask decoder.

The decoder upscales its embedding twice, from G to 2G (C/4 channels) and to 4G (C/8 channels). At 512 pixels blocks 2
and 1 of the adapter have exactly these sizes:

    x1 (B, C, S/2, S/2) -- hires1, 1x1 -> C/8 ----------------------------------------------+
    x2 (B, C, S/4, S/4) -- hires2, 1x1 -> C/4 --+                                           |
                                                v                                           v
    embedding (B, C, G, G) -- ConvTranspose --(+)-- LayerNorm, GELU -- ConvTranspose --(+)-- GELU -- masks

Added right after the transposed convolutions, so that what follows keeps its scale: the LayerNorm is behind the first
sum. It is where SAM 2 adds the high-resolution features of its encoder (`feat_s1`, `feat_s0`). No bias: the transposed
convolutions have one, which is trained. The weights start from zero, so that the start is CAD.

Source: Ravi et al., "SAM 2: Segment Anything in Images and Videos", arXiv 2408.00714, appendix on the architecture.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from segment_anything.modeling import MaskDecoder
from torch import Tensor, nn


def zero_projection(channels: int, width: int) -> nn.Conv2d:
    """A 1x1 convolution without bias whose weights are zero: (B, channels, H, W) -> (B, width, H, W)."""
    projection = nn.Conv2d(channels, width, kernel_size=1, bias=False)
    nn.init.zeros_(projection.weight)
    return projection


def resized(maps: Tensor, side: int) -> Tensor:
    """Maps (B, c, H, W) at another size (B, c, side, side): averaged where they shrink, else bilinear."""
    height, width = maps.shape[-2:]
    if (height, width) == (side, side):
        return maps
    if height < side or width < side:
        return F.interpolate(maps, (side, side), mode="bilinear", align_corners=False)
    return F.adaptive_avg_pool2d(maps, side)


def fill_in_zeros(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Before a state dict is loaded: CAD's weights lack the path, which means one that adds nothing.

    Args:
        module: what the weights are loaded into, with the projections as `hires1` and `hires2`.
        state: by name, which starts with `prefix`; the missing weights are added to it.
    """
    path = {
        name: value for name, value in module.state_dict(prefix=prefix).items() if name.startswith(f"{prefix}hires")
    }
    if not any(name in state for name in path):
        state.update({name: torch.zeros_like(value) for name, value in path.items()})


@contextmanager
def added_to_upscaling(decoder: MaskDecoder, maps: Sequence[Tensor]) -> Iterator[None]:
    """For calls of `decoder` inside: add maps to the outputs of its two transposed convolutions.

    Hooks for the time of one call keep segment_anything's decoder, and the names of its weights, as they are.

    Args:
        maps: (B, C/4, 2G, 2G) and (B, C/8, 4G, 4G), or none.
    """
    steps = [layer for layer in decoder.output_upscaling if isinstance(layer, nn.ConvTranspose2d)]
    handles = [
        step.register_forward_hook(lambda _layer, _inputs, output, added=added: output + added.to(output.dtype))
        for step, added in (zip(steps, maps, strict=True) if maps else ())
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
