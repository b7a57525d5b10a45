import numpy as np
import pytest

from cad.metrics.intervals import Scores, compare_pairs, summarise
from cad.metrics.measures import MEASURES, PER_IMAGE
from cad.metrics.seeds import compare_seeds, summarise_seeds


def scores(values, curves=None, counts=None):
    values = np.asarray(values, float)
    curves = np.repeat(values[:, None], 256, axis=1) if curves is None else curves
    counts = np.tile([1, 1, 1, 1], (len(values), 1)) if counts is None else np.asarray(counts)
    return Scores(dict.fromkeys(PER_IMAGE, values), curves, counts)


def noisy(count, seed):
    random = np.random.default_rng(seed)
    counts = random.integers(1, 100, size=(count, 4))
    return scores(random.uniform(size=count), random.uniform(size=(count, 256)), counts)


def test_one_seed_is_what_an_evaluation_says():
    runs = {"cad": noisy(30, 1), "decoder": noisy(30, 2)}
    found = summarise_seeds([runs["cad"]], seed=5)
    assert {name: one.mean for name, one in found.items()} == summarise(runs["cad"], seed=5)
    assert all(one.spread is None and one.of_seeds == [one.mean.value] for one in found.values())
    assert compare_seeds({name: [one] for name, one in runs.items()}, seed=5) == compare_pairs(runs, seed=5)


def test_a_mean_over_images_is_that_of_the_seed_averaged_images():
    first, second = noisy(30, 1), noisy(30, 2)
    averaged = summarise(scores((first.values["iou"] + second.values["iou"]) / 2), seed=5)["iou"]
    found = summarise_seeds([first, second], seed=5)["iou"]
    assert found.mean.value == pytest.approx(averaged.value)
    assert found.mean.ci == pytest.approx(averaged.ci)
    of_seeds = [first.values["iou"].mean(), second.values["iou"].mean()]
    assert found.of_seeds == pytest.approx(of_seeds)
    assert found.spread == pytest.approx(abs(of_seeds[0] - of_seeds[1]) / np.sqrt(2))


def test_pooled_numbers_are_averaged_after_pooling():
    """Pixels are pooled within a seed: a seed's error rate is no mean over images, but the seeds' is one over seeds."""
    first = scores([0, 0], counts=[[8, 0, 2, 10], [0, 0, 0, 10]])  # misses a fifth
    second = scores([0, 0], counts=[[10, 4, 0, 6], [0, 0, 0, 10]])  # a fifth false alarms
    found = summarise_seeds([first, second], seed=5)["ber_pooled"]
    assert found.of_seeds == pytest.approx([10, 10]) and found.mean.value == pytest.approx(10)
    assert found.spread == pytest.approx(0)
    peaks = [np.zeros((2, 256)), np.zeros((2, 256))]
    peaks[0][:, 3], peaks[1][:, 200] = 1, 0.5  # the largest of the mean curve would be 0.5
    found = summarise_seeds([scores([0, 0], curves) for curves in peaks], seed=5)["e_measure_max"]
    assert found.mean.value == pytest.approx(0.75)


def test_seeds_that_cancel_leave_no_interval_over_images():
    """Each seed varies over images, their average does not: the interval is about the average."""
    up = np.linspace(0, 1, 12)
    found = summarise_seeds([scores(up), scores(1 - up)], seed=5)["iou"]
    assert found.mean.value == pytest.approx(0.5) and found.mean.ci == pytest.approx((0.5, 0.5))
    assert found.spread == pytest.approx(0)


def test_differences_are_paired_by_image_and_averaged_over_seeds():
    base = np.random.default_rng(0).uniform(size=20)
    methods = {"a": [scores(base + 0.01), scores(base + 0.03), scores(base + 0.02)], "b": [scores(base)] * 2}
    by_metric = {one.metric: one for one in compare_seeds(methods, seed=5)}
    assert set(by_metric) == set(MEASURES)
    assert by_metric["iou"].estimate.value == pytest.approx(0.02)
    assert by_metric["iou"].estimate.ci == pytest.approx((0.02, 0.02)) and by_metric["iou"].verdict == "better"
    assert by_metric["iou"].spread is None  # of different numbers of seeds
    assert by_metric["mae"].verdict == "worse" and by_metric["ber_pooled"].verdict == "no difference seen"


def test_the_interval_of_a_difference_is_that_of_the_seed_averaged_images_and_its_spread_that_of_the_seeds():
    first, second = [noisy(30, 1), noisy(30, 2)], [noisy(30, 3), noisy(30, 4)]
    images = np.mean([one.values["iou"] for one in first], axis=0) - np.mean(
        [one.values["iou"] for one in second], axis=0
    )
    by_hand = summarise(scores(images), seed=5)["iou"]
    found = {one.metric: one for one in compare_seeds({"a": first, "b": second}, seed=5)}["iou"]
    assert found.estimate.value == pytest.approx(by_hand.value) and found.estimate.ci == pytest.approx(by_hand.ci)
    of_seeds = [a.values["iou"].mean() - b.values["iou"].mean() for a, b in zip(first, second, strict=True)]
    assert found.spread == pytest.approx(abs(of_seeds[0] - of_seeds[1]) / np.sqrt(2))


def test_an_image_counts_where_every_seed_defines_it():
    found = summarise_seeds([scores([0.2, 0.4, np.nan]), scores([0.4, 0.6, 0.9])], seed=5)["iou"]
    assert found.mean.value == pytest.approx(0.4) and found.of_seeds == pytest.approx([0.3, 0.5])
    (difference,) = [
        one
        for one in compare_seeds({"a": [scores([0.5, 0.5, 0.0])], "b": [scores([0.2, 0.4, np.nan])]}, seed=5)
        if one.metric == "iou"
    ]
    assert difference.estimate.value == pytest.approx(0.2)
    nothing = summarise_seeds([scores([np.nan, np.nan])] * 2, seed=5)["weighted_f"]
    assert nothing.mean.value is None and nothing.of_seeds == [None, None] and nothing.spread is None


@pytest.mark.parametrize("runs", [[], [scores([1.0]), scores([1.0, 2.0])]])
def test_other_images_are_refused(runs):
    with pytest.raises(ValueError, match="same images"):
        summarise_seeds(runs, seed=5)
