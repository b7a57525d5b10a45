"""Tables: what run.sh and eval.sh print, and what is ready to paste, in Markdown and LaTeX."""

import re
from collections.abc import Mapping
from typing import Any

from cad.metrics.measures import MEASURES
from cad.metrics.results import Difference, Estimate, Evaluation, MethodResult

COLUMNS = ("method", "Dice", "IoU", "BCE", "IoU loss", "trained parameters", "s/epoch", "weights")
FIELD_COLUMNS = ("method", "S", "E mean", "E max", "E adp", "wF", "F mean", "MAE", "BER %", "BER/image %", "bIoU")
_FIELD_METRICS = (
    *("s_measure", "e_measure_mean", "e_measure_max", "e_measure_adaptive", "weighted_f"),
    *("f_measure", "mae", "ber_pooled", "ber_per_image", "boundary_iou"),
)


_LATEX = {letter: f"\\{letter}" for letter in "_%&#${}"} | {
    "\\": "\\textbackslash{}",
    "^": "\\textasciicircum{}",
    "~": "\\textasciitilde{}",
}


def table_row(
    label: str, metadata: dict[str, Any], scores: Mapping[str, float | None], weights: str
) -> tuple[str, ...]:
    """One row: the scores are means over images; parameters and seconds are those of the weights' metadata."""
    trained, seconds = metadata.get("trainable_parameters"), metadata.get("seconds_per_epoch")
    return (
        label,
        *(_number(scores[name]) for name in ("dice", "iou", "bce", "iou_loss")),
        "unknown" if trained is None else f"{trained:,}",
        "-" if trained == 0 else f"{seconds:.1f}" if seconds else "unknown",
        weights,
    )


def field_row(result: MethodResult) -> tuple[str, ...]:
    """One row of the metrics of the field's papers."""
    return (result.label, *(_number(result.summary[name].value, digits_of(name)) for name in _FIELD_METRICS))


def format_table(
    rows: list[tuple[str, ...]], columns: tuple[str, ...] = COLUMNS, words: tuple[int, ...] = (0, -1)
) -> str:
    """Plain text, columns aligned: numbers to the right, the columns of `words` to the left."""
    widths = [max(len(row[i]) for row in [columns, *rows]) for i in range(len(columns))]
    left = {index % len(columns) for index in words}

    def line(row: tuple[str, ...]) -> str:
        cells = (
            cell.ljust(w) if i in left else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        return "  ".join(cells).rstrip()

    return "\n".join([line(columns), "  ".join("-" * width for width in widths), *map(line, rows)])


def markdown_table(evaluation: Evaluation) -> str:
    """Metrics as rows, methods as columns, each value with its interval; then the differences; then the protocol."""
    methods = evaluation.methods
    lines = [
        f"| metric | {' | '.join(markdown_text(result.label) for result in methods)} |",
        "|---" * (len(methods) + 1) + "|",
    ]
    for name, measure in MEASURES.items():
        cells = (with_interval(result.summary[name], name) for result in methods)
        lines.append(f"| {measure.title} {measure.arrow} | {' | '.join(cells)} |")
    lines += difference_lines(evaluation.differences)
    return "\n".join([*lines, "", protocol_line(evaluation.protocol), ""])


def with_spread(spread: float | None, metric: str) -> str:
    """A standard deviation over seeds behind its ±, or nothing where there is none."""
    return "" if spread is None else f" ± {spread:.{digits_of(metric)}f}"


def difference_lines(differences: list[Difference]) -> list[str]:
    """The differences as a Markdown table of its own, behind an empty line; nothing without any."""
    if not differences:
        return []
    lines = ["", "| metric | first | second | first minus second | first is |", "|---|---|---|---|---|"]
    for one in differences:
        labels = f"{markdown_text(one.first)} | {markdown_text(one.second)}"
        cell = with_interval(one.estimate, one.metric, signed=True) + with_spread(one.spread, one.metric)
        lines.append(f"| {MEASURES[one.metric].title} | {labels} | {cell} | {one.verdict} |")
    return lines


def latex_table(evaluation: Evaluation) -> str:
    """A `table` for booktabs: metrics as rows, methods as columns, each value with its interval below it."""
    methods = evaluation.methods
    lines = [
        "% needs \\usepackage{booktabs}",
        "\\begin{table}",
        "  \\centering",
        f"  \\caption{{{_latex_text(protocol_line(evaluation.protocol))}}}",
        f"  \\begin{{tabular}}{{l{'c' * len(methods)}}}",
        "    \\toprule",
        f"    Metric & {' & '.join(_latex_text(result.label) for result in methods)} \\\\",
        "    \\midrule",
    ]
    for name, measure in MEASURES.items():
        arrow = "\\downarrow" if measure.lower_is_better else "\\uparrow"
        cells = " & ".join(_latex_cell(result.summary[name], name) for result in methods)
        lines.append(f"    {measure.latex} ${arrow}$ & {cells} \\\\")
    return "\n".join([*lines, "    \\bottomrule", "  \\end{tabular}", "\\end{table}", ""])


def protocol_line(protocol: dict[str, Any]) -> str:
    """The choices that the numbers depend on, in one sentence."""
    size = protocol["metric_size"]
    return (
        f"{protocol['images']} test images, compared at "
        + ("the masks' own size" if size == "original" else f"{size} pixels")
        + f", mask threshold {protocol['mask_threshold']}, maps "
        + ("stretched to 0..1" if protocol["normalize_maps"] else "not stretched to 0..1")
        + "; means over images unless pooled; in brackets 95 % bootstrap intervals over images "
        + f"({protocol['resamples']} resamples)."
        + (" Synthetic demo: the numbers do not measure the methods." if protocol["demo"] else "")
    )


def digits_of(metric: str) -> int:
    """How many digits behind the point the metric is given with."""
    return 2 if metric.startswith("ber") else 4


def _number(value: float | None, digits: int = 4, signed: bool = False) -> str:
    return "-" if value is None else f"{value:{'+' if signed else ''}.{digits}f}"


def with_interval(estimate: Estimate, metric: str, signed: bool = False) -> str:
    """`value [low, high]` with the digits of the metric; `-` without a value."""
    text = _number(estimate.value, digits_of(metric), signed)
    if estimate.ci is None:
        return text
    low, high = (_number(end, digits_of(metric), signed) for end in estimate.ci)
    return f"{text} [{low}, {high}]"


def _latex_cell(estimate: Estimate, metric: str) -> str:
    value, _, interval = with_interval(estimate, metric).partition(" ")
    value = "--" if value == "-" else value
    return f"{value} {{\\scriptsize {interval}}}" if interval else value


def markdown_text(text: str) -> str:
    """Text for a cell of a Markdown table."""
    return re.sub(r"([\\`*_\[\]<>|])", r"\\\1", " ".join(text.split()))


def _latex_text(text: str) -> str:
    return "".join(_LATEX.get(letter, letter) for letter in " ".join(text.split()))
