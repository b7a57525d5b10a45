"""(pair, seed, view number) -> the image and mask that a model sees.

A view is a pure function: view 0 is the image as it is, views 1, 2, ... are augmented, each in its own fixed way. So
any process makes the same view at any time, and what is computed from a view can be kept.
"""

import hashlib
from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler
from torchvision import tv_tensors
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as transforms

from cad.datasets.pairs import Pair, read_pair

AUGMENTED_SHARE = 0.5
MAX_SHIFT = 0.0625  # of the side
SCALES = (0.9, 1.1)
MAX_ANGLE = 45.0  # degrees


def resize_image(image: np.ndarray, side: int) -> np.ndarray:
    """Resize an image (H, W, 3) to (side, side, 3), both uint8: bilinear, without antialiasing.

    The aspect ratio is not kept. Source: docs/METHOD.md.
    """
    return cv2.resize(image, (side, side), interpolation=cv2.INTER_LINEAR)


def resize_pair(image: np.ndarray, mask: np.ndarray, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Resize an image as `resize_image` does, and its mask (H, W) to the nearest pixel: (side, side)."""
    return resize_image(image, side), cv2.resize(mask, (side, side), interpolation=cv2.INTER_NEAREST)


def view_generator(name: str, seed: int, view: int) -> np.random.Generator:
    """The random numbers of one view: they depend on these three values and nothing else."""
    digest = hashlib.sha256(f"{seed}/{view}/{name}".encode()).digest()
    return np.random.default_rng(np.frombuffer(digest, dtype=np.uint32))


def augment(image: Tensor, mask: Tensor, random: np.random.Generator) -> tuple[Tensor, Tensor]:
    """With probability 0.5, one of: flip left-right, flip up-down, rotate by 90 degrees, shift-scale-rotate.

    Args:
        image: (3, S, S) uint8.
        mask: (1, S, S) uint8.

    Returns:
        The two, moved together. Source: docs/METHOD.md.
    """
    if random.random() >= AUGMENTED_SHARE:
        return image, mask
    kind = random.integers(4)
    both: list[Tensor] = [tv_tensors.Image(image), tv_tensors.Mask(mask)]
    if kind == 0:
        both = [transforms.horizontal_flip(x) for x in both]
    elif kind == 1:
        both = [transforms.vertical_flip(x) for x in both]
    elif kind == 2:
        turns = int(random.integers(4))
        both = [torch.rot90(x, turns, dims=(-2, -1)) for x in both]
    else:
        both = _shift_scale_rotate(both, random)
    return both[0].as_subclass(Tensor).contiguous(), both[1].as_subclass(Tensor).contiguous()


def _shift_scale_rotate(both: list[Tensor], random: np.random.Generator) -> list[Tensor]:
    """Move an image bilinearly and its mask to the nearest pixel; what comes in from outside is a reflection."""
    side = both[0].shape[-1]
    shift = random.uniform(-MAX_SHIFT, MAX_SHIFT, size=2) * side
    scale, angle = random.uniform(*SCALES), random.uniform(-MAX_ANGLE, MAX_ANGLE)
    # A corner looks up to (0.5 * sqrt(2) + 0.0625 * sqrt(2)) / 0.9 = 0.88 sides away from the centre: 0.38 outside.
    margin = min(int(0.4 * side), side - 1)
    moved = []
    for x in both:
        padded = transforms.pad(x, [margin], padding_mode="reflect")
        padded = transforms.affine(
            padded,
            angle=angle,
            translate=[float(shift[0]), float(shift[1])],
            scale=scale,
            shear=[0.0, 0.0],
            interpolation=InterpolationMode.NEAREST if isinstance(x, tv_tensors.Mask) else InterpolationMode.BILINEAR,
        )
        moved.append(transforms.center_crop(padded, [side, side]))
    return moved


class ViewDataset(Dataset[dict[str, Any]]):
    """Views of pairs, asked for by (index, view number).

    Gives {"image": (3, S, S) uint8 RGB, "mask": (1, S, S) uint8 0 or 1, "name": str}, or raises a UserError where a
    file is no longer what was checked (`cad.datasets.pairs.read_pair`).
    """

    def __init__(self, pairs: list[Pair], image_size: int, seed: int) -> None:
        self.pairs = pairs
        self.image_size = image_size
        self.seed = seed

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index_and_view: tuple[int, int]) -> dict[str, Any]:
        index, view = index_and_view
        pair = self.pairs[index]
        image, mask = resize_pair(*read_pair(pair), self.image_size)
        image_tensor = torch.from_numpy(image).permute(2, 0, 1).contiguous()
        mask_tensor = torch.from_numpy(mask).unsqueeze(0)
        if view > 0:
            image_tensor, mask_tensor = augment(image_tensor, mask_tensor, view_generator(pair.name, self.seed, view))
        return {"image": image_tensor, "mask": mask_tensor, "name": pair.name}


class ViewSampler(Sampler[tuple[int, int]]):
    """The order of one epoch: (index, view number) pairs.

    Training shuffles by (seed, epoch) and shows one of the views 1 to `views`, in turn from epoch to epoch (epochs
    count from 1); evaluation keeps the order and shows view 0. Set `epoch` before each epoch of training, and
    `shown` to how many images of it have been shown, to go on in its middle.

    Args:
        views: how many augmented views there are; 0 shows the images as they are.
        batch_size: images of a batch; needed where several processes share the images.
        rank: number of this process, of `processes` that share them. In training each takes its part of every batch of
            all of them, equal parts but for an epoch's last batch, of which some may get nothing.
    """

    def __init__(
        self,
        length: int,
        seed: int,
        shuffle: bool,
        views: int = 0,
        batch_size: int = 1,
        rank: int = 0,
        processes: int = 1,
    ) -> None:
        self.length = length
        self.seed = seed
        self.shuffle = shuffle
        self.views = views
        self.batch_size = batch_size
        self.rank = rank
        self.processes = processes
        self.epoch = 1
        self.shown = 0

    @property
    def view(self) -> int:
        """The view that this epoch shows."""
        return 1 + (self.epoch - 1) % self.views if self.views else 0

    def views_shown(self, epochs: int) -> list[int]:
        """The different views that so many epochs show."""
        return list(range(1, min(self.views, epochs) + 1)) if self.views and self.shuffle else [0]

    @property
    def left(self) -> int:
        """How many images of this epoch are still to be shown, by all processes."""
        return self.length - self.shown

    def __len__(self) -> int:
        return len(self._own_part())

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return iter([(int(index), self.view) for index in self._own_part()])

    def _own_part(self) -> np.ndarray:
        """The indices that this process shows."""
        if not self.shuffle:
            return np.arange(self.length)[self.rank :: self.processes]
        order = np.random.default_rng([self.seed, self.epoch]).permutation(self.length)[self.shown :]
        batches = np.split(order, range(self.batch_size * self.processes, len(order), self.batch_size * self.processes))
        return np.concatenate([np.array_split(batch, self.processes)[self.rank] for batch in batches])
