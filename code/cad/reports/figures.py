"""The figures of a paper: methods side by side on chosen images, and the curves of a training run.

Matplotlib is imported where a figure is made, so that nothing else waits for it.
"""

import textwrap
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cad.files import write_atomically
from cad.metrics.results import Evaluation
from cad.reports.pictures import (
    CLASS_COLOURS,
    FALSE_NEGATIVE,
    FALSE_POSITIVE,
    GROUPS,
    HIT,
    Choice,
    Pictures,
    choose_images,
    error_map,
    scores_of,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 300
TEXT_WIDTH = 7.0  # inches, the text block of a two-column paper
COMPARED = {"differ": 3, "median": 2, "worst": 2}
INK, MUTED, ACCENT = "#1a1a1a", "#767676", "#0b5cad"
# Inches: cells of the comparison, the gap between them, and what stands around them.
LARGEST_CELL, SMALLEST_CELL, GAP, GROUP_GAP = 1.25, 0.8, 0.05, 0.08
GUTTER, CAPTION, LINE, LEGEND = 0.2, 0.14, 0.13, 0.27


def new_figure(width: float, height: float) -> "Figure":
    """An empty figure, in inches, that no global state knows of."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure: "Figure", path: Path) -> None:
    """Write the figure as PNG, atomically. Raises UserError where the disk does not take it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # a file name in a script that the font lacks
        write_atomically(
            path, lambda file: figure.savefig(file, format="png", dpi=DPI, metadata={"Software": None}), durable=False
        )


def write_comparison(
    path: Path,
    evaluation: Evaluation,
    pictures: Pictures,
    rows: Mapping[str, int] = COMPARED,
    metric: str = "iou",
) -> None:
    """Draw image, truth and each method's prediction, its errors in colour, for chosen images.

    Args:
        path: a PNG file.
        rows: how many images of each group of `cad.reports.pictures.GROUPS`; fewer where there are fewer.
        metric: what images are chosen by and captioned with; more is better.

    Raises:
        UserError: the file cannot be written.
    """
    choices = choose_images(evaluation, rows, metric)
    columns = 2 + len(evaluation.methods)
    cell = float(np.clip((TEXT_WIDTH - GUTTER) / columns - GAP, SMALLEST_CELL, LARGEST_CELL))
    titles = [textwrap.wrap(title, max(8, int(cell * 14))) or [""] for title in column_titles(evaluation)]
    header = LINE * max(len(lines) for lines in titles) + 0.05
    groups = len({choice.group for choice in choices})
    height = header + len(choices) * (cell + CAPTION + GAP) + max(0, groups - 1) * GROUP_GAP + LEGEND
    width = GUTTER + columns * (cell + GAP)
    figure = new_figure(width, height)

    top = height - header
    for column, lines in enumerate(titles):
        x = GUTTER + column * (cell + GAP) + cell / 2
        write(figure, x, top + 0.06, "\n".join(lines), size=8, color=INK, va="baseline")
    for number, choice in enumerate(choices):
        new_group = number == 0 or choices[number - 1].group != choice.group
        if new_group and number:
            top -= GROUP_GAP
        if new_group:
            length = sum(other.group == choice.group for other in choices) * (cell + CAPTION + GAP) - CAPTION - GAP
            write(figure, 0.08, top - length / 2, GROUPS[choice.group], size=7, color=MUTED, rotation=90, va="center")
        draw_row(figure, evaluation, pictures, choice, metric, (GUTTER, top - cell, cell))
        top -= cell + CAPTION + GAP
    draw_legend(figure)
    save_figure(figure, path)


def column_titles(evaluation: Evaluation) -> list[str]:
    """What stands above the columns of the comparison."""
    return ["Image", "Truth", *(method.label for method in evaluation.methods)]


def draw_row(
    figure: "Figure",
    evaluation: Evaluation,
    pictures: Pictures,
    choice: Choice,
    metric: str,
    place: tuple[float, float, float],
) -> None:
    """One image of the comparison with its captions; place is (left, bottom, size of a cell) in inches."""
    left, bottom, cell = place
    truth = pictures.truth(choice.name)
    panels = [pictures.image(choice.name), np.repeat(truth[:, :, None] * np.uint8(255), 3, axis=2)]
    panels += [error_map(truth, pictures.probability(method.label, choice.name)) for method in evaluation.methods]
    title = {"iou": "IoU"}.get(metric, metric)
    scores = scores_of(evaluation, choice.index, metric)
    name = textwrap.shorten(choice.name, max(10, int(cell * 19)), placeholder="…")
    captions = [name, "", *("undefined" if score is None else f"{title} {score:.3f}" for score in scores)]
    known = [score for score in scores if score is not None]
    for column, (panel, caption) in enumerate(zip(panels, captions, strict=True)):
        x = left + column * (cell + GAP)
        axes = add_axes(figure, x, bottom, cell, cell)
        axes.imshow(panel, interpolation="antialiased", aspect="equal")
        axes.set_axis_off()
        best = column >= 2 and len(known) > 1 and scores[column - 2] == max(known) > min(known)
        write(
            figure, x + cell / 2, bottom - 0.03, caption, size=6, color=INK if best else MUTED,
            va="top", weight="bold" if best else "normal",
        )  # fmt: skip


def draw_legend(figure: "Figure") -> None:
    """Say below the comparison what its colours mean."""
    from matplotlib.patches import Rectangle

    width, height = figure.get_size_inches()
    words = {HIT: "correct", FALSE_POSITIVE: "false positive", FALSE_NEGATIVE: "false negative"}
    x = GUTTER
    for outcome, text in words.items():
        colour = tuple(channel / 255 for channel in CLASS_COLOURS[outcome])
        figure.add_artist(
            Rectangle(
                (x / width, 0.06 / height), 0.09 / width, 0.09 / height, transform=figure.transFigure,
                facecolor=colour, edgecolor=MUTED, linewidth=0.4,
            )
        )  # fmt: skip
        write(figure, x + 0.14, 0.105, text, size=6.5, color=INK, ha="left", va="center_baseline")
        x += 0.32 + 0.05 * len(text)


def write(figure: "Figure", x: float, y: float, text: str, **style: Any) -> None:
    """Put text at a place in inches; names are not taken for mathematics."""
    width, height = figure.get_size_inches()
    drawable = text.encode(errors="replace").decode()  # a file name that is not UTF-8 holds lone surrogates
    style = dict[str, Any](ha="center", parse_math=False, linespacing=1.1) | style
    figure.text(x / width, y / height, drawable, **style)


def add_axes(figure: "Figure", left: float, bottom: float, width: float, height: float) -> "Axes":
    """Axes at a place in inches."""
    whole_width, whole_height = figure.get_size_inches()
    return figure.add_axes((left / whole_width, bottom / whole_height, width / whole_width, height / whole_height))


# What the curves show: title, and its value in the scores of a record. The loss is what training minimises.
CURVES = {
    "Loss": lambda scores: scores["bce"] + scores["iou_loss"],
    "IoU": lambda scores: scores["iou"],
    "Dice": lambda scores: scores["dice"],
}
PARTS = {"train": ("training", MUTED, (3, 1.5)), "validation": ("validation", ACCENT, None)}


def curve(records: Sequence[Mapping[str, Any]], part: str, title: str) -> tuple[list[int], list[float]]:
    """(epochs, values) of one of `CURVES` on "train" or "validation", where the records have it."""
    known = [(record["epoch"], CURVES[title](record[part])) for record in records if record.get(part)]
    return [epoch for epoch, _ in known], [value for _, value in known]


def best_epoch(records: Sequence[Mapping[str, Any]]) -> int:
    """The epoch of the best validation IoU; the last one without validation."""
    epochs, values = curve(records, "validation", "IoU")
    return epochs[values.index(max(values))] if epochs else max(record["epoch"] for record in records)


def write_curves(path: Path, records: Sequence[Mapping[str, Any]]) -> None:
    """Draw loss, IoU, Dice and the learning rate over the epochs of a run; a dot marks the best epoch.

    Args:
        path: a PNG file.
        records: the lines of log.jsonl: {"epoch", "train": {...}, "validation": {...} or absent, "learning_rate", ...}.

    Raises:
        UserError: the file cannot be written.
    """
    figure = new_figure(TEXT_WIDTH, 1.95)
    best = best_epoch(records) if records else None
    left, panel, bottom, height = 0.42, 1.45, 0.38, 1.25
    for number, title in enumerate(CURVES):
        axes = add_axes(figure, left + number * (panel + 0.42), bottom, panel, height)
        for part, (label, colour, dashes) in PARTS.items():
            epochs, values = curve(records, part, title)
            if epochs:
                (line,) = axes.plot(epochs, values, color=colour, linewidth=1.2, label=label, clip_on=False)
                line.set_dashes(dashes or (None, None))
                line.set(marker="o", markersize=3, markevery=[i for i, epoch in enumerate(epochs) if epoch == best])
        if title != "Loss":
            axes.set_ylim(bottom=0)
        tidy(axes, title, "epoch" if best is None or number else f"epoch (dot: best, {best})")
        if number == 0 and records:
            axes.legend(frameon=False, fontsize=6.5, handlelength=1.8, borderaxespad=0, labelcolor=INK)
    axes = add_axes(figure, left + 3 * (panel + 0.42) + 0.05, bottom, 0.8, 0.5)
    rates = [(record["epoch"], record["learning_rate"]) for record in records if "learning_rate" in record]
    axes.plot([epoch for epoch, _ in rates], [rate for _, rate in rates], color=MUTED, linewidth=1)
    axes.set_ylim(bottom=0)
    tidy(axes, "Learning rate", "epoch", size=6)
    save_figure(figure, path)


def tidy(axes: "Axes", title: str, below: str, size: float = 7) -> None:
    """Title and axes without frame; whole epochs only."""
    from matplotlib.ticker import MaxNLocator, ScalarFormatter

    axes.set_title(title, fontsize=size + 1, loc="left", color=INK, pad=6)
    axes.set_xlabel(below, fontsize=size, color=MUTED, labelpad=1)
    axes.tick_params(labelsize=size - 0.5, color="#b0b0b0", labelcolor=MUTED, length=2, width=0.6, pad=2)
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(4))
    formatter = ScalarFormatter(useMathText=True)
    formatter.set_powerlimits((-2, 4))
    axes.yaxis.set_major_formatter(formatter)
    axes.yaxis.get_offset_text().set(size=size - 1, color=MUTED)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set(color="#b0b0b0", linewidth=0.6)
