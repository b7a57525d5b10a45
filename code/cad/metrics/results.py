"""What an evaluation found: the numbers that tables, figures and the report are made from."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Estimate:
    """One number with its 95 % bootstrap interval over images; without a value, the reason why it is undefined."""

    value: float | None
    ci: tuple[float, float] | None = None
    reason: str | None = None


@dataclass(frozen=True)
class MethodResult:
    """Scores of one set of trained weights.

    `label` is unique and short, for tables and files. `per_image` has one value an image for each metric that is
    defined image by image, in the order of the evaluation's names; None where it is undefined for that image.
    """

    label: str
    method: str
    weights: str
    metadata: dict[str, Any]
    summary: dict[str, Estimate]
    per_image: dict[str, list[float | None]]


@dataclass(frozen=True)
class Difference:
    """The mean over images of `first` minus `second` in one metric, paired by image.

    `verdict` is about `first`, and about images: "better", "worse" or "no difference seen" (the interval contains 0).
    `spread` is the standard deviation of the difference over seeds, where both have the same number of them, above 1.
    """

    metric: str
    first: str
    second: str
    estimate: Estimate
    verdict: str
    spread: float | None = None


@dataclass(frozen=True)
class Evaluation:
    """Scores of all methods on the same images under one protocol (plain values: size, thresholds, counts)."""

    protocol: dict[str, Any]
    names: list[str]
    methods: list[MethodResult]
    differences: list[Difference]
