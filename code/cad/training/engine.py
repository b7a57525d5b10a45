"""The training loop: one engine for every method.

`train` takes resolved flags and does the whole job: check the data, build the model, train, keep the best weights.
See `fit` for the loop and `train_epoch` for what a step is.
"""

import argparse
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from cad.datasets.demo import prepare_demo
from cad.datasets.pairs import Pair, check_pairs, find_pairs, split_pairs
from cad.datasets.views import ViewDataset, ViewSampler
from cad.device import describe_memory, pick_device
from cad.errors import UserError
from cad.evaluation.metrics import METRICS, evaluate, mean_metrics, overlap
from cad.files import write_json
from cad.models.sam import SAM_SIZES, load_sam
from cad.models.segmenter import Segmenter, count_parameters
from cad.models.weights import publish, save_weights
from cad.training.logger import RunLog, start_run_folder
from cad.training.losses import segmentation_losses

PREVIEWED_IMAGES = 4


@dataclass
class Data:
    """The pairs of a run."""

    train: list[Pair]
    validation: list[Pair]


@dataclass
class Best:
    """The epoch whose weights are kept: the best validation IoU, or the last epoch without validation."""

    epoch: int = 0
    scores: dict[str, float] = field(default_factory=dict)

    def is_beaten_by(self, scores: dict[str, float], validated: bool) -> bool:
        return not self.scores or not validated or scores["iou"] > self.scores["iou"]


def train(args: argparse.Namespace, method: str) -> Path:
    """Train one method as the flags say and return the path of the weights.

    Args:
        args: resolved flags (`cad.options.resolve_training`).
        method: one of `cad.models.segmenter.METHODS`.

    Raises:
        UserError: bad data, weights or flags; nothing has been written then, except a demo's images.
    """
    device = pick_device(args.device)
    data = collect_data(args)
    image_size = args.image_size or SAM_SIZES[args.model_type].image_size
    if args.checkpoint == "random":
        print("warning: SAM's weights are random: the result says nothing about the method", file=sys.stderr)
    torch.manual_seed(args.seed)
    sam, base = load_sam(args.model_type, args.checkpoint, args.seed)
    segmenter = Segmenter(sam, method).to(device)
    trainable, total = count_parameters(segmenter)
    print(
        f"{method}: {len(data.train)} training and {len(data.validation)} validation images at {image_size} pixels\n"
        f"trainable params: {trainable:,} || all params: {total:,} || trainable: {100 * trainable / total:.2f} %"
    )

    folder = start_run_folder(args.output_dir)
    weights = args.output_dir / "checkpoints" / f"{folder.name}.pth"
    weights.parent.mkdir(parents=True, exist_ok=True)
    settings = plain_settings(args) | {"method": method, "image_size": image_size, "device": str(device)}
    metadata = {
        "method": method,
        "model_type": args.model_type,
        "image_size": image_size,
        "base": base.as_metadata(),
        "demo": bool(args.demo),
        "demo_task": args.demo,
        "trainable_parameters": trainable,
        "settings": settings,
    }
    log = RunLog(folder, settings, args.project_name, args.wandb, args.wandb_details)
    try:
        summary = fit(segmenter, data, args, image_size, device, log, weights, metadata)
    finally:
        log.close()
    finish(summary, folder, weights, args)
    return weights


def collect_data(args: argparse.Namespace) -> Data:
    """Find, check and split the pairs that the flags name."""
    if args.demo:
        folder = prepare_demo(args.output_dir / "runs" / "demo", args.demo)
        print(f"demo: synthetic images in {folder}; its numbers show that the software works, not that the method does")
        args.train_image_dir, args.train_mask_dir = folder / "train" / "image", folder / "train" / "mask"
    pairs = find_pairs(args.train_image_dir, args.train_mask_dir, args.skip_unpaired, "train")
    if args.val_image_dir:
        data = Data(pairs, find_pairs(args.val_image_dir, args.val_mask_dir, args.skip_unpaired, "val"))
    else:
        data = Data(*split_pairs(pairs, args.val_fraction, args.seed))
    if args.batch_size > len(data.train):
        raise UserError(
            f"--batch_size {args.batch_size}: larger than the data set of {len(data.train)} training images"
            + (f" (of {len(pairs)}, {len(data.validation)} are for validation)" if data.validation else "")
        )
    check_pairs(data.train + data.validation)
    return data


def fit(
    segmenter: Segmenter,
    data: Data,
    args: argparse.Namespace,
    image_size: int,
    device: torch.device,
    log: RunLog,
    weights: Path,
    metadata: dict[str, Any],
) -> dict[str, Any]:
    """Train for all epochs, validate after each, save the weights worth keeping.

    Returns:
        The run's summary: best epoch, its scores, seconds per epoch, peak memory.
    """
    sampler = ViewSampler(len(data.train), args.seed, shuffle=True)
    train_batches = make_loader(data.train, image_size, args, sampler, device)
    validation_batches = make_loader(
        data.validation, image_size, args, ViewSampler(len(data.validation), args.seed, shuffle=False), device
    )
    trained = [parameter for parameter in segmenter.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=args.lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=args.epoch)
    best, epoch_seconds = Best(), []
    for epoch in range(1, args.epoch + 1):
        sampler.epoch = epoch
        started = time.perf_counter()
        learning_rate = optimizer.param_groups[0]["lr"]
        with tqdm(train_batches, desc=f"epoch {epoch}/{args.epoch}", leave=False) as progress:
            train_scores = train_epoch(segmenter, progress, optimizer, device)
        schedule.step()
        epoch_seconds.append(time.perf_counter() - started)

        scores = train_scores
        if data.validation:
            preview = Preview(PREVIEWED_IMAGES)
            scores = mean_metrics(evaluate(segmenter, validation_batches, device, preview.keep))
            log.log_images("predictions", preview.pictures, epoch)
        if best.is_beaten_by(scores, validated=bool(data.validation)):
            best = Best(epoch, scores)
            kept_metrics = {"on": "validation" if data.validation else "training", "epoch": epoch, **scores}
            seconds = float(np.mean(epoch_seconds))
            save_weights(weights, segmenter, metadata | {"metrics": kept_metrics, "seconds_per_epoch": seconds})
        record: dict[str, Any] = {"epoch": epoch, "train": train_scores, "learning_rate": learning_rate}
        if data.validation:
            record["validation"] = scores
        log.log(record | {"seconds": epoch_seconds[-1]})
        print(epoch_line(record, args.epoch, epoch_seconds[-1], kept=best.epoch == epoch))
    return {
        "metrics": {"on": "validation" if data.validation else "training", "epoch": best.epoch, **best.scores},
        "seconds_per_epoch": float(np.mean(epoch_seconds)),
        "peak_memory": describe_memory(device),
        **{key: metadata[key] for key in ("method", "model_type", "demo", "trainable_parameters")},
    }


def make_loader(
    pairs: list[Pair], image_size: int, args: argparse.Namespace, sampler: ViewSampler, device: torch.device
) -> DataLoader[dict[str, Any]]:
    """Batches of views, read by worker processes that live as long as the loader."""
    return DataLoader(
        ViewDataset(pairs, image_size, args.seed),
        batch_size=args.batch_size,
        sampler=sampler,  # gives (index, view) pairs
        num_workers=args.num_workers,
        persistent_workers=args.num_workers > 0,
        pin_memory=device.type == "cuda",
    )


def train_epoch(
    segmenter: Segmenter, batches: "tqdm[dict[str, Any]]", optimizer: torch.optim.Optimizer, device: torch.device
) -> dict[str, float]:
    """One pass over the training data: one optimiser step a batch.

    Returns:
        For each name in `METRICS` its mean over the images, as they were when their step was taken.
    """
    segmenter.train()
    sums, images_seen = dict.fromkeys(METRICS, 0.0), 0
    for batch in batches:
        images, masks = batch["image"].to(device), batch["mask"].to(device)
        logits = segmenter(images)
        bce, iou_loss = segmentation_losses(logits, masks)
        loss = (bce + iou_loss).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

        logits = logits.detach()
        for name, values in zip(METRICS, (bce, iou_loss, *overlap(logits, masks.to(logits.dtype))), strict=True):
            sums[name] += values.sum().item()
        images_seen += len(images)
        batches.set_postfix(loss=f"{(sums['bce'] + sums['iou_loss']) / images_seen:.4f}")
    return {name: value / images_seen for name, value in sums.items()}


class Preview:
    """Keeps the first predictions of an evaluation as pictures: image, truth and prediction side by side."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.pictures: list[tuple[str, np.ndarray]] = []

    def keep(self, batch: dict[str, Any], logits: Tensor) -> None:
        for name, image, mask, logit in zip(batch["name"], batch["image"], batch["mask"], logits.cpu(), strict=True):
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


def finish(summary: dict[str, Any], folder: Path, weights: Path, args: argparse.Namespace) -> None:
    """Write the summary, publish the weights under their well-known name, and say where everything is."""
    summary["weights"] = f"checkpoints/{weights.name}"
    if args.publish:
        kept = publish(weights, weights.with_name(args.publish))
        if kept:
            print(f"not copied to checkpoints/{args.publish}: {kept}", file=sys.stderr)
        else:
            summary["published"] = f"checkpoints/{args.publish}"
    write_json(folder / "summary.json", summary)
    print(f"weights: {weights}" + (f" and {args.publish}" if "published" in summary else ""))
    print(f"log:     {folder}")


def plain_settings(args: argparse.Namespace) -> dict[str, Any]:
    """The flags as plain values; paths in the home folder start with `~`, so that no user name is kept."""

    def plain(value: Any) -> Any:
        text = str(value) if isinstance(value, Path) else value
        home = str(Path.home())
        return text.replace(home, "~", 1) if isinstance(text, str) and text.startswith(home) else text

    return {name: plain(value) for name, value in sorted(vars(args).items())}
