"""Per-image losses and overlap metrics, and the loop that computes them over a data set.

Each function maps a batch to one number an image, so that every mean over images is a visible choice of the caller.
Source: docs/METHOD.md.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cad.precision import autocast

SMOOTH = 1e-3  # keeps empty masks defined: an empty prediction of an empty mask scores 1
METRICS = ("bce", "iou_loss", "dice", "iou")


def binary_cross_entropy(logits: Tensor, masks: Tensor) -> Tensor:
    """Mean binary cross-entropy of each image: logits and masks (B, 1, H, W), masks 0 or 1 -> (B,)."""
    return F.binary_cross_entropy_with_logits(logits, masks, reduction="none").flatten(1).mean(dim=1)


def iou_loss(logits: Tensor, masks: Tensor) -> Tensor:
    """One minus the soft intersection over union of each image: (B, 1, H, W) -> (B,)."""
    probs = torch.sigmoid(logits)
    intersection = (probs * masks).flatten(1).sum(dim=1)
    union = (probs + masks - probs * masks).flatten(1).sum(dim=1)
    return 1 - (intersection + SMOOTH) / (union + SMOOTH)


def dice(predicted: Tensor, masks: Tensor) -> Tensor:
    """Dice coefficient of each image: hard predictions and masks (B, 1, H, W), 0 or 1 -> (B,) in 0..1."""
    intersection = (predicted * masks).flatten(1).sum(dim=1)
    total = predicted.flatten(1).sum(dim=1) + masks.flatten(1).sum(dim=1)
    return (2 * intersection + SMOOTH) / (total + SMOOTH)


def iou(predicted: Tensor, masks: Tensor) -> Tensor:
    """Intersection over union of each image: hard predictions and masks (B, 1, H, W), 0 or 1 -> (B,) in 0..1."""
    intersection = (predicted * masks).flatten(1).sum(dim=1)
    union = predicted.flatten(1).sum(dim=1) + masks.flatten(1).sum(dim=1) - intersection
    return (intersection + SMOOTH) / (union + SMOOTH)


def overlap(logits: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    """(Dice, IoU) of each image at the threshold logit 0: logits and masks (B, 1, H, W) -> two of (B,)."""
    predicted = (logits > 0).to(logits.dtype)
    return dice(predicted, masks), iou(predicted, masks)


def mean_metrics(per_image: dict[str, list[float]]) -> dict[str, float]:
    """The mean over images of every metric."""
    return {name: sum(values) / len(values) for name, values in per_image.items()}


@torch.no_grad()
def evaluate(
    segmenter: nn.Module,
    batches: Iterable[dict[str, Any]],
    device: torch.device,
    precision: str = "fp32",
    on_batch: Callable[[dict[str, Any], Tensor], None] | None = None,
) -> dict[str, list[float]]:
    """Score a segmenter on every image of `batches`.

    Args:
        segmenter: images (B, 3, S, S) and embeddings or None -> logits (B, 1, S, S). It is left in eval mode.
        batches: dictionaries with "image" (B, 3, S, S) uint8, "mask" (B, 1, S, S) uint8, 0 or 1, and "embedding"
            where it is known.
        precision: what the segmenter runs in; the scores are computed in float32.
        on_batch: called with each batch and its logits, to keep predictions.

    Returns:
        For each name in `METRICS`, one value an image, in the order of `batches`.
    """
    segmenter.eval()
    per_image: dict[str, list[float]] = {name: [] for name in METRICS}
    for batch in batches:
        embeddings = batch["embedding"].to(device) if "embedding" in batch else None
        with autocast(precision, device):
            logits = segmenter(batch["image"].to(device), embeddings).float()
        masks = batch["mask"].to(device, logits.dtype)
        scores = (binary_cross_entropy(logits, masks), iou_loss(logits, masks), *overlap(logits, masks))
        for name, values in zip(METRICS, scores, strict=True):
            per_image[name] += values.tolist()
        if on_batch is not None:
            on_batch(batch, logits)
    return per_image
