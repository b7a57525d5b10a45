"""Images -> masks in Python: what `cad.load` gives, and the steps of which the prediction of folders is made.

An image is prepared as for an evaluation: resized to the model's square; its logits are upsampled to the image's size.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import inf, log
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import expit

from cad.datasets.pairs import read_image
from cad.datasets.views import resize_image
from cad.errors import UserError
from cad.prediction.model import MaskModel
from cad.prediction.tiles import Tile, add_tile, lay_tiles, upsample


@dataclass(frozen=True)
class PredictionSettings:
    """What a mask depends on beside model and image.

    Args:
        threshold: probabilities above it, 0..1, are foreground.
        tile: side in pixels of the tiles in which a larger image is predicted, or None: every image as a whole.
        overlap: pixels that neighbouring tiles share, below `tile`; None for an eighth of it.
        flip_average: average the logits of the image and of its mirror image.

    Raises:
        UserError: a value is out of its range, or an overlap without tiles.
    """

    threshold: float = 0.5
    tile: int | None = None
    overlap: int | None = None
    flip_average: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.threshold <= 1:
            raise UserError(f"threshold {self.threshold}: expected a probability from 0 to 1")
        if self.tile is not None and self.tile < 1:
            raise UserError(f"tile {self.tile}: expected a side of at least 1 pixel")
        if self.overlap is None:
            object.__setattr__(self, "overlap", 0 if self.tile is None else self.tile // 8)
        elif self.tile is None:
            raise UserError(f"overlap {self.overlap}: only tiles overlap; set a tile too, or leave it out")
        elif not 0 <= self.overlap < self.tile:
            raise UserError(f"overlap {self.overlap}: expected 0 or more and less than the tile, {self.tile}")

    @property
    def threshold_logit(self) -> float:
        """The logit above which a pixel is foreground."""
        if self.threshold in (0, 1):
            return -inf if self.threshold == 0 else inf
        return log(self.threshold / (1 - self.threshold))


@dataclass(frozen=True)
class PreparedImage:
    """An image on its way into the model.

    Args:
        size: (H, W) of the image.
        tiles: its tiles.
        pixels: the model's input (S, S, 3) uint8 if there is one tile, else the whole image (H, W, 3) uint8.
    """

    size: tuple[int, int]
    tiles: list[Tile]
    pixels: np.ndarray


class Predictor:
    """Predicts the masks of images of any size. Made by `cad.load`.

    Args:
        batch_size: images, or tiles of an image, that the model computes at once.
    """

    def __init__(self, model: MaskModel, settings: PredictionSettings | None = None, batch_size: int = 4) -> None:
        self.model = model
        self.settings = settings or PredictionSettings()
        self.batch_size = batch_size

    def predict(self, images: Any) -> Any:
        """The masks of images, True for foreground.

        Args:
            images: an RGB image (H, W, 3) uint8; a path; a batch (B, H, W, 3) uint8; or a list of images and paths.

        Returns:
            (H, W) bool for an image or a path, (B, H, W) bool for a batch, a list of (H, W) bool for a list.

        Raises:
            UserError: an array of another type or shape, or a file that cannot be read.
        """
        return self._each(images, lambda logits: logits > self.settings.threshold_logit)

    def probabilities(self, images: Any) -> Any:
        """As `predict`, but the probability of foreground of every pixel: float32 in 0..1."""
        return self._each(images, lambda logits: expit(logits, out=logits))

    def prepare(self, image: np.ndarray) -> PreparedImage:
        """Lay the tiles of an image (H, W, 3) uint8; resize it if it is one."""
        height, width = image.shape[:2]
        tiles = lay_tiles(height, width, self.settings.tile, self.settings.overlap or 0)
        pixels = image if len(tiles) > 1 else resize_image(image, self.model.image_size)
        return PreparedImage((height, width), tiles, pixels)

    def logits(self, images: Sequence[PreparedImage]) -> list[np.ndarray]:
        """The mask logits of each image, float32: (S, S) of an image of one tile, to be upsampled; else (H, W).

        Raises:
            UserError: the model gives values that are not finite.
        """
        whole = [image for image in images if len(image.tiles) == 1]
        of_whole = self._batched(image.pixels for image in whole)
        return [next(of_whole) if len(image.tiles) == 1 else self._tiled(image) for image in images]

    def _tiled(self, image: PreparedImage) -> np.ndarray:
        crops = (image.pixels[tile.rows.pixels, tile.columns.pixels] for tile in image.tiles)
        canvas = np.zeros(image.size, np.float32)
        inputs = (resize_image(crop, self.model.image_size) for crop in crops)
        for tile, logits in zip(image.tiles, self._batched(inputs), strict=True):
            add_tile(canvas, tile, logits)
        return canvas

    def _batched(self, inputs: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
        """Logits (S, S) of each input (S, S, 3), `batch_size` of them at a time."""
        batch: list[np.ndarray] = []
        for one in inputs:
            batch.append(one)
            if len(batch) == self.batch_size:
                yield from self._computed(np.stack(batch))
                batch = []
        if batch:
            yield from self._computed(np.stack(batch))

    def _computed(self, batch: np.ndarray) -> np.ndarray:
        """(B, S, S, 3) uint8 -> (B, S, S) float32."""
        logits = self.model.mask_logits(batch)[:, 0]
        if self.settings.flip_average:
            mirrored = self.model.mask_logits(np.ascontiguousarray(batch[:, :, ::-1]))[:, 0]
            logits = (logits + mirrored[:, :, ::-1]) / 2
        if not np.isfinite(logits).all():
            raise UserError("the model predicts values that are not finite; its training has diverged")
        return logits

    def _each(self, images: Any, finish: Callable[[np.ndarray], np.ndarray]) -> Any:
        """Predict one image, a batch or a list, and give back the same kind of thing."""
        if isinstance(images, str | Path):
            return self._finished([images], finish)[0]
        if isinstance(images, list | tuple):
            return self._finished(images, finish)
        if isinstance(images, np.ndarray) and images.ndim == 4:
            check_pixels(images, ("B", "H", "W", "3"))
            return np.stack(self._finished(list(images), finish))
        return self._finished([images], finish)[0]

    def _finished(self, images: Sequence[Any], finish: Callable[[np.ndarray], np.ndarray]) -> list[np.ndarray]:
        results = []
        for first in range(0, len(images), self.batch_size):
            prepared = [self.prepare(_as_image(image)) for image in images[first : first + self.batch_size]]
            for image, logits in zip(prepared, self.logits(prepared), strict=True):
                results.append(finish(upsample(logits, *image.size)))
        return results


def _as_image(image: Any) -> np.ndarray:
    """An image as (H, W, 3) uint8, read if it is a path."""
    if isinstance(image, str | Path):
        return read_image(Path(image))
    check_pixels(image, ("H", "W", "3"))
    return image


def check_pixels(array: Any, shape: tuple[str, ...]) -> None:
    """Raise a UserError unless it is a uint8 array of RGB pixels of that shape, without an empty side."""
    expected = f"an RGB array ({', '.join(shape)}) of uint8, a path, or a list of these"
    if not isinstance(array, np.ndarray):
        raise UserError(f"image: expected {expected}; found {type(array).__module__}.{type(array).__qualname__}")
    if array.dtype != np.uint8 or array.ndim != len(shape) or array.shape[-1] != 3 or 0 in array.shape:
        raise UserError(f"image: expected {expected}; found {array.dtype} of shape {array.shape}")
