"""The gallery of a report: image, truth, prediction and errors of chosen images, one card an image."""

import json
from collections import Counter

import numpy as np

from cad.metrics.results import Evaluation
from cad.reports.page import mask_uri, outcomes_uri, photo_uri, shrink_map, text
from cad.reports.pictures import (
    FOREGROUND,
    GROUPS,
    Choice,
    Pictures,
    choose_images,
    mean_score,
    outcomes,
    scores_of,
    spread,
)
from cad.reports.wording import NONE, metric_text, plural

SHOWN_IN_ALL = 24
PREDICTIONS_IN_ALL = 240  # bounds the size of the page where there are many methods
VIEWS = ("Image", "Truth", "Prediction", "Errors")


def gallery(evaluation: Evaluation, pictures: Pictures, metric: str = "iou") -> str:
    """Controls and cards. The script shows the controls; without it the cards show the errors of the first method."""
    shown = min(SHOWN_IN_ALL, PREDICTIONS_IN_ALL // max(1, len(evaluation.methods)))
    choices = choose_images(evaluation, dict.fromkeys(GROUPS, max(1, shown // len(GROUPS))), metric)
    counts = Counter(choice.group for choice in choices)
    title = metric_text(metric).title
    groups = ", ".join(f"{GROUPS[group]} ({counts[group]})" for group in counts)
    total = plural(len(evaluation.names), "image")
    note = (
        f"A selection of {len(choices)} of {total}, chosen by {text(title)}, not at random: {groups}. "
        f"Pictures are reduced; the scores are those of the full evaluation."
        if len(choices) < len(evaluation.names)
        else f"All {total}. Pictures are reduced; the scores are those of the full evaluation."
    )
    cards = "".join(card(evaluation, pictures, choice, position, metric) for position, choice in enumerate(choices))
    return (
        f"<p>{note}</p>"
        '<p class="key"><span class="hit">correct</span><span class="false-positive">false positive</span>'
        '<span class="false-negative">false negative</span></p>'
        f"{controls(evaluation, title, counts)}"
        '<noscript><p class="warning">Without scripts the cards show the errors of the first method.</p></noscript>'
        f'<ol class="cards">{cards}</ol>'
    )


def controls(evaluation: Evaluation, title: str, counts: Counter[str]) -> str:
    """What rules all cards at once: the method shown, the order, the group and the view."""
    labels = [method.label for method in evaluation.methods]
    methods = "".join(
        f'<label><input type="radio" name="method" value="{number}"{" checked" if number == 0 else ""}>'
        f"<span>{text(label)}</span></label>"
        for number, label in enumerate(labels)
    )
    orders = ["as chosen", f"{title}, mean of methods", "difference between methods", "name"]
    orders += [f"{title} of {label}" for label in labels]
    options = "".join(
        f'<option value="{number}"{" data-first=descending" if number == 2 else ""}>{text(order)}</option>'
        for number, order in enumerate(orders)
    )
    groups = "".join(f'<option value="{group}">{GROUPS[group]} ({count})</option>' for group, count in counts.items())
    return (
        '<div class="controls" role="group" aria-label="What is shown" hidden>'
        f'<fieldset class="methods"><legend>Method shown</legend>{methods}</fieldset>'
        f'<label class="field">View of all <input type="range" id="view-all" min="0" max="3" step="any" value="3" '
        f'autocomplete="off" aria-valuetext="{VIEWS[3]}">{stops()}</label></div>'
        '<div class="arrangement" role="group" aria-label="Order" hidden>'
        f'<label class="field">Sort by <select id="order" autocomplete="off">{options}</select></label>'
        '<button type="button" id="direction" value="ascending">Ascending ↑</button>'
        '<label class="field">Group <select id="group" autocomplete="off">'
        f'<option value="">all ({sum(counts.values())})</option>{groups}</select></label>'
        '<p id="status" class="unseen" role="status"></p></div>'
    )


def stops() -> str:
    """The names of the views below a slider."""
    return '<span class="stops" aria-hidden="true">' + "".join(f"<span>{view}</span>" for view in VIEWS) + "</span>"


def card(evaluation: Evaluation, pictures: Pictures, choice: Choice, position: int, metric: str) -> str:
    """One image: its layers on top of each other, a slider over them, and the score of each method."""
    scores = scores_of(evaluation, choice.index, metric)
    labels = [method.label for method in evaluation.methods]
    keys = [position, mean_score(scores), spread(scores), choice.name, *scores]
    name = text(choice.name)
    best = max((score for score in scores if score is not None), default=None)
    rows = "".join(
        f'<li><button type="button" value="{number}" aria-pressed="{"true" if number == 0 else "false"}">'
        f"<span>{text(label)}</span>{score_text(score, score == best and len(scores) > 1)}</button></li>"
        for number, (label, score) in enumerate(zip(labels, scores, strict=True))
    )
    return (
        f'<li class="card" data-name="{name}" data-group="{choice.group}" data-keys="{text(json.dumps(keys))}" '
        f'data-labels="{text(json.dumps(labels))}">'
        f'<div class="frame" role="img" aria-label="{VIEWS[3]} of {text(labels[0])} on {name}">'
        f"{layers(evaluation, pictures, choice.name)}</div>"
        f'<input type="range" min="0" max="3" step="any" value="3" autocomplete="off" aria-label="View of {name}" '
        f'aria-valuetext="{VIEWS[3]}">{stops()}'
        f'<h3>{name}</h3><p class="why">{GROUPS[choice.group]}</p><ul class="scores">{rows}</ul></li>\n'
    )


def score_text(score: float | None, best: bool) -> str:
    """A score on a card, the best one in bold."""
    written = NONE if score is None else f"{score:.3f}"
    return f"<b>{written}</b>" if best else f"<span>{written}</span>"


def layers(evaluation: Evaluation, pictures: Pictures, name: str) -> str:
    """Photograph, truth, and prediction and errors of each method; shown is what the script does not hide."""
    image, truth = pictures.image(name), pictures.truth(name)
    small_truth = shrink_map(truth * np.uint8(255)) >= FOREGROUND
    height, width = small_truth.shape

    def layer(uri: str, view: int, method: int | None = None) -> str:
        data = f'data-view="{view}"' + ("" if method is None else f' data-method="{method}"')
        shown = ' class="shown"' if view == 0 or (view == 3 and method == 0) else ""
        return f'<img {data}{shown} src="{uri}" width="{width}" height="{height}" alt="" decoding="async">'

    parts = [layer(photo_uri(image), 0), layer(mask_uri(small_truth), 1)]
    for number, method in enumerate(evaluation.methods):
        probability = shrink_map(pictures.probability(method.label, name))
        parts.append(layer(mask_uri(probability >= FOREGROUND), 2, number))
        parts.append(layer(outcomes_uri(outcomes(small_truth, probability)), 3, number))
    return "".join(parts)
