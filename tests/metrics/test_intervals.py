import numpy as np
import pytest

from cad.metrics.intervals import Scores, compare_pairs, pooled_ber, summarise, verdict
from cad.metrics.measures import MEASURES, PER_IMAGE
from cad.metrics.results import Estimate


def scores(values, curves=None, counts=None, **named):
    """Scores of which every metric has the same values, save those named."""
    values = np.asarray(values, float)
    curves = np.repeat(values[:, None], 256, axis=1) if curves is None else curves
    counts = np.tile([1, 1, 1, 1], (len(values), 1)) if counts is None else np.asarray(counts)
    return Scores({name: np.asarray(named.get(name, values), float) for name in PER_IMAGE}, curves, counts)


def test_means_and_intervals_of_values_that_can_be_checked():
    found = summarise(scores([0.0, 1.0]), seed=1)
    assert found["iou"] == Estimate(0.5, (0.0, 1.0))  # a quarter of the draws is all 0, a quarter all 1
    assert summarise(scores([0.25] * 5), seed=1)["mae"] == Estimate(0.25, (0.25, 0.25))
    values = np.random.default_rng(0).normal(size=400)
    low, high = summarise(scores(values), seed=1)["dice"].ci
    error = values.std() / 20
    assert low == pytest.approx(values.mean() - 1.96 * error, abs=0.15 * error)
    assert high == pytest.approx(values.mean() + 1.96 * error, abs=0.15 * error)


def test_all_metrics_have_an_estimate_and_the_seed_decides():
    values = scores(np.random.default_rng(0).uniform(size=30))
    assert summarise(values, seed=1) == summarise(values, seed=1)
    assert summarise(values, seed=1) != summarise(values, seed=2)
    assert list(summarise(values, seed=1)) == list(MEASURES)


def test_the_largest_e_measure_is_that_of_the_mean_curve():
    curves = np.zeros((2, 256))
    curves[0, 3], curves[1, 9], curves[:, 20] = 1, 1, 0.6
    found = summarise(scores([0, 0], curves), seed=1)["e_measure_max"]
    assert found == Estimate(pytest.approx(0.6), (pytest.approx(0.6), pytest.approx(1)))  # one image twice: 1


def test_the_pooled_error_rate_sums_pixels():
    counts = [[0, 0, 0, 100], [30, 20, 10, 40]]  # the first image has no shadow
    expected = 50 * (10 / 40 + 20 / 160)
    assert pooled_ber(np.sum(counts, axis=0)) == pytest.approx(expected)
    found = summarise(scores([0, 0], counts=counts), seed=1)["ber_pooled"]
    assert found.value == pytest.approx(expected) and np.isfinite(found.ci).all()


def test_undefined_is_none_with_a_reason():
    nothing = [np.nan] * 3
    found = summarise(scores([1, 1, 1], counts=[[0, 1, 0, 9]] * 3, weighted_f=nothing), seed=1)
    assert found["weighted_f"].value is None and "no image has foreground" in found["weighted_f"].reason
    assert found["ber_pooled"].value is None and "needs both" in found["ber_pooled"].reason
    found = summarise(scores([1, 1, 1], curves=np.full((3, 256), np.nan)), seed=1)["e_measure_max"]
    assert found.value is None and "more than one pixel" in found.reason


def test_images_without_a_value_are_left_out():
    found = summarise(scores([1, 1, 1], weighted_f=[0.5, np.nan, 0.5]), seed=1)
    assert found["weighted_f"] == Estimate(0.5, (0.5, 0.5))
    found = summarise(scores([1, 1, 1], weighted_f=[0.5, np.nan, np.nan]), seed=1)
    assert found["weighted_f"].ci is None


def test_one_image_has_no_interval_and_says_why():
    found = summarise(scores([0.5], counts=[[1, 0, 1, 2]]), seed=1)
    assert all(one.ci is None and one.reason.startswith("one image") for one in found.values())
    assert found["iou"].value == 0.5 and found["ber_pooled"].value == 25
    (difference,) = [one for one in compare_pairs({"a": scores([0.5]), "b": scores([0.1])}, 1) if one.metric == "iou"]
    assert difference.estimate.value == pytest.approx(0.4) and difference.verdict == "no difference seen"


def test_differences_are_paired():
    base = np.random.default_rng(0).uniform(size=20)
    found = compare_pairs({"a": scores(base + 0.01), "b": scores(base), "c": scores(base)}, seed=1)
    assert len(found) == 3 * len(MEASURES)
    by = {(one.metric, one.first, one.second): one for one in found}
    better = by["iou", "a", "b"]
    assert better.estimate.value == pytest.approx(0.01)
    assert better.estimate.ci == (pytest.approx(0.01), pytest.approx(0.01))  # much closer than the spread of each
    assert better.verdict == "better" and by["mae", "a", "b"].verdict == "worse"
    assert by["e_measure_max", "a", "b"].verdict == "better"
    assert by["iou", "b", "c"].estimate.ci == (0, 0) and by["iou", "b", "c"].verdict == "no difference seen"


def test_the_verdict_knows_which_metrics_are_better_when_lower():
    lower = {name for name in MEASURES if verdict(name, Estimate(-1, (-2, -0.5))) == "better"}
    assert lower == {"bce", "iou_loss", "mae", "ber_pooled", "ber_per_image"}
    assert verdict("iou", Estimate(0.1, (-0.1, 0.3))) == "no difference seen"
    assert verdict("iou", Estimate(None, None, "undefined")) == "no difference seen"
