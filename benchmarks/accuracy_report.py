"""The table, the numbers and the figure of benchmarks/accuracy.py."""

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cad.evaluation.compared import Compared
from cad.files import hide_home, write_atomically, write_json
from cad.metrics.intervals import Scores
from cad.metrics.measures import MEASURES
from cad.metrics.results import Difference
from cad.metrics.seeds import SeedEstimate, compare_seeds, summarise_seeds
from cad.reports.figures import ACCENT, INK, MUTED, new_figure, save_figure
from cad.reports.outputs import plain_difference, plain_estimate
from cad.reports.table import difference_lines, markdown_text, protocol_line, with_interval, with_spread
from cad.training.memory.peak_memory import predict_peak
from cad.training.options import memory_parser

DRAWN = ("iou", "ber_pooled")
LINE_HEIGHT = 10.0  # of a name in the figure, in points
# Of the configurations by order, dark enough to be read as text; told apart with the common colour blindnesses too.
COLOURS = (INK, ACCENT, "#117733", "#cc4400", "#882255", "#7a6a00")


@dataclass(frozen=True)
class Found:
    """The scores of one training, or of SAM as it is."""

    method: Compared
    scores: Scores


@dataclass(frozen=True)
class Place:
    """Where the figure has a configuration: its dot so many points right of its memory, its name right of its group."""

    dot_right: int
    name_mib: float
    name_right: int


@dataclass(frozen=True)
class Row:
    """What is reported of a configuration. Memory in MiB and time are None where its weights do not tell."""

    metrics: dict[str, SeedEstimate]
    weights: list[str]
    trainable_parameters: int | None
    train_peak_mib: float | None
    seconds_per_epoch: float | None

    @property
    def seeds(self) -> int:
        return len(self.weights)


def write_report(folder: Path, scored: dict[str, list[Found]], protocol: dict[str, Any]) -> None:
    """Write table.md, metrics.json and figure.png."""
    runs = {name: [one.scores for one in found] for name, found in scored.items()}
    rows = {name: summarise_configuration(found, protocol["seed"]) for name, found in scored.items()}
    differences = compare_seeds(runs, protocol["seed"])
    write_json(folder / "metrics.json", as_json(rows, differences, protocol))
    table = markdown(rows, differences, protocol)
    write_atomically(folder / "table.md", lambda file: file.write(table.encode()))
    write_figure(folder / "figure.png", rows)


def summarise_configuration(found: list[Found], seed: int) -> Row:
    """The metrics of one configuration over its seeds, with what its weights say of their training."""
    metadata = [one.method.metadata for one in found]
    seconds = [one["seconds_per_epoch"] for one in metadata if "seconds_per_epoch" in one]
    return Row(
        summarise_seeds([one.scores for one in found], seed),
        [hide_home(one.method.weights) for one in found],
        metadata[0].get("trainable_parameters"),
        predicted_mib(metadata[0]),
        float(np.mean(seconds)) if seconds else None,
    )


def predicted_mib(metadata: Mapping[str, Any]) -> float | None:
    """The predicted peak of a training step with the settings that the weights were trained with."""
    if "settings" not in metadata:
        return None
    args = memory_parser("accuracy.py", "").parse_args(["--method", metadata["method"]])
    for name in vars(args):
        setattr(args, name, metadata["settings"].get(name, getattr(args, name)))
    return predict_peak(args, metadata["method"]).train_mib


def as_json(rows: dict[str, Row], differences: list[Difference], protocol: dict[str, Any]) -> dict[str, Any]:
    """Plain values of everything that was found."""
    return {
        "protocol": protocol,
        "configurations": {
            name: {
                "weights": row.weights,
                "trainable_parameters": row.trainable_parameters,
                "train_peak_mib": row.train_peak_mib,
                "seconds_per_epoch": row.seconds_per_epoch,
                "metrics": {
                    metric: plain_estimate(one.mean) | {"of_seeds": one.of_seeds, "spread": one.spread}
                    for metric, one in row.metrics.items()
                },
            }
            for name, row in rows.items()
        },
        "differences": [plain_difference(one) for one in differences],
    }


def markdown(rows: dict[str, Row], differences: list[Difference], protocol: dict[str, Any]) -> str:
    """Metrics, memory and time as rows, configurations as columns; then the differences; then how they were found."""
    lines = [f"| metric | {' | '.join(map(markdown_text, rows))} |", "|---" * (len(rows) + 1) + "|"]

    def line(title: str, cells: list[str]) -> None:
        lines.append(f"| {title} | {' | '.join(cells)} |")

    for name, measure in MEASURES.items():
        line(f"{measure.title} {measure.arrow}", [cell(row.metrics[name], name) for row in rows.values()])
    line("trained parameters", [number(row.trainable_parameters) for row in rows.values()])
    line("training step, MiB (predicted)", [number(row.train_peak_mib) for row in rows.values()])
    line("s/epoch", [number(row.seconds_per_epoch, 1) for row in rows.values()])
    line("seeds", [str(row.seeds) for row in rows.values()])
    lines += difference_lines(differences)
    how = "Means over seeds, ± the standard deviation over seeds; differences are paired by image, seeds averaged: "
    how += "better and worse are about images."
    return "\n".join([*lines, "", f"{protocol_line(protocol)} {how}", ""])


def cell(found: SeedEstimate, metric: str) -> str:
    return with_interval(found.mean, metric) + with_spread(found.spread, metric)


def number(value: float | None, digits: int = 0) -> str:
    return "-" if value is None else f"{value:,.{digits}f}"


def write_figure(path: Path, rows: dict[str, Row]) -> None:
    """Accuracy over the memory of training: means with their intervals, a tick a seed; SAM as it is as a line."""
    figure = new_figure(7.0, 3.0)
    figure.subplots_adjust(left=0.075, right=0.985, bottom=0.23, top=0.9, wspace=0.2)
    for axes, metric in zip(figure.subplots(1, len(DRAWN)), DRAWN, strict=True):
        draw_metric(axes, rows, metric)
    meaning = "dot: mean over seeds; bar: its 95 % interval over test images; ticks: single seeds; "
    meaning += "nearly the same memory: side by side"
    figure.text(0.985, 0.03, meaning, fontsize=6.5, color=MUTED, ha="right")
    save_figure(figure, path)


def side_by_side(rows: dict[str, Row], near: float) -> dict[str, Place]:
    """The places of the configurations whose memory is known, since some have nearly the same.

    Args:
        near: MiB within which those of a group are from its first.
    """
    groups: list[list[str]] = []
    memory = {name: row.train_peak_mib for name, row in rows.items() if row.train_peak_mib is not None}
    for name in sorted(memory, key=memory.__getitem__):
        if groups and memory[name] - memory[groups[-1][0]] < near:
            groups[-1].append(name)
        else:
            groups.append([name])
    return {
        name: Place(8 * place, memory[group[-1]], 8 * (len(group) - 1) + 7)
        for group in groups
        for place, name in enumerate(group)
    }


def draw_metric(axes: Any, rows: dict[str, Row], metric: str) -> None:
    """One panel: a point for each configuration, named beside it."""
    largest = max((row.train_peak_mib or 0 for row in rows.values()), default=0)
    places = side_by_side(rows, 0.1 * largest)
    colours = dict(zip(rows, itertools.cycle(COLOURS), strict=False))
    for name, row in rows.items():
        found = row.metrics[metric]
        if found.mean.value is None:
            continue
        if row.train_peak_mib is None:
            axes.axhline(found.mean.value, color=MUTED, linewidth=0.8, dashes=(4, 3))
            left, style = (0.02, found.mean.value), {"fontsize": 7.5, "color": MUTED}
            axes.annotate(name, left, (0, 3), axes.get_yaxis_transform(), "offset points", **style)
        else:
            draw_point(axes, colours[name], row, found, places[name].dot_right)
    axes.set_xlim(0, 1.9 * largest or 1)  # room for the names
    write_names(axes, {name: row.metrics[metric].mean.value for name, row in rows.items()}, places, colours)
    measure = MEASURES[metric]
    axes.set_title(f"{measure.title} {measure.arrow}", fontsize=9, loc="left", color=INK, pad=8)
    axes.set_xlabel("peak memory of a training step, MiB (predicted)", fontsize=7.5, color=MUTED)
    axes.tick_params(labelsize=7, color="#b0b0b0", labelcolor=MUTED, length=2, width=0.6)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set(color="#b0b0b0", linewidth=0.6)


def write_names(axes: Any, values: dict[str, float | None], places: dict[str, Place], colours: dict[str, str]) -> None:
    """Name each configuration at the height of its mean, or above the name below where both would be written over."""
    points = {name: (place.name_mib, values[name]) for name, place in places.items() if values[name] is not None}
    heights = {name: axes.transData.transform(point)[1] * 72 / axes.figure.dpi for name, point in points.items()}
    for name, up in moved_apart(heights, LINE_HEIGHT).items():
        style = {"fontsize": 8, "color": colours[name], "va": "center"}
        axes.annotate(name, points[name], (places[name].name_right, up), textcoords="offset points", **style)


def moved_apart(heights: dict[str, float], distance: float) -> dict[str, float]:
    """How far up each has to move, from the lowest on, for all to be so far apart; in the unit of the heights."""
    moved: dict[str, float] = {}
    lowest = -math.inf
    for name in sorted(heights, key=heights.__getitem__):
        height = max(heights[name], lowest)
        moved[name], lowest = height - heights[name], height + distance
    return moved


def draw_point(axes: Any, colour: str, row: Row, found: SeedEstimate, right: int) -> None:
    """The mean of one configuration with its interval, so many points right of its memory; its seeds left of it."""
    from matplotlib.transforms import ScaledTranslation

    low, high = found.mean.ci or (found.mean.value, found.mean.value)

    def moved(points: int) -> Any:
        return axes.transData + ScaledTranslation(points / 72, 0, axes.figure.dpi_scale_trans)

    bar = {"color": colour, "linewidth": 1.1, "solid_capstyle": "butt", "zorder": 2, "transform": moved(right)}
    axes.plot([row.train_peak_mib] * 2, [low, high], **bar)
    dot = {"color": colour, "markersize": 5, "markeredgewidth": 0, "zorder": 4, "transform": moved(right)}
    axes.plot(row.train_peak_mib, found.mean.value, "o", **dot)
    of_seeds = [value for value in found.of_seeds if value is not None] if row.seeds > 1 else []
    style = {"markersize": 4, "color": colour, "markeredgewidth": 0.7}
    axes.plot([row.train_peak_mib] * len(of_seeds), of_seeds, "_", transform=moved(right - 3), zorder=5, **style)
    # What is drawn with a transform of its own leaves the axes' limits alone.
    axes.update_datalim([(row.train_peak_mib, value) for value in (low, high, *of_seeds)])
    axes.autoscale_view()
