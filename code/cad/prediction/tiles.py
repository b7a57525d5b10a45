"""An image in overlapping tiles, and their mask logits put together again without seams.

Logits are blended, not probabilities: they are what is upsampled too, so that an image of one tile gives the numbers of
the whole image, and tiles, flips and upsampling are one linear map.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F


@dataclass(frozen=True, eq=False)
class Span:
    """A tile along one axis: its first pixel, and the weight of each of its pixels in the blend, (length,) float32."""

    start: int
    weights: np.ndarray

    @property
    def pixels(self) -> slice:
        """Where it is in the image."""
        return slice(self.start, self.start + len(self.weights))


@dataclass(frozen=True, eq=False)
class Tile:
    """A rectangle of an image."""

    rows: Span
    columns: Span


def spans(length: int, side: int, overlap: int) -> list[Span]:
    """Tiles of `side` pixels over an axis of `length`: evenly spaced, neighbours sharing at least `overlap` pixels.

    Weights rise and fall linearly over the overlap, not at the ends of the axis, and sum to 1 at every pixel.
    """
    side = min(side, length)
    number = 1 if side == length else -(-(length - overlap) // (side - overlap))
    starts = np.linspace(0, length - side, number).round().astype(int)
    ramp = np.minimum(1, (np.arange(side) + 0.5) / max(overlap, 1))
    total, shares = np.zeros(length), []
    for position, start in enumerate(starts):
        rising = ramp if position > 0 else 1
        falling = ramp[::-1] if position < number - 1 else 1
        shares.append(np.ones(side) * rising * falling)
        total[start : start + side] += shares[-1]
    return [
        Span(int(start), (share / total[start : start + side]).astype(np.float32))
        for start, share in zip(starts, shares, strict=True)
    ]


def lay_tiles(height: int, width: int, side: int | None, overlap: int) -> list[Tile]:
    """The tiles of an image, row by row; with side None one over all of it. A tile is never larger than the image."""
    rows = spans(height, side or height, overlap)
    columns = spans(width, side or width, overlap)
    return [Tile(row, column) for row in rows for column in columns]


def upsample(logits: np.ndarray, height: int, width: int) -> np.ndarray:
    """(S, S) float32 -> (height, width), bilinear, as an evaluation does it; the same array if it has that size."""
    if logits.shape == (height, width):
        return logits
    full = F.interpolate(torch.from_numpy(logits)[None, None], (height, width), mode="bilinear", align_corners=False)
    return full[0, 0].numpy()


def add_tile(canvas: np.ndarray, tile: Tile, logits: np.ndarray) -> None:
    """Add a tile's share to the logits of its image.

    Args:
        canvas: (H, W) float32, zero before the first tile; changed in place.
        logits: (S, S) float32 of the tile.
    """
    share = upsample(logits, len(tile.rows.weights), len(tile.columns.weights))
    canvas[tile.rows.pixels, tile.columns.pixels] += share * tile.rows.weights[:, None] * tile.columns.weights
