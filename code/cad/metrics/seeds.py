"""Several trainings of one method that differ by their seed: the mean over seeds, its interval, its spread.

Two things vary: the images that happen to be in the test set, and the seed. The interval is about the images: every
metric is averaged over the seeds, for the test set and for each bootstrap draw of its images, which for a metric that
is a mean over images is the bootstrap of the seed-averaged value of each image. The spread beside it, the standard
deviation of the seeds' values, is about the seeds. A difference of two methods is paired by image, averaged likewise.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np

from cad.metrics.intervals import (
    RESAMPLES,
    Scores,
    defined_images,
    differences_of,
    estimate,
    on_common_images,
    values_and_draws,
)
from cad.metrics.measures import MEASURES
from cad.metrics.results import Difference, Estimate


@dataclass(frozen=True)
class SeedEstimate:
    """A metric over seeds.

    Args:
        mean: the mean over seeds, with its interval over images.
        of_seeds: the value of each seed, None where it is undefined.
        spread: the sample standard deviation of these; None for one seed, or where one has no value.
    """

    mean: Estimate
    of_seeds: list[float | None]
    spread: float | None


def summarise_seeds(runs: Sequence[Scores], seed: int, resamples: int = RESAMPLES) -> dict[str, SeedEstimate]:
    """Each metric of `MEASURES` over the images and seeds of one method.

    An image counts for a metric where every seed defines it.

    Args:
        runs: scores of one training each, on the same images in the same order.
        seed: of the bootstrap.

    Raises:
        ValueError: no scores, or of different numbers of images.
    """
    check_same_images(runs)
    common = on_common_images(list(runs))
    found = [values_and_draws(one, seed, resamples) for one in common]
    values, drawn = mean_over_seeds(found)
    sizes = defined_images(common[0])
    summary = {}
    for name, measure in MEASURES.items():
        mean = estimate(values[name], drawn[name], sizes[name], measure.undefined)
        of_seeds = [of_seed[name] for of_seed, _ in found]
        spread = float(np.std(of_seeds, ddof=1)) if len(of_seeds) > 1 and mean.value is not None else None
        summary[name] = SeedEstimate(mean, [None if np.isnan(value) else value for value in of_seeds], spread)
    return summary


def compare_seeds(methods: Mapping[str, Sequence[Scores]], seed: int, resamples: int = RESAMPLES) -> list[Difference]:
    """For every pair of methods and every metric: mean over seeds of the first minus that of the second, by image.

    The methods may have different numbers of seeds; one without a seed has one. Where the numbers are equal, those in
    the same place are the same seeds, over which the difference has a spread.

    Args:
        methods: by label, the scores of each training, on the same images in the same order.
        seed: of the bootstrap.

    Raises:
        ValueError: no scores, or of different numbers of images.
    """
    check_same_images([run for runs in methods.values() for run in runs])
    differences = []
    for first, second in combinations(methods, 2):
        common = on_common_images([*methods[first], *methods[second]])
        found = [values_and_draws(one, seed, resamples) for one in common]
        seeds = len(methods[first])
        means = mean_over_seeds(found[:seeds]), mean_over_seeds(found[seeds:])
        for one in differences_of(first, second, *means, defined_images(common[0])):
            of_seeds = [values[one.metric] for values, _ in found]
            differences.append(replace(one, spread=paired_spread(of_seeds[:seeds], of_seeds[seeds:])))
    return differences


def mean_over_seeds(
    found: Sequence[tuple[dict[str, float], dict[str, np.ndarray]]],
) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """What `values_and_draws` gives for each seed, averaged: values, and draws (resamples,)."""
    values = {name: float(np.mean([of_seed[name] for of_seed, _ in found])) for name in MEASURES}
    drawn = {name: np.mean([of_draws[name] for _, of_draws in found], axis=0) for name in MEASURES}
    return values, drawn


def paired_spread(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Standard deviation over seeds of the difference between two methods' values."""
    if len(first) != len(second) or len(first) < 2:
        return None
    spread = float(np.std(np.subtract(first, second), ddof=1))
    return None if np.isnan(spread) else spread


def check_same_images(runs: Sequence[Scores]) -> None:
    """Raise ValueError unless there are scores, all of as many images."""
    images = {run.images for run in runs}
    if len(images) != 1:
        raise ValueError(f"expected scores of the same images, found {sorted(images)} images")
