"""Each metric against pysodmetrics or a value computed by hand, with empty, full, flat and one-pixel maps."""

import warnings

import numpy as np
import pytest
from py_sod_metrics import MAE, Emeasure, FmeasureHandler, FmeasureV2, Smeasure, WeightedFmeasure

from cad.metrics.field_metrics import balanced_error_rate, boundary, boundary_iou, field_scores, map_scores

SIDE = 8
EMPTY = np.zeros((SIDE, SIDE), bool)
FULL = ~EMPTY
CORNER, MIDDLE, HALF = EMPTY.copy(), EMPTY.copy(), EMPTY.copy()
CORNER[-1, -1] = MIDDLE[3, 4] = True
HALF[:, :4] = True
LAST_ROW = np.eye(SIDE, dtype=bool)[-1][:, None] | EMPTY
TRUTHS = {"empty": EMPTY, "full": FULL, "corner": CORNER, "middle": MIDDLE, "half": HALF, "row": LAST_ROW}
NOISE = np.random.default_rng(0).uniform(size=(SIDE, SIDE))
MAPS = {"noise": NOISE, "zero": EMPTY * 0.0, "one": FULL * 1.0, "flat": FULL * 0.4, "pixel": MIDDLE * 1.0}


def toolbox(probs, truth, normalize):
    """What pysodmetrics says by itself."""
    given = (np.round(probs * 255).astype(np.uint8), truth * np.uint8(255)) if normalize else (probs, truth)
    steps = {"s": Smeasure(), "e": Emeasure(), "w": WeightedFmeasure(), "m": MAE()}
    steps["f"] = FmeasureV2({"f": FmeasureHandler(with_dynamic=True, with_adaptive=False, beta=0.3)})
    for step in steps.values():
        step.step(*given, normalize=normalize)
    found = {name: step.get_results() for name, step in steps.items()}
    return {
        "s_measure": found["s"]["sm"],
        "e_measure_mean": found["e"]["em"]["curve"].mean(),
        "e_measure_adaptive": found["e"]["em"]["adp"],
        "weighted_f": found["w"]["wfm"],
        "f_measure": found["f"]["f"]["dynamic"].mean(),
        "mae": found["m"]["mae"],
    }


@pytest.mark.filterwarnings("ignore:.*:RuntimeWarning")
@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("truth", TRUTHS)
@pytest.mark.parametrize("probs", MAPS)
def test_values_are_pysodmetrics_where_it_has_any_and_never_nan(probs, truth, normalize):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        values, e_curve = map_scores(MAPS[probs], TRUTHS[truth], normalize)
    expected = toolbox(MAPS[probs], TRUTHS[truth], normalize)
    if truth == "empty":
        assert values.pop("weighted_f") is None and values.pop("f_measure") is None
    if probs == "zero":  # pysodmetrics' adaptive threshold of 0 predicts every pixel
        values.pop("e_measure_adaptive")
    for name, value in values.items():
        assert np.isfinite(value)
        if np.isfinite(expected[name]):
            assert value == pytest.approx(expected[name], abs=1e-12), name
    assert e_curve.shape == (256,) and np.isfinite(e_curve).all()


def test_where_pysodmetrics_is_nan_a_perfect_map_still_scores_one():
    for truth in (CORNER, LAST_ROW):
        values, _ = map_scores(truth * 1.0, truth)
        assert values["s_measure"] == pytest.approx(1, abs=1e-9)
        values, _ = map_scores(1.0 - truth, truth)
        assert values["s_measure"] < 0.5


def test_a_map_of_zeros_predicts_nothing_at_the_adaptive_threshold():
    size = SIDE * SIDE
    assert map_scores(EMPTY * 0.0, EMPTY)[0]["e_measure_adaptive"] == pytest.approx(size / (size - 1))
    assert map_scores(EMPTY * 0.0, FULL)[0]["e_measure_adaptive"] == 0


def test_an_image_of_one_pixel_has_no_e_measure():
    for truth in (np.ones((1, 1), bool), np.zeros((1, 1), bool)):
        scores = field_scores(np.full((1, 1), 3.0, np.float32), truth)
        assert scores.e_curve is None and scores.values["e_measure_mean"] is None
        assert all(value is None or np.isfinite(value) for value in scores.values.values())


def test_maps_are_stretched_only_on_request():
    hint = np.where(HALF, 0.45, 0.3)
    assert map_scores(hint, HALF)[0]["s_measure"] < 0.8
    assert map_scores(hint, HALF, normalize_maps=True)[0]["s_measure"] == pytest.approx(1)


def test_balanced_error_rate_by_hand():
    assert balanced_error_rate(3, 2, 1, 8) == pytest.approx(100 * (1 / 4 + 2 / 10) / 2)
    assert balanced_error_rate(0, 0, 0, 64) == 0  # no shadow, none predicted: not 50
    assert balanced_error_rate(0, 16, 0, 48) == 25
    assert balanced_error_rate(48, 0, 16, 0) == 25


def test_boundaries_by_hand():
    square = np.zeros((50, 50), bool)
    square[10:30, 10:30] = True
    ring = square.copy()
    ring[11:29, 11:29] = False
    assert np.array_equal(boundary(square), ring)  # 2 % of the diagonal is 1 pixel
    filled = np.ones((50, 50), bool)
    assert boundary(filled).sum() == 50 * 50 - 48 * 48
    moved = np.roll(square, 1, axis=1)
    both = (boundary(square) & boundary(moved)).sum()
    assert both == 2 * 19
    assert boundary_iou(square, moved) == both / (76 + 76 - both)
    assert boundary_iou(square, square) == 1 and boundary_iou(square, ~filled) == 0
    assert boundary_iou(~filled, ~filled) == 1


def test_boundaries_grow_with_the_image():
    assert boundary(np.ones((300, 400), bool)).sum() == 300 * 400 - 280 * 380


def test_field_scores_are_those_of_the_logits():
    logits = np.where(HALF, 4.0, -4.0).astype(np.float32)
    logits[0, 7] = 4
    scores = field_scores(logits, HALF)
    assert scores.counts == (32, 1, 0, 31)
    assert scores.values["ber_per_image"] == pytest.approx(50 / 32)
    assert scores.values["mae"] == pytest.approx((63 / (1 + np.exp(4)) + 1 / (1 + np.exp(-4))) / 64)
