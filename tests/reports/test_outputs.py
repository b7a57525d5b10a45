import csv
import json

import pytest

from cad.metrics.measures import MEASURES, PER_IMAGE
from cad.metrics.results import Difference, Estimate, Evaluation, MethodResult
from cad.reports.outputs import as_json, write_files
from cad.reports.table import latex_table, markdown_table

PROTOCOL = {"images": 2, "metric_size": "original", "mask_threshold": 128, "normalize_maps": False, "resamples": 2000}
PROTOCOL |= {"demo": False}
KEYS = (
    "bce iou_loss dice iou s_measure e_measure_mean e_measure_max e_measure_adaptive weighted_f f_measure mae "
    "ber_pooled ber_per_image boundary_iou"
)


@pytest.fixture
def evaluation():
    summary = {name: Estimate(0.5, (0.25, 0.75)) for name in MEASURES}
    summary |= {"weighted_f": Estimate(None, None, "no foreground"), "iou": Estimate(0.125, None, "one image")}
    per_image = {name: [0.5, None] for name in PER_IMAGE}
    result = MethodResult("sam_adapter", "sam_adapter", "a.pth", {"demo": False}, summary, per_image)
    difference = Difference("mae", "sam_adapter", "b", Estimate(-0.1, (-0.2, -0.05)), "better")
    return Evaluation(PROTOCOL, ["plain", 'with, comma "and quotes"'], [result], [difference])


def test_json_has_exactly_the_promised_keys(evaluation):
    metrics = as_json(evaluation)["methods"]["sam_adapter"]["metrics"]
    assert list(metrics) == KEYS.split()
    assert metrics["dice"] == {"value": 0.5, "ci": [0.25, 0.75]}
    assert metrics["weighted_f"] == {"value": None, "reason": "no foreground"}
    assert metrics["iou"] == {"value": 0.125, "ci": None, "reason": "one image"}
    (difference,) = as_json(evaluation)["differences"]
    assert difference["verdict"] == "better" and difference["value"] == -0.1


def test_all_files_are_written_and_say_the_protocol(tmp_path, evaluation):
    write_files(tmp_path, evaluation)
    assert {path.name for path in tmp_path.iterdir()} == {"metrics.json", "per_image.csv", "table.md", "table.tex"}
    assert json.loads((tmp_path / "metrics.json").read_text())["protocol"] == PROTOCOL
    with (tmp_path / "per_image.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == evaluation.names
    assert rows[0]["dice"] == "0.5" and rows[1]["dice"] == ""
    assert (rows[0]["metric_size"], rows[0]["mask_threshold"], rows[0]["normalize_maps"]) == (
        "original",
        "128",
        "False",
    )
    for name in ("table.md", "table.tex"):
        text = (tmp_path / name).read_text()
        assert "the masks' own size, mask threshold 128, maps not stretched to 0..1" in text


def test_tables_are_ready_to_paste(evaluation):
    markdown = markdown_table(evaluation).splitlines()
    assert markdown[0] == "| metric | sam\\_adapter |"
    assert "| Dice ↑ | 0.5000 [0.2500, 0.7500] |" in markdown
    assert "| weighted F-measure ↑ | - |" in markdown
    assert "| MAE | sam\\_adapter | b | -0.1000 [-0.2000, -0.0500] | better |" in markdown
    latex = latex_table(evaluation)
    assert "Metric & sam\\_adapter \\\\" in latex and "95 \\% bootstrap" in latex
    assert "MAE $\\downarrow$ & 0.5000 {\\scriptsize [0.2500, 0.7500]} \\\\" in latex
    assert latex.count("\\begin") == latex.count("\\end") == 2
