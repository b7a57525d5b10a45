"""Which images of an evaluation to show, and prediction and truth as one picture."""

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean, median
from typing import Protocol

import numpy as np

from cad.metrics.results import Evaluation

FOREGROUND = 128  # a probability of 128 of 255 or more is foreground
BACKGROUND_CLASS, HIT, FALSE_POSITIVE, FALSE_NEGATIVE = range(4)
# Okabe and Ito's vermillion and sky blue: told apart with every common colour blindness, and in grey.
CLASS_COLOURS = ((0, 0, 0), (255, 255, 255), (213, 94, 0), (86, 180, 233))

GROUPS = {"differ": "methods differ most", "median": "median", "worst": "worst", "best": "best"}


class Pictures(Protocol):
    """Where the pixels come from; all pictures of one name have the same size S, at most 512."""

    def image(self, name: str) -> np.ndarray:
        """The image: (S, S, 3) uint8, RGB."""

    def truth(self, name: str) -> np.ndarray:
        """The mask: (S, S) uint8, 0 or 1."""

    def probability(self, label: str, name: str) -> np.ndarray:
        """What the method of that label predicts: (S, S) uint8, 0..255."""


@dataclass(frozen=True)
class Choice:
    """An image that is shown, and the group of `GROUPS` for which it was chosen."""

    index: int
    name: str
    group: str


def scores_of(evaluation: Evaluation, index: int, metric: str) -> list[float | None]:
    """The metric of one image for each method, None where it is undefined or was not computed."""
    per_method = (method.per_image.get(metric) for method in evaluation.methods)
    return [values[index] if values else None for values in per_method]


def mean_score(scores: list[float | None]) -> float | None:
    """The mean over the methods that have a score."""
    known = [score for score in scores if score is not None]
    return fmean(known) if known else None


def spread(scores: list[float | None]) -> float:
    """The largest difference between two methods."""
    known = [score for score in scores if score is not None]
    return max(known) - min(known) if known else 0.0


def choose_images(evaluation: Evaluation, wanted: Mapping[str, int], metric: str = "iou") -> list[Choice]:
    """Pick images group by group, each image once; all ranked by a metric of which more is better.

    Args:
        wanted: how many of each group of `GROUPS`, in the order in which they are picked. "differ" ranks by the
            largest difference between two methods, the others by the mean over methods.
    """
    scores = [scores_of(evaluation, index, metric) for index in range(len(evaluation.names))]
    means = {index: mean for index, image in enumerate(scores) if (mean := mean_score(image)) is not None}
    middle = median(means.values()) if means else 0.0
    ranked = {
        "differ": sorted((i for i in means if spread(scores[i]) > 0), key=lambda i: -spread(scores[i])),
        "median": sorted(means, key=lambda i: abs(means[i] - middle)),
        "worst": sorted(means, key=lambda i: means[i]),
        "best": sorted(means, key=lambda i: -means[i]),
    }
    chosen: dict[int, Choice] = {}
    for group, count in wanted.items():
        new = [index for index in ranked[group] if index not in chosen][:count]
        chosen |= {index: Choice(index, evaluation.names[index], group) for index in new}
    return list(chosen.values())


def outcomes(truth: np.ndarray, probability: np.ndarray) -> np.ndarray:
    """What became of each pixel: (H, W) uint8, an index into `CLASS_COLOURS`.

    Args:
        truth: (H, W) uint8, 0 or 1.
        probability: (H, W) uint8, 0..255.
    """
    real, predicted = truth > 0, probability >= FOREGROUND
    classes = np.zeros(truth.shape, np.uint8)
    classes[real & predicted] = HIT
    classes[~real & predicted] = FALSE_POSITIVE
    classes[real & ~predicted] = FALSE_NEGATIVE
    return classes


def error_map(truth: np.ndarray, probability: np.ndarray) -> np.ndarray:
    """The outcomes in colour: (H, W, 3) uint8."""
    return np.array(CLASS_COLOURS, np.uint8)[outcomes(truth, probability)]
