"""95 % bootstrap intervals over images, for means, for the largest E-measure and for the pooled balanced error rate.

Percentile intervals (Efron 1979): the images are drawn again with replacement, the number is computed for each draw,
and the interval holds the middle 95 % of them. All methods see the same draws, so that differences are paired by
image. An image for which a metric is undefined is left out of that metric, and a draw for which it is undefined too.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from cad.metrics.measures import MEASURES, PER_IMAGE
from cad.metrics.results import Difference, Estimate

RESAMPLES = 2000
LEVEL = 0.95
_ROWS_AT_ONCE = 100  # draws held in memory together
_ONE_IMAGE = "one image: an interval needs at least two"


@dataclass(frozen=True)
class Scores:
    """Per-image scores of one method, NaN where undefined.

    `values` has (N,) for each metric in `PER_IMAGE`; `e_curves` (N, 256) are E-measures by threshold; `counts` (N, 4)
    are true positive, false positive, false negative and true negative pixels.
    """

    values: dict[str, np.ndarray]
    e_curves: np.ndarray
    counts: np.ndarray

    @property
    def images(self) -> int:
        return len(self.counts)


def summarise(scores: Scores, seed: int, resamples: int = RESAMPLES) -> dict[str, Estimate]:
    """Each metric of `MEASURES` over the images, with its interval."""
    values, drawn = values_and_draws(scores, seed, resamples)
    sizes = defined_images(scores)
    return {
        name: estimate(values[name], drawn[name], sizes[name], measure.undefined) for name, measure in MEASURES.items()
    }


def compare_pairs(scores: dict[str, Scores], seed: int, resamples: int = RESAMPLES) -> list[Difference]:
    """For every pair of methods and every metric: first minus second, paired by image, and the verdict on the first."""
    differences = []
    for first, second in combinations(scores, 2):
        pair = on_common_images([scores[first], scores[second]])
        of_first, of_second = (values_and_draws(one, seed, resamples) for one in pair)
        differences += differences_of(first, second, of_first, of_second, defined_images(pair[0]))
    return differences


def differences_of(
    first: str,
    second: str,
    of_first: tuple[dict[str, float], dict[str, np.ndarray]],
    of_second: tuple[dict[str, float], dict[str, np.ndarray]],
    images: dict[str, int],
) -> list[Difference]:
    """First minus second in every metric, from what `values_and_draws` found for each on the same draws."""
    differences = []
    for name, measure in MEASURES.items():
        value = of_first[0][name] - of_second[0][name]
        reason = measure.undefined or "no image has a value for both methods"
        found = estimate(value, of_first[1][name] - of_second[1][name], images[name], reason)
        differences.append(Difference(name, first, second, found, verdict(name, found)))
    return differences


def values_and_draws(
    scores: Scores, seed: int, resamples: int = RESAMPLES
) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """Each metric over the images, and over each draw of them (resamples,); NaN where undefined.

    The draws are the same for the same seed and number of images.
    """
    columns = _columns(scores)
    values = _statistics(columns.sum(axis=0, keepdims=True))
    drawn = _statistics(_resampled_sums(columns, seed, resamples))
    return {name: float(value[0]) for name, value in values.items()}, drawn


def verdict(metric: str, difference: Estimate) -> str:
    """What a difference says about the first of two methods: "better", "worse" or "no difference seen"."""
    if difference.ci is None or difference.ci[0] <= 0 <= difference.ci[1]:
        return "no difference seen"
    return "better" if (difference.ci[0] > 0) != MEASURES[metric].lower_is_better else "worse"


def pooled_ber(counts: np.ndarray) -> np.ndarray:
    """Balanced error rate in percent of summed counts (..., 4) -> (...), NaN where a class is absent.

    Source: Vicente et al., ECCV 2016.
    """
    hits, false_alarms, misses, rejections = np.moveaxis(counts.astype(np.float64), -1, 0)
    with np.errstate(invalid="ignore"):
        return 50 * (misses / (hits + misses) + false_alarms / (false_alarms + rejections))


def _columns(scores: Scores) -> np.ndarray:
    """(N, K): values and E-curves with 0 where undefined, counts, and 1 or 0 for defined or not. Sums suffice."""
    values = np.stack([scores.values[name] for name in PER_IMAGE], axis=1)
    curve_defined = ~np.isnan(scores.e_curves[:, :1])
    return np.concatenate(
        [np.nan_to_num(values), ~np.isnan(values), scores.counts, curve_defined, np.nan_to_num(scores.e_curves)], axis=1
    )


def _statistics(sums: np.ndarray) -> dict[str, np.ndarray]:
    """Every metric from sums of `_columns` over images: (R, K) -> (R,) each, NaN where undefined."""
    many = len(PER_IMAGE)
    totals, defined, counts = sums[:, :many], sums[:, many : 2 * many], sums[:, 2 * many : 2 * many + 4]
    curve_defined, curves = sums[:, 2 * many + 4, None], sums[:, 2 * many + 5 :]
    with np.errstate(invalid="ignore"):  # 0 / 0 is NaN: undefined
        means = totals / defined
        largest = (curves / curve_defined).max(axis=1)
    found = {name: means[:, column] for column, name in enumerate(PER_IMAGE)}
    return found | {"e_measure_max": largest, "ber_pooled": pooled_ber(counts)}


def _resampled_sums(columns: np.ndarray, seed: int, resamples: int) -> np.ndarray:
    """Sums over images drawn with replacement: (N, K) -> (resamples, K), the same draws for the same seed and N."""
    return np.concatenate([weights @ columns for weights in _draws(len(columns), seed, resamples)])


def _draws(images: int, seed: int, resamples: int) -> Iterator[np.ndarray]:
    """How often each draw has each image: matrices (up to 100, images), `resamples` rows in all."""
    random = np.random.default_rng(seed)
    for start in range(0, resamples, _ROWS_AT_ONCE):
        rows = min(_ROWS_AT_ONCE, resamples - start)
        drawn = random.integers(images, size=(rows, images)) + images * np.arange(rows)[:, None]
        yield np.bincount(drawn.ravel(), minlength=rows * images).reshape(rows, images).astype(np.float64)


def on_common_images(several: list[Scores]) -> list[Scores]:
    """The same scores with every value undefined that is undefined in any of them."""
    undefined = {name: np.any([np.isnan(one.values[name]) for one in several], axis=0) for name in PER_IMAGE}
    no_curve = np.any([np.isnan(one.e_curves) for one in several], axis=0)
    return [
        Scores(
            {name: np.where(undefined[name], np.nan, one.values[name]) for name in PER_IMAGE},
            np.where(no_curve, np.nan, one.e_curves),
            one.counts,
        )
        for one in several
    ]


def defined_images(scores: Scores) -> dict[str, int]:
    """The number of images that each metric rests on."""
    sizes = {name: int((~np.isnan(scores.values[name])).sum()) for name in PER_IMAGE}
    return sizes | {"e_measure_max": int((~np.isnan(scores.e_curves[:, 0])).sum()), "ber_pooled": scores.images}


def estimate(value: float, drawn: np.ndarray, images: int, undefined: str) -> Estimate:
    """A value with the interval that its draws give.

    Args:
        images: the number of images that it rests on.
        undefined: the reason where it is NaN.
    """
    if np.isnan(value):
        return Estimate(None, None, undefined)
    if images < 2:
        return Estimate(float(value), None, _ONE_IMAGE)
    tail = 100 * (1 - LEVEL) / 2
    low, high = np.nanpercentile(drawn, [tail, 100 - tail])
    return Estimate(float(value), (float(low), float(high)))
