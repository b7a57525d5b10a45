"""The metrics of the papers on camouflage and shadows, for one image at a time. Without PyTorch.

Structure, enhanced-alignment and F-measures and MAE are pysodmetrics' (Python package `py_sod_metrics`), which
reproduces the MATLAB toolbox of these papers. Three things are chosen here:

- Maps are scored as they are. The toolbox stretches each map to 0..1 first, which turns a flat map between 0.3 and 0.45
  into a perfect one; `normalize_maps` does as the toolbox does, on the 8-bit map that it would have read.
- `f_measure` is the mean over 256 thresholds with beta^2 = 0.3: like the mean E-measure, beside which papers print it,
  it does not depend on one threshold. `weighted_f` has beta^2 = 1, as in its paper.
- What has no answer is None, never NaN. Without foreground in the truth there is no precision and no recall: both
  F-measures are None (pysodmetrics says 0, even for a perfect prediction). In an image of one pixel the E-measure is.

The E-measure of a perfect prediction is N / (N - 1) for N pixels, not 1: that is its definition.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from py_sod_metrics import MAE, Emeasure, FmeasureHandler, FmeasureV2, Smeasure, WeightedFmeasure
from scipy.special import expit

BOUNDARY_SHARE = 0.02  # of the diagonal: Cheng et al. 2021
BETA_SQUARED = 0.3
THRESHOLDS = 256


@dataclass(frozen=True)
class FieldScores:
    """Scores of one image.

    `values` has a number or None for each metric of this module that an image has by itself. `e_curve` (256,) is the
    E-measure at each threshold from 255 down to 0, None where it is undefined. `counts` are the true positive, false
    positive, false negative and true negative pixels.
    """

    values: dict[str, float | None]
    e_curve: np.ndarray | None
    counts: tuple[int, int, int, int]


def field_scores(logits: np.ndarray, truth: np.ndarray, normalize_maps: bool = False) -> FieldScores:
    """Score one image.

    Args:
        logits: (H, W) floating point, finite; above 0 is foreground.
        truth: (H, W) bool.
        normalize_maps: stretch the map to 0..1 before the measures that pysodmetrics computes.
    """
    probs, predicted = expit(logits.astype(np.float64)), logits > 0
    counts = count_pixels(predicted, truth)
    values, e_curve = map_scores(probs, truth, normalize_maps)
    values["ber_per_image"] = balanced_error_rate(*counts)
    values["boundary_iou"] = boundary_iou(predicted, truth)
    return FieldScores(values, e_curve, counts)


def map_scores(
    probs: np.ndarray, truth: np.ndarray, normalize_maps: bool = False
) -> tuple[dict[str, float | None], np.ndarray | None]:
    """S-measure, E-measure, F-measures and MAE of one probability map.

    Args:
        probs: (H, W) float64 in 0..1.
        truth: (H, W) bool.

    Returns:
        The values by name, and the E-measure's curve over thresholds (256,) or None.
        Source: Fan et al., ICCV 2017 (S) and IJCAI 2018 (E); Margolin et al., CVPR 2014 (weighted F); Achanta et al.,
        CVPR 2009 (F); Perazzi et al., CVPR 2012 (MAE).
    """
    # To stretch, pysodmetrics wants what it would have read from files.
    files = np.round(probs * 255).astype(np.uint8), truth.astype(np.uint8) * 255
    given = files if normalize_maps else (probs, truth)
    structure, alignment, error = _Smeasure(), _Emeasure(), MAE()
    structure.step(*given, normalize=normalize_maps)
    error.step(*given, normalize=normalize_maps)
    values: dict[str, float | None] = {
        "s_measure": float(structure.get_results()["sm"]),
        "mae": float(error.get_results()["mae"]),
        **dict.fromkeys(("e_measure_mean", "e_measure_adaptive", "weighted_f", "f_measure")),
    }
    e_curve = None
    if truth.size > 1:
        alignment.step(*given, normalize=normalize_maps)
        result = alignment.get_results()["em"]
        e_curve = result["curve"]
        values |= {"e_measure_mean": float(e_curve.mean()), "e_measure_adaptive": float(result["adp"])}
    if truth.any():
        weighted = WeightedFmeasure()
        fixed = FmeasureV2({"f": FmeasureHandler(with_dynamic=True, with_adaptive=False, beta=BETA_SQUARED)})
        weighted.step(*given, normalize=normalize_maps)
        fixed.step(*given, normalize=normalize_maps)
        values["weighted_f"] = float(weighted.get_results()["wfm"])
        values["f_measure"] = float(fixed.get_results()["f"]["dynamic"].mean())
    return values, e_curve


class _Smeasure(Smeasure):
    """pysodmetrics' S-measure, defined too where the foreground's centre lies in the last row or column.

    The quadrants beyond it are empty and have weight 0, but the mean of nothing made the whole measure NaN.
    """

    def ssim(self, pred: np.ndarray, gt: np.ndarray) -> float:
        return super().ssim(pred, gt) if pred.size else 0.0


class _Emeasure(Emeasure):
    """pysodmetrics' E-measure, except that a map of zeros predicts nothing at the adaptive threshold.

    That threshold is twice the map's mean, which is 0 then, and "at least 0" would be every pixel.
    """

    def cal_adaptive_em(self, pred: np.ndarray, gt: np.ndarray) -> float:
        if pred.any():
            return super().cal_adaptive_em(pred, gt)
        return self.cal_em_with_threshold(pred, gt, threshold=1.0)


def count_pixels(predicted: np.ndarray, truth: np.ndarray) -> tuple[int, int, int, int]:
    """(true positive, false positive, false negative, true negative) pixels of two (H, W) bool maps."""
    hits = int(np.count_nonzero(predicted & truth))
    false_alarms = int(np.count_nonzero(predicted)) - hits
    misses = int(np.count_nonzero(truth)) - hits
    return hits, false_alarms, misses, truth.size - hits - false_alarms - misses


def balanced_error_rate(hits: int, false_alarms: int, misses: int, rejections: int) -> float:
    """Mean of the error rates of the foreground and of the background, in percent.

    With only one of the two in the truth it is that one's error rate: counting the absent class as wholly wrong gives a
    perfect prediction of an image without shadow 50 %. Pooled over a data set, both are there.
    Source: Vicente et al., ECCV 2016.
    """
    rates = []
    if hits + misses:
        rates.append(misses / (hits + misses))
    if false_alarms + rejections:
        rates.append(false_alarms / (false_alarms + rejections))
    return 100 * sum(rates) / len(rates)


def boundary_iou(predicted: np.ndarray, truth: np.ndarray) -> float:
    """Intersection over union of the two boundaries, (H, W) bool -> 0..1; 1 where neither map has foreground.

    Source: Cheng et al., CVPR 2021, with a distance of 2 % of the diagonal.
    """
    ours, theirs = boundary(predicted), boundary(truth)
    union = np.count_nonzero(ours | theirs)
    return np.count_nonzero(ours & theirs) / union if union else 1.0


def boundary(mask: np.ndarray) -> np.ndarray:
    """The foreground pixels (H, W) bool near the contour, within 2 % of the diagonal; the border is contour too."""
    distance = max(1, round(BOUNDARY_SHARE * float(np.hypot(*mask.shape))))
    padded = cv2.copyMakeBorder(mask.astype(np.uint8), 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    inside = cv2.erode(padded, np.ones((3, 3), np.uint8), iterations=distance)
    return mask & (inside[1:-1, 1:-1] == 0)
