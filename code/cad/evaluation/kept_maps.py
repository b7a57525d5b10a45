"""The pictures of an evaluation, read when they are asked for: images, true masks and probability maps.

While an evaluation runs, each method's probability map of each image is kept in its folder as an 8-bit PNG, so that
memory does not grow with the number of images, and figures can show any of them.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from cad.datasets.pairs import Pair, read_image, read_mask
from cad.datasets.scored_images import resize_mask
from cad.files import write_atomically

LONGEST_SIDE = 512  # of pictures, where maps are scored at their original size


class EvaluationPictures:
    """Image, truth and prediction by name, all of one image at one size (H, W).

    The size is that at which metrics are computed; for `original`, at most 512 pixels on the long side.

    Args:
        folder: the evaluation's folder, with the maps that `map_path` names.
        pairs: the test set.
        metric_size: side in pixels, or None for each image's own size.
        mask_threshold: see `cad.datasets.pairs.read_mask`.
    """

    def __init__(
        self, folder: Path, pairs: list[Pair], metric_size: int | None, mask_threshold: int | None = None
    ) -> None:
        self.folder = folder
        self.metric_size = metric_size
        self.mask_threshold = mask_threshold
        self._pairs = {pair.name: pair for pair in pairs}

    def image(self, name: str) -> np.ndarray:
        """The image as RGB (H, W, 3) uint8."""
        image = read_image(self._pairs[name].image)
        if self.metric_size is not None:
            return cv2.resize(image, (self.metric_size, self.metric_size), interpolation=cv2.INTER_LINEAR)
        return _shrink(image, cv2.INTER_AREA)

    def truth(self, name: str) -> np.ndarray:
        """The true mask (H, W) uint8, 1 for foreground and 0 for background."""
        mask = resize_mask(read_mask(self._pairs[name].mask, self.mask_threshold), self.metric_size)
        return mask if self.metric_size is not None else _shrink(mask, cv2.INTER_NEAREST)

    def probability(self, label: str, name: str) -> np.ndarray:
        """A method's probability of foreground (H, W) uint8, 0..255 for 0..1."""
        with Image.open(map_path(self.folder, label, name)) as image:
            array = np.asarray(image)
        return array if self.metric_size is not None else _shrink(array, cv2.INTER_AREA)


def _shrink(array: np.ndarray, interpolation: int) -> np.ndarray:
    """At most 512 pixels on the long side."""
    height, width = array.shape[:2]
    scale = LONGEST_SIDE / max(height, width)
    if scale >= 1:
        return array
    return cv2.resize(array, (max(1, round(width * scale)), max(1, round(height * scale))), interpolation=interpolation)


@dataclass(frozen=True)
class KeptMaps:
    """The files of predictions below an evaluation's folder.

    Args:
        save_masks: keep the maps at the end, and predicted masks beside them.
    """

    folder: Path
    save_masks: bool

    def start(self, label: str) -> None:
        """Make the folders of a method."""
        map_path(self.folder, label, "").parent.mkdir(parents=True)
        if self.save_masks:
            self._mask_path(label, "").parent.mkdir(parents=True)

    def paths(self, label: str, name: str) -> tuple[Path, Path | None]:
        """Where the probability map of an image goes, and its mask if masks are kept."""
        return map_path(self.folder, label, name), self._mask_path(label, name) if self.save_masks else None

    def finish(self) -> None:
        """Remove the maps, unless they are to be kept."""
        if not self.save_masks:
            shutil.rmtree(self.folder / "probabilities", ignore_errors=True)

    def _mask_path(self, label: str, name: str) -> Path:
        return self.folder / "masks" / label / f"{name}.png"


def map_path(folder: Path, label: str, name: str) -> Path:
    """Where the probability map of an image is; `label` and `name` are single file names, never paths."""
    return folder / "probabilities" / label / f"{name}.png"


def write_picture(path: Path, array: np.ndarray) -> None:
    """Write (H, W) uint8 as a PNG, fast rather than small.

    Raises:
        UserError: the disk is full or the folder cannot be written.
    """
    write_atomically(path, lambda file: Image.fromarray(array).save(file, "PNG", compress_level=1), durable=False)
