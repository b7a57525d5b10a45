"""The numbers of an evaluation in plain words: metrics, verdicts, protocol and warnings."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from cad.metrics.results import Evaluation

NONE = "\N{EN DASH}"  # what stands for a value that does not exist, and between the ends of an interval


@dataclass(frozen=True)
class MetricText:
    """How a metric is written: `better` is "higher" or "lower", `percent` says that its values are 0..100."""

    title: str
    better: str
    meaning: str
    percent: bool = False


METRIC_TEXTS = {
    "iou": MetricText("IoU", "higher", "overlap: shared area over joint area"),
    "dice": MetricText("Dice", "higher", "overlap: twice the shared area over the sum of areas"),
    "boundary_iou": MetricText("Boundary IoU", "higher", "overlap of a thin band along the outlines"),
    "s_measure": MetricText("S-measure", "higher", "likeness of structure, of objects and regions"),
    "e_measure_mean": MetricText("E-measure, mean", "higher", "alignment, mean over all thresholds"),
    "e_measure_max": MetricText("E-measure, max", "higher", "alignment at the best threshold"),
    "e_measure_adaptive": MetricText("E-measure, adaptive", "higher", "alignment at twice the mean probability"),
    "weighted_f": MetricText("Weighted F-measure", "higher", "precision and recall, weighted by place of the error"),
    "f_measure": MetricText("F-measure", "higher", "precision and recall"),
    "mae": MetricText("Mean absolute error", "lower", "mean distance of probability and truth"),
    "ber_pooled": MetricText("Balanced error, pooled", "lower", "pixels counted over the whole set", percent=True),
    "ber_per_image": MetricText("Balanced error, per image", "lower", "mean over images", percent=True),
    "bce": MetricText("Cross-entropy", "lower", "the first half of the training loss"),
    "iou_loss": MetricText("IoU loss", "lower", "the second half of the training loss"),
}


def metric_text(metric: str) -> MetricText:
    """The text of a metric; one that is not known here keeps its name, and nobody is called best in it."""
    return METRIC_TEXTS.get(metric, MetricText(metric.replace("_", " "), "", ""))


def ordered_metrics(found: Iterable[str]) -> list[str]:
    """Metrics in the order of `METRIC_TEXTS`, unknown ones last."""
    names = dict.fromkeys(found)
    return [*(name for name in METRIC_TEXTS if name in names), *(name for name in names if name not in METRIC_TEXTS)]


def number(value: float, metric: str, signed: bool = False) -> str:
    """A value as it is printed: percentages with two digits, all else with three; a real minus sign."""
    digits = 2 if metric_text(metric).percent else 3
    text = f"{value:+.{digits}f}" if signed else f"{value:.{digits}f}"
    if float(text) == 0:
        text = f"{0:.{digits}f}"
    return text.replace("-", "\N{MINUS SIGN}")


def best_labels(evaluation: Evaluation, metric: str) -> set[str]:
    """The methods that are best in a metric, as far as its printed digits can tell; none where one is alone."""
    better = metric_text(metric).better
    estimates = {method.label: method.summary.get(metric) for method in evaluation.methods}
    values = {label: found.value for label, found in estimates.items() if found and found.value is not None}
    if len(values) < 2 or not better:
        return set()
    best = max(values.values()) if better == "higher" else min(values.values())
    return {label for label, value in values.items() if number(value, metric) == number(best, metric)}


def protocol_sentences(evaluation: Evaluation) -> list[str]:
    """What was done, for people. Keys of the protocol that are not known here are left to the list of settings."""
    protocol, count = evaluation.protocol, len(evaluation.names)
    sentences = [
        f"Every method predicted the same {plural(count, 'image')}; each prediction is compared with its mask."
    ]
    size, threshold = protocol.get("metric_size"), protocol.get("mask_threshold")
    if size == "original":
        sentences.append("Scores are taken at each mask's own size: the prediction is enlarged to it.")
    elif size is not None:
        sentences.append(
            f"Scores are taken at {size} \N{MULTIPLICATION SIGN} {size} pixels: "
            "image and mask are resized, their shape is not kept."
        )
    if threshold is not None:
        counted = "that is not zero" if threshold in ("nonzero", 1, "1") else f"of at least {threshold} of 255"
        sentences.append(f"A pixel of a mask file {counted} is foreground.")
    if protocol.get("normalize_maps") is True:
        sentences.append(
            "Each probability map was stretched to 0..1 before the S-, E- and F-measures and the mean absolute error, "
            "as the MATLAB toolbox of the field does."
        )
    elif protocol.get("normalize_maps") is False:
        sentences.append(
            "Probability maps were used as they are. The MATLAB toolbox of the field stretches each map to 0..1, so "
            "numbers made with it can differ."
        )
    sentences.append(
        "Intervals are 95 % bootstrap intervals over images: how far a number would move with other images of the same "
        "kind. They say nothing about training again with another seed."
    )
    return sentences


def warnings_of(metadata: Mapping[str, Any], settings: Mapping[str, Any] | None = None) -> list[str]:
    """What a reader must know before the numbers of some weights: a demo, an encoder without pretraining."""
    settings = settings or metadata.get("settings") or {}
    found = []
    if metadata.get("demo"):
        found.append("Demo: synthetic images. The numbers show that the software works, not that the method does.")
    source = (metadata.get("base") or {}).get("source")
    if source == "random" or (source is None and settings.get("checkpoint") == "random"):
        found.append("Random encoder: no pretrained SAM weights were used, so accuracy says nothing about the method.")
    return found


def plural(count: int, noun: str) -> str:
    """`1 image`, `2 images`."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def flatten(content: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested plain values as one level of text: {"versions": {"torch": "2.6"}} -> {"versions.torch": "2.6"}."""
    flat: dict[str, str] = {}
    for key, value in content.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        elif isinstance(value, bool):
            flat[f"{prefix}{key}"] = "yes" if value else "no"
        elif isinstance(value, list | tuple):
            flat[f"{prefix}{key}"] = ", ".join(map(str, value))
        else:
            flat[f"{prefix}{key}"] = NONE if value is None else f"{value:g}" if isinstance(value, float) else str(value)
    return flat
