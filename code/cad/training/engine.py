"""The training loop: one engine for every method. See `accumulate_gradients` for what a step is."""

import argparse
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from cad.datasets.views import ViewSampler
from cad.device import describe_memory
from cad.errors import UserError
from cad.evaluation.metrics import METRICS, evaluate, mean_metrics, overlap
from cad.models.segmenter import Segmenter
from cad.models.weights import save_weights
from cad.precision import autocast, gradient_scaler
from cad.training.logger import RunLog
from cad.training.losses import segmentation_losses

PREVIEWED_IMAGES = 4


@dataclass
class Loaders:
    """Where the batches of a run come from. `sampler` decides what each epoch of training shows."""

    train: DataLoader[dict[str, Any]]
    sampler: ViewSampler
    validation: DataLoader[dict[str, Any]] | None


@dataclass
class Best:
    """The epoch whose weights are kept: the best validation IoU, or the last epoch without validation."""

    epoch: int = 0
    scores: dict[str, float] = field(default_factory=dict)

    def is_beaten_by(self, scores: dict[str, float], validated: bool) -> bool:
        return not self.scores or not validated or scores["iou"] > self.scores["iou"]


def fit(
    segmenter: Segmenter,
    loaders: Loaders,
    args: argparse.Namespace,
    device: torch.device,
    log: RunLog,
    weights: Path,
    metadata: dict[str, Any],
) -> dict[str, Any]:
    """Train for all epochs, validate after each, save the weights worth keeping.

    Returns:
        The run's summary: best epoch, its scores, seconds per epoch, peak memory.
    """
    optimizer = make_optimizer(segmenter, args.lr)
    scaler = gradient_scaler(args.precision, device)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=args.epoch)
    scored_on = "validation" if loaders.validation else "training"
    best, epoch_seconds = Best(), []
    for epoch in range(1, args.epoch + 1):
        loaders.sampler.epoch = epoch
        started = time.perf_counter()
        learning_rate = optimizer.param_groups[0]["lr"]
        with tqdm(loaders.train, desc=f"epoch {epoch}/{args.epoch}", leave=False, disable=None) as progress:
            train_scores, preview = train_epoch(
                segmenter, progress, len(loaders.sampler), optimizer, scaler, args, device
            )
        schedule.step()
        epoch_seconds.append(time.perf_counter() - started)

        scores = train_scores
        if loaders.validation:
            preview = Preview(PREVIEWED_IMAGES)
            per_image = evaluate(segmenter, loaders.validation, device, args.precision, preview.keep)
            scores = mean_metrics(per_image)
        log.log_images("predictions", preview.pictures, epoch)
        if best.is_beaten_by(scores, validated=loaders.validation is not None):
            best = Best(epoch, scores)
            kept_metrics = {"on": scored_on, "epoch": epoch, **scores}
            seconds = float(np.mean(epoch_seconds))
            save_weights(weights, segmenter, metadata | {"metrics": kept_metrics, "seconds_per_epoch": seconds})
        record: dict[str, Any] = {"epoch": epoch, "train": train_scores, "learning_rate": learning_rate}
        if loaders.validation:
            record["validation"] = scores
        log.log(record | {"seconds": epoch_seconds[-1]})
        print(epoch_line(record, args.epoch, epoch_seconds[-1], kept=best.epoch == epoch))
    return {
        "metrics": {"on": scored_on, "epoch": best.epoch, **best.scores},
        "seconds_per_epoch": float(np.mean(epoch_seconds)),
        "peak_memory": describe_memory(device),
        **{key: metadata[key] for key in ("method", "model_type", "demo", "trainable_parameters")},
    }


def make_optimizer(segmenter: Segmenter, learning_rate: float) -> torch.optim.Optimizer:
    """AdamW with PyTorch's defaults over what is trained."""
    return torch.optim.AdamW([p for p in segmenter.parameters() if p.requires_grad], lr=learning_rate)


def train_epoch(
    segmenter: Segmenter,
    batches: "tqdm[dict[str, Any]]",
    images_in_epoch: int,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    args: argparse.Namespace,
    device: torch.device,
) -> tuple[dict[str, float], "Preview"]:
    """One pass over the training data: one optimiser step every `args.accumulate` batches.

    Returns:
        For each name in `METRICS` its mean over the images, as they were when their step was taken; and the first
        predictions, as pictures.

    Raises:
        UserError: the loss is not finite.
    """
    segmenter.train()
    preview = Preview(PREVIEWED_IMAGES)
    sums, images_seen = dict.fromkeys(METRICS, 0.0), 0
    for number, batch in enumerate(batches):
        if number % args.accumulate == 0:
            images_in_step = min(args.accumulate * args.batch_size, images_in_epoch - images_seen)
            optimizer.zero_grad()
        scores, logits = accumulate_gradients(
            segmenter, to_device(batch, device), images_in_step, scaler, args.precision
        )
        if not all(bool(torch.isfinite(values).all()) for values in scores.values()):
            raise UserError(
                f"the loss is not finite on the images {', '.join(batch['name'])}: lower --lr, or use --precision "
                "fp32; the best weights so far stay in checkpoints/"
            )
        preview.keep(batch, logits)
        images_seen += len(batch["image"])
        if (number + 1) % args.accumulate == 0 or images_seen == images_in_epoch:
            scaler.step(optimizer)
            scaler.update()
        for name, values in scores.items():
            sums[name] += values.sum().item()
        batches.set_postfix(loss=f"{(sums['bce'] + sums['iou_loss']) / images_seen:.4f}")
    return {name: value / images_seen for name, value in sums.items()}, preview


def to_device(batch: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """The batch with its tensors on the device."""
    return {
        name: value.to(device, non_blocking=True) if isinstance(value, Tensor) else value
        for name, value in batch.items()
    }


def accumulate_gradients(
    segmenter: Segmenter,
    batch: dict[str, Any],
    images_in_step: int,
    scaler: torch.amp.GradScaler,
    precision: str,
) -> tuple[dict[str, Tensor], Tensor]:
    """Forward and backward of one batch, adding to the gradients its share of a step over `images_in_step` images.

    Args:
        batch: "image" (B, 3, S, S) uint8, "mask" (B, 1, S, S) uint8, and "embedding" (B, C, G, G) unless the segmenter
            has its encoder; on the segmenter's device.

    Returns:
        For each name in `METRICS` its value for each image, (B,); and the logits (B, 1, S, S).
    """
    with autocast(precision, batch["image"].device):
        logits = segmenter(batch["image"], batch.get("embedding"))
    bce, iou_loss = segmentation_losses(logits, batch["mask"])
    scaler.scale((bce + iou_loss).sum() / images_in_step).backward()
    logits = logits.detach()
    scores = (bce.detach(), iou_loss.detach(), *overlap(logits, batch["mask"].to(logits.dtype)))
    return dict(zip(METRICS, scores, strict=True)), logits


class Preview:
    """Keeps the first predictions of an evaluation as pictures: image, truth and prediction side by side."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.pictures: list[tuple[str, np.ndarray]] = []

    def keep(self, batch: dict[str, Any], logits: Tensor) -> None:
        if len(self.pictures) == self.count:
            return  # before anything is copied from the device: this runs at every step
        for name, image, mask, logit in zip(
            batch["name"], batch["image"].cpu(), batch["mask"].cpu(), logits.cpu(), strict=True
        ):
            if len(self.pictures) < self.count:
                panels = [image, mask.expand(3, -1, -1) * 255, (logit > 0).expand(3, -1, -1).to(torch.uint8) * 255]
                self.pictures.append((name, torch.cat(panels, dim=2).permute(1, 2, 0).numpy()))


def epoch_line(record: dict[str, Any], epochs: int, seconds: float, kept: bool) -> str:
    """One line on an epoch, for people."""
    scores = record["train"]
    line = f"epoch {record['epoch']:>{len(str(epochs))}}/{epochs}  loss {scores['bce'] + scores['iou_loss']:.4f}"
    line += f"  dice {scores['dice']:.4f}  iou {scores['iou']:.4f}"
    if validation := record.get("validation"):
        line += f"  | val dice {validation['dice']:.4f}  iou {validation['iou']:.4f}"
        line += " *" if kept else "  "
    return f"{line}  | lr {record['learning_rate']:.2e}  {seconds:.1f} s"
