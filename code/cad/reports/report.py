"""The pages for people: what an evaluation found, and how a training run went. One file each, without network."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cad.metrics.results import Difference, Estimate, Evaluation
from cad.reports.charts import interval, line_chart, nice_ticks, strip
from cad.reports.figures import CURVES, PARTS, best_epoch, curve, write_curves
from cad.reports.gallery import gallery
from cad.reports.page import definitions, main, masthead, photo_uri, scrollable, section, text, write_page
from cad.reports.pictures import Pictures
from cad.reports.wording import (
    NONE,
    best_labels,
    flatten,
    metric_text,
    number,
    ordered_metrics,
    plural,
    protocol_sentences,
    warnings_of,
)

Records = Sequence[Mapping[str, Any]]
ARROWS = {"higher": "↑", "lower": "↓", "": ""}


def write_report(
    path: Path, evaluation: Evaluation, pictures: Pictures, runs: Mapping[str, Records] | None = None
) -> None:
    """Write the page of an evaluation.

    Args:
        path: an HTML file.
        pictures: asked for the images of the gallery only.
        runs: for methods whose training is known, by label, the lines of log.jsonl; see `write_curves`.

    Raises:
        UserError: the file cannot be written.
    """
    names = [method.label for method in evaluation.methods]
    title = " · ".join(names) if len(names) < 5 else plural(len(names), "method")
    trained = {label: records for label, records in (runs or {}).items() if records}
    contents = {
        "scores": ("Scores", metric_table(evaluation)),
        "differences": ("Differences", difference_lists(evaluation) if evaluation.differences else ""),
        "distribution": ("Image by image", distribution(evaluation)),
        "gallery": ("Gallery", gallery(evaluation, pictures)),
        "training": ("Training", training_curves(trained) if trained else ""),
        "protocol": ("Protocol", protocol(evaluation)),
    }
    contents = {name: content for name, content in contents.items() if content[1]}
    kind = f"Evaluation on {plural(len(evaluation.names), 'image')}"
    links = {name: words for name, (words, _) in contents.items()}
    body = masthead(kind, title, evaluation_warnings(evaluation), links)
    body += main([section(name, words, content) for name, (words, content) in contents.items()])
    write_page(path, f"Evaluation: {title}", body)


def evaluation_warnings(evaluation: Evaluation) -> list[str]:
    """The warnings of the methods, each with the methods that it is about unless it is about all."""
    about: dict[str, list[str]] = {}
    for method in evaluation.methods:
        for warning in warnings_of(method.metadata):
            about.setdefault(warning, []).append(method.label)
    everyone = len(evaluation.methods)
    return [warning if len(who) == everyone else f"{', '.join(who)}: {warning}" for warning, who in about.items()]


def metric_table(evaluation: Evaluation) -> str:
    """One row a metric, one column a method; the best of a row in bold."""
    metrics = ordered_metrics(metric for method in evaluation.methods for metric in method.summary)
    head = "".join(f'<th scope="col">{text(method.label)}</th>' for method in evaluation.methods)
    rows = []
    for metric in metrics:
        known, best = metric_text(metric), best_labels(evaluation, metric)
        arrow = f' <abbr title="{known.better} is better">{ARROWS[known.better]}</abbr>' if known.better else ""
        unit = " <small>%</small>" if known.percent else ""
        cells = "".join(
            score_cell(method.summary.get(metric), metric, method.label in best) for method in evaluation.methods
        )
        rows.append(
            f'<tr><th scope="row">{text(known.title)}{unit}{arrow}<small class="meaning">{text(known.meaning)}</small>'
            f"</th>{cells}</tr>"
        )
    table = f'<table><thead><tr><th scope="col">Metric</th>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table>'
    words = "Below each number its 95 % interval."
    if len(evaluation.methods) > 1:
        words += " Bold: best of the row; whether by more than chance is said under Differences."
    return f"<p>{words}</p>{scrollable(table, 'Scores of all methods')}"


def score_cell(estimate: Estimate | None, metric: str, best: bool) -> str:
    """A number with its interval, or a dash with the reason."""
    if estimate is None or estimate.value is None:
        reason = estimate.reason if estimate and estimate.reason else "not computed"
        return f'<td class="none">{NONE}<small>{text(reason)}</small></td>'
    value = number(estimate.value, metric)
    shown = f'<strong>{value}</strong><span class="unseen"> (best)</span>' if best else value
    between = NONE.join(number(end, metric) for end in estimate.ci) if estimate.ci else ""
    return f"<td>{shown}<small>{between}</small></td>"


def difference_lists(evaluation: Evaluation) -> str:
    """For each metric the paired differences of all pairs of methods, in words; the first metric is open."""
    by_metric: dict[str, list[Difference]] = {}
    for difference in evaluation.differences:
        by_metric.setdefault(difference.metric, []).append(difference)
    parts: list[str] = []
    for metric in ordered_metrics(by_metric):
        found = by_metric[metric]
        seen = sum(difference.verdict in ("better", "worse") for difference in found)
        known = metric_text(metric)
        ends = [end for d in found for end in d.estimate.ci or (d.estimate.value or 0.0,)]
        rows = "".join(difference_row(difference, (min(0.0, *ends), max(0.0, *ends))) for difference in found)
        direction = f", {known.better} is better" if known.better else ""
        parts.append(
            f"<details{'' if parts else ' open'}><summary>{text(known.title)}<small>{seen} of "
            f"{plural(len(found), 'pair')} differ{direction}</small></summary>"
            f'<ul class="differences">{rows}</ul></details>'
        )
    others = "".join(parts[1:])
    if others:
        others = (
            f'<details class="others"><summary>Other metrics<small>{len(parts) - 1}</small></summary>{others}</details>'
        )
    return (
        "<p>Every pair of methods on the same images: the mean difference with its 95 % interval. Where the interval "
        "holds 0, no difference was seen, which does not show that there is none. The intervals are not corrected for "
        f"the number of comparisons.</p>{parts[0]}{others}"
    )


def difference_row(difference: Difference, limits: tuple[float, float]) -> str:
    """One pair in words, as a picture and in numbers."""
    first, second = text(difference.first), text(difference.second)
    estimate, seen = difference.estimate, difference.verdict in ("better", "worse")
    words = f"{first} and {second}: {text(difference.verdict)}"
    if seen:
        words = f"<b>{first}</b> is {text(difference.verdict)} than <b>{second}</b>"
    if estimate.value is None:
        numbers, picture = f"{NONE} <small>{text(estimate.reason or 'not computed')}</small>", ""
    else:
        ends = (number(end, difference.metric, signed=True) for end in estimate.ci or ())
        numbers = f"{number(estimate.value, difference.metric, signed=True)} <small>{' to '.join(ends)}</small>"
        picture = interval(estimate.value, estimate.ci, limits)
    kind = "seen" if seen else "unclear"
    return f'<li class="{kind}"><span>{words}</span>{picture}<span class="numbers">{numbers}</span></li>'


def distribution(evaluation: Evaluation, metric: str = "iou") -> str:
    """The scores of all images, one strip a method on a common axis from 0 to 1."""
    title = metric_text(metric).title
    rows = []
    for method in evaluation.methods:
        scores = [score for score in method.per_image.get(metric, []) if score is not None]
        rows.append(
            f'<div class="row"><span class="label">{text(method.label)}</span>{strip(scores, method.label)}</div>'
        )
    axis = "".join(f"<span>{tick / 5:.1f}</span>" for tick in range(6))
    return (
        f"<p>Each dot is an image, placed by its {text(title)}. "
        "The line is the median, the shade holds the middle half.</p>"
        f'<div class="strips">{"".join(rows)}<div class="row"><span></span>'
        f'<div class="axis" aria-hidden="true">{axis}</div></div></div>'
    )


def training_curves(runs: Mapping[str, Records]) -> str:
    """The curves of each run, one below the other."""
    every = list(runs.values())
    return legend() + "".join(f"<h3>{text(label)}</h3>{run_charts(run, every)}" for label, run in runs.items())


def legend() -> str:
    """What the lines of the curves are."""
    words = "".join(f'<span class="{part}">{label}</span>' for part, (label, _, _) in PARTS.items())
    return f'<p class="key lines">{words}<span class="kept">best epoch</span></p>'


def run_charts(records: Records, runs: Sequence[Records] = ()) -> str:
    """Loss, IoU and Dice of one run side by side, on axes that hold the curves of all `runs`."""
    epochs, best = max(record["epoch"] for record in records), best_epoch(records)
    charts = []
    for title in CURVES:
        values = [value for run in runs or [records] for part in PARTS for value in curve(run, part, title)[1]]
        curves = {part: curve(records, part, title) for part in PARTS}
        charts.append(line_chart(title, curves, nice_ticks(min(values), max(values)), epochs, best))
    return f'<div class="charts">{"".join(charts)}</div>'


def protocol(evaluation: Evaluation) -> str:
    """How the numbers were made: in words, then everything that was recorded."""
    sentences = "".join(f"<li>{text(sentence)}</li>" for sentence in protocol_sentences(evaluation))
    recorded = f"<details><summary>All settings</summary>{definitions(flatten(evaluation.protocol))}</details>"
    for method in evaluation.methods:
        rows = flatten({"method": method.method, "weights": method.weights} | method.metadata)
        recorded += f"<details><summary>Weights: {text(method.label)}</summary>{definitions(rows)}</details>"
    return f"<ul>{sentences}</ul>{recorded}"


def write_training_report(
    folder: Path,
    records: Records,
    settings: Mapping[str, Any],
    metadata: Mapping[str, Any],
    previews: Sequence[tuple[str, np.ndarray]] = (),
) -> None:
    """Write curves.png and report.html of a run into its folder.

    Args:
        records: the lines of log.jsonl; see `write_curves`.
        settings: the run's flags, plain values.
        metadata: what is known of the weights and of the run: method, model type, seconds, memory, metrics.
        previews: captioned pictures (H, 3 W, 3) uint8: image, truth and prediction side by side.

    Raises:
        UserError: a file cannot be written.
    """
    write_curves(folder / "curves.png", records)
    title = f"{metadata.get('method', 'run')} · {folder.name}"
    parts = []
    if records:
        parts.append(section("result", "Result", result(records)))
        parts.append(section("training", "Curves", legend() + run_charts(records)))
    if previews:
        parts.append(section("predictions", "Predictions", preview_list(previews)))
    details = {key: value for key, value in metadata.items() if key not in ("settings", "metrics")}
    parts.append(section("run", "Run", definitions(flatten(details))))
    parts.append(section("settings", "Settings", definitions(flatten(settings))))
    body = masthead("Training run", title, warnings_of(metadata, settings)) + main(parts)
    write_page(folder / "report.html", f"Training: {title}", body)


def preview_list(previews: Sequence[tuple[str, np.ndarray]]) -> str:
    """Image, truth and prediction of some validation images."""
    items = []
    for name, picture in previews:
        panels = zip(("image", "truth", "prediction"), np.split(picture, 3, axis=1), strict=True)
        images = "".join(f'<img src="{photo_uri(panel)}" alt="{what} of {text(name)}">' for what, panel in panels)
        items.append(f'<li><div class="panels">{images}</div><h3>{text(name)}</h3></li>')
    return f'<p>Image, truth and prediction after the last epoch.</p><ol class="previews">{"".join(items)}</ol>'


def result(records: Records) -> str:
    """The numbers of the best epoch, large."""
    best = best_epoch(records)
    record = next(record for record in records if record["epoch"] == best)
    where = "validation" if record.get("validation") else "train"
    scores, words = record[where], PARTS[where][0]
    seconds = float(np.mean([entry["seconds"] for entry in records if "seconds" in entry] or [0]))
    facts = {
        f"IoU, {words}": f"{scores['iou']:.3f}",
        f"Dice, {words}": f"{scores['dice']:.3f}",
        "best epoch": f"{best} of {max(entry['epoch'] for entry in records)}",
        "seconds an epoch": f"{seconds:.1f}",
    }
    return '<dl class="facts">' + "".join(f"<div><dt>{k}</dt><dd>{v}</dd></div>" for k, v in facts.items()) + "</dl>"
