"""The training loop: one engine for every method. See `accumulate_gradients` for what a step is."""

import argparse
import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, default_collate
from tqdm import tqdm

from cad.datasets.views import ViewSampler
from cad.device import describe_memory
from cad.distributed import gather, is_first, processes, sum_gradients, sum_over_processes
from cad.errors import UserError, first_names
from cad.metrics.per_image import METRICS, evaluate, mean_metrics, overlap
from cad.precision import autocast, gradient_scaler
from cad.segmenter import Segmenter
from cad.trained_weights import save_weights
from cad.training.logger import NoLog, RunLog
from cad.training.losses import segmentation_losses, structure_loss
from cad.training.resume import ResumeFile
from cad.training.state import Best, Progress, TrainingState
from cad.training.stopping import StopRequest

PREVIEWED_IMAGES = 4
IN_SUMMARY = ("method", "adapter", "model_type", "demo", "trainable_parameters")  # of the weights' metadata
REHEARSED_BATCHES = 2


@dataclass
class Loaders:
    """Where the batches of a run come from. `sampler` decides what each epoch of training shows.

    A loader without batches is false, as that of a process without a share of few validation images: compare with None.
    """

    train: DataLoader[dict[str, Any]]
    sampler: ViewSampler
    validation: DataLoader[dict[str, Any]] | None


@dataclass
class Run:
    """What a run leaves on disk, and who asks it to stop."""

    weights: Path
    metadata: dict[str, Any]
    log: RunLog | NoLog
    resume_file: ResumeFile
    stop: StopRequest


def fit(state: TrainingState, loaders: Loaders, args: argparse.Namespace, run: Run) -> dict[str, Any]:
    """Train from where `state` stands to the last epoch, validate after each, save the weights worth keeping.

    Returns:
        The run's summary: best epoch, its scores, seconds per epoch, peak memory.

    Raises:
        Interrupted: a signal asked to stop; the state has been saved.
    """
    progress = state.progress
    scored_on = "validation" if loaders.validation is not None else "training"

    def after_step() -> None:
        run.resume_file.save_if_due()
        stop_if_asked(run)

    while progress.epoch <= args.epoch and not out_of_patience(progress, args.early_stopping):
        learning_rate = state.set_learning_rate()
        train_epoch(state, loaders, args, after_step)
        scores = train_scores = progress.means()
        if loaders.validation is not None:
            scores = validate(state, loaders.validation, args, run)
        run.log.log_images("predictions", progress.picture_arrays(), progress.epoch)
        if progress.best.is_beaten_by(scores, validated=loaders.validation is not None):
            progress.best = Best(progress.epoch, scores)
            kept = {"on": scored_on, "epoch": progress.epoch, **scores}
            seconds = float(np.mean([*progress.seconds, progress.epoch_seconds]))
            if is_first():
                save_weights(
                    run.weights, state.segmenter, run.metadata | {"metrics": kept, "seconds_per_epoch": seconds}
                )
        record: dict[str, Any] = {"epoch": progress.epoch, "train": train_scores, "learning_rate": learning_rate}
        if loaders.validation is not None:
            record["validation"] = scores
        run.log.log(record | {"seconds": progress.epoch_seconds})
        print(epoch_line(record, args.epoch, progress.epoch_seconds, kept=progress.best.epoch == progress.epoch))
        progress.next_epoch()
        run.resume_file.save()
    if progress.epoch <= args.epoch:
        print(f"stopped early: no better validation IoU since epoch {progress.best.epoch}")
    return {
        "metrics": {"on": scored_on, "epoch": progress.best.epoch, **progress.best.scores},
        "seconds_per_epoch": float(np.mean(progress.seconds)),
        "peak_memory": describe_memory(state.device),
        **{key: run.metadata[key] for key in IN_SUMMARY if key in run.metadata},
    }


def out_of_patience(progress: Progress, patience: int | None) -> bool:
    """Whether the last `patience` finished epochs were no better than the best one."""
    return patience is not None and progress.epoch - 1 - progress.best.epoch >= patience


def train_epoch(
    state: TrainingState, loaders: Loaders, args: argparse.Namespace, after_step: Callable[[], None]
) -> None:
    """Train on what is left of the epoch: one optimiser step every `args.accumulate` batches.

    `state.progress` gets the sums of the scores, of each image as it was when its step was taken, and, where there is
    no validation, pictures of the first predictions.

    Args:
        after_step: called after every step.

    Raises:
        UserError: the loss or the gradient is not finite.
    """
    state.segmenter.train()
    progress, sampler = state.progress, loaders.sampler
    sampler.epoch, sampler.shown = progress.epoch, progress.images
    if not sampler.left:
        return  # cut off in validation: this epoch's training is done
    preview = Preview(PREVIEWED_IMAGES, progress.pictures if progress.images else [])
    images_in_batch = args.batch_size * processes()
    images_in_step = args.accumulate * images_in_batch
    started = time.perf_counter()
    silent = None if is_first() else True
    with tqdm(loaders.train, desc=f"epoch {progress.epoch}/{args.epoch}", leave=False, disable=silent) as batches:
        own = with_empty_batches(batches, loaders.train.dataset, sampler.view)
        for left in range(sampler.left, 0, -images_in_step):
            images = min(left, images_in_step)
            train_step(state, islice(own, math.ceil(images / images_in_batch)), images, args, preview)
            progress.images += images
            if loaders.validation is None:
                progress.pictures = preview.pictures
            now = time.perf_counter()
            progress.epoch_seconds, started = progress.epoch_seconds + now - started, now
            batches.set_postfix(loss=f"{progress.loss():.4f}")
            after_step()


def with_empty_batches(
    batches: Iterable[dict[str, Any]], views: Dataset[dict[str, Any]], view: int
) -> Iterator[dict[str, Any]]:
    """The batches, then batches without an image: of an epoch's last batch a process may have no part."""
    yield from batches
    empty = default_collate([views[0, view]])
    while True:
        yield {name: values[:0] for name, values in empty.items()}


def train_step(
    state: TrainingState,
    batches: Iterable[dict[str, Any]],
    images: int,
    args: argparse.Namespace,
    preview: "Preview",
) -> None:
    """One step of the optimiser over `batches`, and their scores; so many images are in it, on all processes.

    A step whose loss or gradient is not finite leaves no trace in the model, and counts against `args.skip_nonfinite`.

    Raises:
        UserError: no such step may be skipped (any more).
    """
    progress, segmenter = state.progress, state.segmenter
    statistics = [(buffer, buffer.clone()) for buffer in segmenter.trained_buffers() if args.skip_nonfinite]
    state.optimizer.zero_grad()
    names: list[str] = []
    sums: list[Tensor] = []
    for batch in batches:
        batch = to_device(batch, state.device)
        scores, logits = accumulate_gradients(segmenter, batch, images, state.scaler, args.precision, args.loss)
        preview.keep(batch, logits)
        names += batch["name"]
        sums.append(torch.stack([values.sum() for values in scores.values()]))
    totals = sum_over_processes(torch.stack(sums)).tolist()
    sum_gradients(trained_parameters(state))
    if not np.isfinite(totals).all():
        wrong = "loss"
    elif not gradient_is_finite(state):
        wrong = "gradient"
    else:
        state.scaler.step(state.optimizer)
        state.scaler.update()
        progress.add_scores(totals, images)
        return
    names = [name for part in gather(names) for name in part]
    if progress.skipped >= args.skip_nonfinite:
        raise UserError(
            f"the {wrong} is not finite on the images {', '.join(names)}: lower --lr, or use --precision fp32, or "
            "leave such steps out with --skip_nonfinite N; the best weights so far stay in checkpoints/"
        )
    progress.skipped += 1
    print(f"step left out ({progress.skipped} of {args.skip_nonfinite}): {wrong} not finite on {first_names(names)}")
    for buffer, before in statistics:
        buffer.copy_(before)


def gradient_is_finite(state: TrainingState) -> bool:
    """Whether every value of every gradient is finite.

    For fp16 the scaler looks at that, leaves the step out and halves its scale, 2**16 at first. Below 1 it is not the
    scale that is too large.
    """
    if state.scaler.is_enabled():
        return state.scaler.get_scale() >= 1
    gradients = [parameter.grad for parameter in trained_parameters(state) if parameter.grad is not None]
    return bool(torch.stack([torch.isfinite(gradient).all() for gradient in gradients]).all())


def trained_parameters(state: TrainingState) -> list[nn.Parameter]:
    """What the optimiser moves."""
    return [parameter for group in state.optimizer.param_groups for parameter in group["params"]]


def stop_if_asked(run: Run) -> None:
    """Save and raise Interrupted if a signal was received, by any of the processes."""
    asked = max((signal for signal in gather(run.stop.signal) if signal is not None), default=None)
    if asked is None:
        return  # and what has arrived meanwhile waits for the next step
    run.stop.signal = asked
    run.resume_file.save()
    folder = run.resume_file.path.parent.resolve()
    run.stop.check(f"stopped and saved: the same command with --resume auto, or --resume {folder}, goes on")


def validate(
    state: TrainingState, batches: DataLoader[dict[str, Any]], args: argparse.Namespace, run: Run
) -> dict[str, float]:
    """The mean of every score over the validation images; pictures of the first ones go to `state.progress`."""
    preview = Preview(PREVIEWED_IMAGES, [])
    if processes() > 1:
        run.resume_file.save()  # they stop after validation only, for which torchrun may not wait

    def on_batch(batch: dict[str, Any], logits: Tensor) -> None:
        preview.keep(batch, logits)
        if processes() == 1:  # else they would have to agree, and have different numbers of batches
            stop_if_asked(run)

    own = evaluate(state.segmenter, batches, state.device, args.precision, on_batch)
    state.progress.pictures = preview.pictures
    scores = mean_metrics(interleave(gather(own)))
    if not np.isfinite(list(scores.values())).all():
        raise UserError(
            f"epoch {state.progress.epoch}: the validation loss is not finite: lower --lr, or use --precision fp32; "
            "the best weights so far stay in checkpoints/"
        )
    return scores


def interleave(parts: list[dict[str, list[float]]]) -> dict[str, list[float]]:
    """The scores of all validation images in their order, from those that each process has, as `ViewSampler` deals."""
    merged: dict[str, list[float]] = {}
    for name in parts[0]:
        merged[name] = [0.0] * sum(len(part[name]) for part in parts)
        for rank, part in enumerate(parts):
            merged[name][rank :: len(parts)] = part[name]
    return merged


def rehearse(segmenter: Segmenter, loaders: Loaders, args: argparse.Namespace, device: torch.device) -> None:
    """Train and evaluate on two batches and undo it, so that what is broken fails now and not after an epoch."""
    statistics = [(buffer, buffer.clone()) for buffer in segmenter.trained_buffers()]
    segmenter.train()
    full_batches = loaders.sampler.left // (args.batch_size * processes())
    for batch in islice(loaders.train, min(REHEARSED_BATCHES, full_batches)):
        batch = to_device(batch, device)
        scaler = gradient_scaler("fp32", device)
        accumulate_gradients(segmenter, batch, args.batch_size, scaler, args.precision, args.loss)
    for parameter in segmenter.parameters():
        parameter.grad = None
    if loaders.validation is not None:
        evaluate(segmenter, islice(loaders.validation, REHEARSED_BATCHES), device, args.precision)
    for buffer, before in statistics:
        buffer.copy_(before)


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
    loss: str = "original",
) -> tuple[dict[str, Tensor], Tensor]:
    """Forward and backward of one batch, adding to the gradients its share of a step over `images_in_step` images.

    Args:
        batch: "image" (B, 3, S, S) uint8, "mask" (B, 1, S, S) uint8, and "embedding" (B, C, G, G) unless the segmenter
            has its encoder; on the segmenter's device.
        loss: one of `cad.training.options.LOSSES`. The scores are the same for all, so that runs can be compared.

    Returns:
        For each name in `METRICS` its value for each image, (B,); and the logits (B, 1, S, S).
    """
    with autocast(precision, batch["image"].device):
        logits = segmenter(batch["image"], batch.get("embedding"))
    bce, iou_loss = segmentation_losses(logits, batch["mask"])
    losses = bce + iou_loss if loss == "original" else structure_loss(logits, batch["mask"])
    scaler.scale(losses.sum() / images_in_step).backward()
    logits = logits.detach()
    scores = (bce.detach(), iou_loss.detach(), *overlap(logits, batch["mask"].to(logits.dtype)))
    return dict(zip(METRICS, scores, strict=True)), logits


class Preview:
    """Keeps the first predictions of an evaluation as pictures: image, truth and prediction side by side.

    Args:
        count: how many are kept.
        pictures: (name, (H, W, 3) uint8) of those that are there already.
    """

    def __init__(self, count: int, pictures: list[tuple[str, Tensor]]) -> None:
        self.count = count
        self.pictures = list(pictures)

    def keep(self, batch: dict[str, Any], logits: Tensor) -> None:
        if len(self.pictures) == self.count:
            return  # before anything is copied from the device: this runs at every step
        for name, image, mask, logit in zip(
            batch["name"], batch["image"].cpu(), batch["mask"].cpu(), logits.cpu(), strict=True
        ):
            if len(self.pictures) < self.count:
                panels = [image, mask.expand(3, -1, -1) * 255, (logit > 0).expand(3, -1, -1).to(torch.uint8) * 255]
                self.pictures.append((name, torch.cat(panels, dim=2).permute(1, 2, 0).contiguous()))


def epoch_line(record: dict[str, Any], epochs: int, seconds: float, kept: bool) -> str:
    """One line on an epoch, for people."""
    scores = record["train"]
    line = f"epoch {record['epoch']:>{len(str(epochs))}}/{epochs}  loss {scores['bce'] + scores['iou_loss']:.4f}"
    line += f"  dice {scores['dice']:.4f}  iou {scores['iou']:.4f}"
    if validation := record.get("validation"):
        line += f"  | val dice {validation['dice']:.4f}  iou {validation['iou']:.4f}"
        line += " *" if kept else "  "
    return f"{line}  | lr {record['learning_rate']:.2e}  {seconds:.1f} s"
