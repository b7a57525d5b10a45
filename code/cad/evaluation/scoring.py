"""Run one method over the test set and score every image. Memory does not grow with the number of images."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from cad.datasets.pairs import Pair
from cad.datasets.scored_images import ScoredImages, collate_scored
from cad.errors import UserError
from cad.evaluation.kept_maps import KeptMaps
from cad.evaluation.scoring_pool import ImageJob, ScoringPool
from cad.metrics.field_metrics import THRESHOLDS
from cad.metrics.intervals import Scores
from cad.metrics.measures import PER_IMAGE
from cad.metrics.per_image import METRICS, binary_cross_entropy, iou_loss, overlap
from cad.segmenter import Segmenter


@dataclass(frozen=True)
class Protocol:
    """How predictions and truth are compared, the same for all methods.

    Args:
        metric_size: side in pixels at which maps are compared, or None for each mask's own size.
        mask_threshold: see `cad.datasets.pairs.read_mask`.
        normalize_maps: see `cad.metrics.field_metrics`.
    """

    metric_size: int | None
    mask_threshold: int | None = None
    normalize_maps: bool = False


@dataclass(frozen=True)
class Machine:
    """What runs an evaluation: device, images at once, processes that read images, processes that score them."""

    device: torch.device
    batch_size: int
    num_workers: int
    pool: ScoringPool


def score_method(
    segmenter: Segmenter,
    label: str,
    image_size: int,
    pairs: list[Pair],
    protocol: Protocol,
    machine: Machine,
    maps: KeptMaps,
) -> Scores:
    """Scores of one segmenter on every pair, in their order; its maps are written.

    Args:
        label: the method's name in file names and messages.
        image_size: side of the segmenter's images.

    Raises:
        UserError: the segmenter gives values that are not finite.
    """
    maps.start(label)
    batches: DataLoader[dict[str, Any]] = DataLoader(
        ScoredImages(pairs, image_size, protocol.metric_size, protocol.mask_threshold),
        batch_size=machine.batch_size,
        num_workers=machine.num_workers,
        collate_fn=collate_scored,
    )
    overlaps: list[list[float]] = []

    def jobs() -> Iterator[ImageJob]:
        for name, logits, mask in predictions(segmenter, batches, machine.device):
            if not torch.isfinite(logits).all():
                raise UserError(f"{label}: predicts values that are not finite for {name}; its training has diverged")
            overlaps.append(overlap_scores(logits, mask))
            arrays = logits[0, 0].cpu().numpy(), mask[0, 0].cpu().numpy() > 0
            yield ImageJob(*arrays, *maps.paths(label, name), normalize_maps=protocol.normalize_maps)

    values = np.full((len(pairs), len(PER_IMAGE)), np.nan)
    e_curves = np.full((len(pairs), THRESHOLDS), np.nan)
    counts = np.zeros((len(pairs), 4), dtype=np.int64)
    progress = tqdm(
        machine.pool.scores(jobs()), total=len(pairs), desc=f"evaluating {label}", leave=False, disable=None
    )
    for row, scores in enumerate(progress):
        found = dict(zip(METRICS, overlaps[row], strict=True)) | scores.values
        values[row] = [np.nan if found[name] is None else found[name] for name in PER_IMAGE]
        counts[row] = scores.counts
        if scores.e_curve is not None:
            e_curves[row] = scores.e_curve
    return Scores({name: values[:, column] for column, name in enumerate(PER_IMAGE)}, e_curves, counts)


@torch.no_grad()
def predictions(
    segmenter: Segmenter, batches: DataLoader[dict[str, Any]], device: torch.device
) -> Iterator[tuple[str, Tensor, Tensor]]:
    """(name, logits, mask) of each image, both (1, 1, H, W) float32 on the device, at the size of the mask."""
    segmenter.eval()
    for batch in batches:
        logits = segmenter(batch["image"].to(device)).float()
        for name, one, mask in zip(batch["name"], logits.split(1), batch["mask"], strict=True):
            if one.shape[-2:] != mask.shape:
                one = F.interpolate(one, mask.shape, mode="bilinear", align_corners=False)
            yield name, one, mask.to(device, torch.float32)[None, None]


def overlap_scores(logits: Tensor, mask: Tensor) -> list[float]:
    """The values of `METRICS` for one image: logits and mask (1, 1, H, W)."""
    scores = (binary_cross_entropy(logits, mask), iou_loss(logits, mask), *overlap(logits, mask))
    return [value.item() for value in scores]
