import base64
import hashlib
import io
import re
import time
from dataclasses import replace
from html import unescape
from html.parser import HTMLParser

import numpy as np
import pytest
from evaluated import RECORDS, made_up
from PIL import Image

from cad.errors import UserError
from cad.metrics.results import Estimate
from cad.reports.charts import nice_ticks, quartiles, strip
from cad.reports.report import write_report, write_training_report
from cad.reports.wording import best_labels, number

HOSTILE = '<script>alert(1)</script>"\' onerror="alert(1)'


class Tags(HTMLParser):
    """Collects every tag with its attributes, as a browser would see them."""

    def __init__(self, page):
        super().__init__()
        self.found = []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))

    def count(self, tag, kind=None):
        return sum(
            name == tag and (kind is None or kind in (attrs.get("class") or "").split()) for name, attrs in self.found
        )


def page_of(tmp_path, evaluation, pictures, runs=None):
    write_report(tmp_path / "report.html", evaluation, pictures, runs)
    return (tmp_path / "report.html").read_text(encoding="utf-8")


def test_the_page_holds_the_numbers_with_the_best_in_bold(tmp_path):
    evaluation, pictures = made_up()
    page = page_of(tmp_path, evaluation, pictures, {"CAD": RECORDS, "zero-shot": []})
    good, bad = (number(method.summary["iou"].value, "iou") for method in evaluation.methods)
    assert f"<strong>{good}</strong>" in page and f"<strong>{bad}</strong>" not in page
    low, high = evaluation.methods[0].summary["iou"].ci
    assert f"{low:.3f}\N{EN DASH}{high:.3f}" in page
    assert "<b>CAD</b> is better than <b>zero-shot</b>" in page
    assert "A selection of 24 of 30 images" in page
    assert "of at least 128 of 255" in page
    assert Tags(page).count("figure", "chart") == 3


def test_lower_is_better_where_it_is_and_ties_are_both_best():
    evaluation, _ = made_up()
    assert best_labels(evaluation, "mae") == {"CAD"}
    tied = [
        replace(method, summary={"mae": Estimate(value)})
        for method, value in zip(evaluation.methods, (0.10001, 0.1), strict=True)
    ]
    assert best_labels(replace(evaluation, methods=tied), "mae") == {"CAD", "zero-shot"}
    assert best_labels(replace(evaluation, methods=tied[:1]), "mae") == set()
    assert best_labels(evaluation, "boundary_iou") == set()


def test_an_undefined_metric_is_a_dash_with_its_reason(tmp_path):
    page = page_of(tmp_path, *made_up())
    assert page.count('<td class="none">\N{EN DASH}<small>no mask has a boundary</small></td>') == 2
    assert not re.search(r"\b(nan|None|inf)\b", re.sub(r"(?s)<style>.*?</style>|<script>.*?</script>", "", page))


def test_nothing_from_outside_becomes_markup(tmp_path):
    evaluation, pictures = made_up(3, {HOSTILE: 2, "b": 5}, base={"source": HOSTILE}, **{HOSTILE: [HOSTILE]})
    pictures.names[0] = HOSTILE
    summary = {"iou": Estimate(None, reason=HOSTILE), HOSTILE: Estimate(1.0)}
    evaluation = replace(
        evaluation,
        names=pictures.names,
        protocol={HOSTILE: {HOSTILE: HOSTILE}, "metric_size": HOSTILE, "mask_threshold": HOSTILE},
        methods=[
            replace(evaluation.methods[0], summary=summary, weights=HOSTILE, method=HOSTILE),
            evaluation.methods[1],
        ],
        differences=[replace(evaluation.differences[0], metric=HOSTILE, verdict=HOSTILE)],
    )
    page = page_of(tmp_path, evaluation, pictures, {HOSTILE: RECORDS})
    tags = Tags(page)
    assert tags.count("script") == 1
    assert not any(name.startswith("on") for _, attributes in tags.found for name in attributes)
    assert not any("style" in attributes for _, attributes in tags.found)
    assert any(attributes.get("data-name") == HOSTILE for _, attributes in tags.found)


def test_the_page_reaches_for_nothing_and_its_policy_knows_its_own_code(tmp_path):
    page = page_of(tmp_path, *made_up(), {"CAD": RECORDS})
    without_pictures = re.sub(r"base64,[^\"]*", "", page)
    assert not re.search(r"https?:|=\"//|@import|url\(", without_pictures)
    policy = unescape(re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page).group(1))
    assert "default-src 'none'" in policy and "unsafe" not in policy
    for tag in ("style", "script"):
        content = re.search(f"(?s)<{tag}>(.*?)</{tag}>", page).group(1)
        assert f"{tag}-src 'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'" in policy


@pytest.mark.parametrize(("count", "methods", "cards"), [(1, 1, 1), (5, 1, 5), (400, 2, 24), (60, 20, 12)])
def test_the_gallery_and_the_page_are_bounded(tmp_path, count, methods, cards):
    evaluation, pictures = made_up(count, {f"method {number}": number for number in range(methods)})
    page = page_of(tmp_path, evaluation, pictures)
    assert Tags(page).count("li", "card") == cards == len(pictures.asked)
    assert len(page) < 2_000_000
    assert ("All 1 image." in page) == (count == 1)


def test_pictures_are_reduced_to_320_pixels(tmp_path):
    evaluation, pictures = made_up(1)
    large = np.random.default_rng(0).integers(0, 255, (512, 512, 3)).astype(np.uint8)
    pictures.image = lambda name: large
    pictures.truth = lambda name: large[:, :, 0] // 128
    pictures.probability = lambda label, name: large[:, :, 1]
    page = page_of(tmp_path, evaluation, pictures)
    uris = re.findall(r'src="data:image/(\w+);base64,([^"]+)"', page)
    assert {kind for kind, _ in uris} == {"jpeg", "png"}
    assert {Image.open(io.BytesIO(base64.b64decode(content))).size for _, content in uris} == {(320, 320)}


def test_warnings_name_the_methods_that_they_are_about(tmp_path):
    evaluation, pictures = made_up(3, None, demo=True)
    random = {"demo": True, "base": {"source": "random"}}
    evaluation = replace(evaluation, methods=[replace(evaluation.methods[0], metadata=random), evaluation.methods[1]])
    page = page_of(tmp_path, evaluation, pictures)
    assert '<p class="warning" role="note">Demo: synthetic images.' in page
    assert '<p class="warning" role="note">CAD: Random encoder:' in page


def test_no_per_image_scores_still_give_a_page(tmp_path):
    evaluation, pictures = made_up(2)
    empty = [replace(method, per_image={"iou": [None, None]}, summary={}) for method in evaluation.methods]
    page = page_of(tmp_path, replace(evaluation, methods=empty, differences=[]), pictures)
    assert 'id="differences"' not in page and Tags(page).count("li", "card") == 0


def test_a_report_is_written_within_two_seconds(tmp_path):
    evaluation, pictures = made_up(250, {name: number for number, name in enumerate("abcd")})
    started = time.perf_counter()
    write_report(tmp_path / "report.html", evaluation, pictures, {"a": RECORDS})
    assert time.perf_counter() - started < 2


def test_numbers_have_the_digits_of_their_metric():
    assert number(0.12345, "iou") == "0.123"
    assert number(5.4321, "ber_pooled") == "5.43"
    assert number(-0.25, "iou", signed=True) == "\N{MINUS SIGN}0.250"
    assert number(-0.00001, "iou", signed=True) == "0.000"


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0.31, 0.34), (0.5, 0.5), (0, 0), (-3, 170), (1e-7, 2e-7)])
def test_ticks_are_even_and_hold_the_range(low, high):
    ticks = nice_ticks(low, high)
    assert ticks[0] <= low + 1e-12 and ticks[-1] >= high - 1e-12
    assert 2 <= len(ticks) <= 7
    assert np.allclose(np.diff(ticks), ticks[1] - ticks[0])


def test_a_strip_has_a_dot_for_each_score_and_names_its_quartiles():
    scores = [0.0, 0.5, 0.5, 1.0]
    drawing = strip(scores, "CAD")
    assert re.search(r'class="dots" d="([^"]*)"', drawing).group(1).count("M") == 4
    assert "CAD: median 0.500, half of the images from 0.375 to 0.625" in drawing
    assert quartiles([0.3]) == (0.3, 0.3, 0.3)
    assert "no scores" in strip([], "CAD")


def test_training_report_shows_the_best_epoch_curves_settings_and_previews(tmp_path):
    preview = np.zeros((8, 24, 3), np.uint8)
    write_training_report(
        tmp_path,
        RECORDS,
        {"lr": 2e-4, "checkpoint": "random", HOSTILE: None},
        {"method": "cad", "demo": True},
        [(HOSTILE, preview)],
    )
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    tags = Tags(page)
    assert (tmp_path / "curves.png").is_file()
    assert "<dd>2 of 3</dd>" in page and "<dd>0.300</dd>" in page and "<dd>0.0002</dd>" in page
    assert tags.count("p", "warning") == 2 and tags.count("figure", "chart") == 3
    assert tags.count("script") == 1 and tags.count("img") == 3
    assert not re.search(r"https?:", page)


def test_training_report_without_validation_or_epochs(tmp_path):
    write_training_report(tmp_path, [{**RECORDS[0], "validation": None}], {}, {})
    assert "IoU, training" in (tmp_path / "report.html").read_text(encoding="utf-8")
    write_training_report(tmp_path, [], {}, {})
    assert 'class="facts"' not in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path):
    with pytest.raises(UserError, match="cannot be written"):
        write_report(tmp_path / "missing" / "report.html", *made_up(2))
