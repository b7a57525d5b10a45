"""Pairs -> what an evaluation needs: the image at the model's size, the mask at the size that is scored."""

from typing import Any

import cv2
import numpy as np
import torch
from torch.utils.data import Dataset

from cad.datasets.pairs import Pair, read_pair
from cad.datasets.views import resize_pair


class ScoredImages(Dataset[dict[str, Any]]):
    """Images as they are, without augmentation.

    Gives {"image": (3, S, S) uint8 RGB, "mask": (H, W) uint8 0 or 1, "name": str}.

    Args:
        image_size: S.
        metric_size: H = W; None keeps each mask at its own size.
        mask_threshold: see `cad.datasets.pairs.read_mask`.
    """

    def __init__(
        self, pairs: list[Pair], image_size: int, metric_size: int | None, mask_threshold: int | None = None
    ) -> None:
        self.pairs = pairs
        self.image_size = image_size
        self.metric_size = metric_size
        self.mask_threshold = mask_threshold

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> dict[str, Any]:
        pair = self.pairs[index]
        full_image, mask = read_pair(pair, self.mask_threshold)
        image, _ = resize_pair(full_image, mask, self.image_size)
        return {
            "image": torch.from_numpy(image).permute(2, 0, 1).contiguous(),
            "mask": torch.from_numpy(resize_mask(mask, self.metric_size)),
            "name": pair.name,
        }


def resize_mask(mask: np.ndarray, side: int | None) -> np.ndarray:
    """Resize a mask (H, W) to (side, side) by the nearest pixel; None leaves it as it is."""
    return mask if side is None else cv2.resize(mask, (side, side), interpolation=cv2.INTER_NEAREST)


def collate_scored(items: list[dict[str, Any]]) -> dict[str, Any]:
    """A batch: images stacked to (B, 3, S, S); masks and names as lists, since masks may differ in size."""
    batch: dict[str, Any] = {key: [item[key] for item in items] for key in ("mask", "name")}
    return batch | {"image": torch.stack([item["image"] for item in items])}
