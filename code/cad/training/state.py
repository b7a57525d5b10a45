"""What changes while a run trains, named in one place, so that it is saved as one and resumed as one."""

import argparse
import math
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cad.encoders.sam import check_state
from cad.errors import UserError
from cad.metrics.per_image import METRICS
from cad.precision import gradient_scaler
from cad.segmenter import Segmenter


@dataclass
class Best:
    """The epoch whose weights are kept: the best validation IoU, or the last epoch without validation."""

    epoch: int = 0
    scores: dict[str, float] = field(default_factory=dict)

    def is_beaten_by(self, scores: dict[str, float], validated: bool) -> bool:
        return not self.scores or not validated or scores["iou"] > self.scores["iou"]


@dataclass
class Progress:
    """Where a run stands between two steps of the optimiser. Plain values and tensors only.

    Args:
        epoch: the epoch under way, from 1.
        images: how many images of its order have been shown.
        scored: how many of them are in `sums`: all but those of skipped steps.
        sums: of every training score over these images.
        epoch_seconds: how long they took.
        seconds: of every finished epoch.
        skipped: steps that were left out because their gradient was not finite.
        pictures: (name, (H, W, 3) uint8) of the latest predictions.
    """

    epoch: int = 1
    images: int = 0
    scored: int = 0
    sums: dict[str, float] = field(default_factory=lambda: dict.fromkeys(METRICS, 0.0))
    epoch_seconds: float = 0.0
    seconds: list[float] = field(default_factory=list)
    skipped: int = 0
    best: Best = field(default_factory=Best)
    pictures: list[tuple[str, Tensor]] = field(default_factory=list)

    def add_scores(self, sums: list[list[float]], images: int) -> None:
        """Add, for each batch of a step, the sum of every score in `METRICS`; the step had so many images."""
        for batch in sums:
            for name, value in zip(METRICS, batch, strict=True):
                self.sums[name] += value
        self.scored += images

    def means(self) -> dict[str, float]:
        """Every training score of this epoch so far, as a mean over its images.

        Raises:
            UserError: all steps were left out.
        """
        if not self.scored:
            raise UserError(f"epoch {self.epoch}: every step was left out, its loss or gradient was not finite")
        return {name: value / self.scored for name, value in self.sums.items()}

    def loss(self) -> float:
        """The mean training loss of this epoch so far, for a progress bar."""
        return (self.sums["bce"] + self.sums["iou_loss"]) / max(self.scored, 1)

    def next_epoch(self) -> None:
        self.seconds.append(self.epoch_seconds)
        self.epoch, self.images, self.scored, self.epoch_seconds = self.epoch + 1, 0, 0, 0.0
        self.sums = dict.fromkeys(METRICS, 0.0)

    def picture_arrays(self) -> list[tuple[str, np.ndarray]]:
        """The pictures as arrays."""
        return [(name, picture.numpy()) for name, picture in self.pictures]


class TrainingState:
    """A segmenter in training: its trained weights, optimiser, scaler and progress.

    Args:
        segmenter: on the device that it is trained on.
        args: resolved flags of a training run.
    """

    def __init__(self, segmenter: Segmenter, args: argparse.Namespace, device: torch.device) -> None:
        self.segmenter = segmenter
        self.device = device
        self.epochs, self.first_learning_rate = args.epoch, args.lr
        self.optimizer = make_optimizer(segmenter, args.lr)
        self.scaler = gradient_scaler(args.precision, device)
        self.progress = Progress()

    def set_learning_rate(self) -> float:
        """Give the optimiser the learning rate of this epoch, and return it."""
        rate = cosine(self.first_learning_rate, self.progress.epoch, self.epochs)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        return rate

    def state_dict(self) -> dict[str, Any]:
        """Plain values and tensors, from which `load_state_dict` goes on as if nothing had happened."""
        return {
            "trained": self.segmenter.trained_state(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "progress": asdict(self.progress),
            "random": torch.get_rng_state(),
            "cuda_random": torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state`, which `state_dict` gave for the same method and flags."""
        check_state(self.segmenter.trained_state(), state["trained"], "the saved state")
        # Not strict only because the frozen parts are in place already: the line above checked every name and shape.
        self.segmenter.load_state_dict(state["trained"], strict=False)
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        self.progress = Progress(**state["progress"] | {"best": Best(**state["progress"]["best"])})
        torch.set_rng_state(state["random"])
        if state["cuda_random"] is not None and self.device.type == "cuda":
            torch.cuda.set_rng_state(state["cuda_random"], self.device)


def cosine(first: float, epoch: int, epochs: int) -> float:
    """The learning rate of an epoch, from 1: a cosine from `first` towards 0 (Loshchilov and Hutter, 1608.03983)."""
    return first * (1 + math.cos(math.pi * (epoch - 1) / epochs)) / 2


def make_optimizer(segmenter: Segmenter, learning_rate: float) -> torch.optim.Optimizer:
    """AdamW with PyTorch's defaults over what is trained."""
    return torch.optim.AdamW([p for p in segmenter.parameters() if p.requires_grad], lr=learning_rate)
