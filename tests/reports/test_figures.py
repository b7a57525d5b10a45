import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from evaluated import RECORDS, made_up
from PIL import Image

from cad.errors import UserError
from cad.reports.figures import best_epoch, write_comparison, write_curves
from cad.reports.pictures import CLASS_COLOURS, choose_images, error_map, outcomes

CODE = Path(__file__).parents[2] / "code"


def with_scores(per_method):
    evaluation, _ = made_up(len(per_method[0]))
    methods = [
        replace(method, per_image={"iou": scores})
        for method, scores in zip(evaluation.methods, per_method, strict=True)
    ]
    return replace(evaluation, methods=methods)


def test_outcomes_of_the_four_cases():
    truth, probability = np.array([[0, 1], [0, 1]], np.uint8), np.array([[127, 128], [128, 127]], np.uint8)
    assert outcomes(truth, probability).tolist() == [[0, 1], [2, 3]]
    assert error_map(truth, probability)[1, 0].tolist() == list(CLASS_COLOURS[2])


def test_images_are_chosen_by_difference_median_worst_and_best_each_once():
    evaluation = with_scores([[0.9, 0.5, 0.1, 0.6, 1.0], [0.1, 0.5, 0.1, 0.7, 1.0]])
    chosen = choose_images(evaluation, {"differ": 1, "median": 1, "worst": 1, "best": 1})
    assert [(choice.group, choice.index) for choice in chosen] == [
        ("differ", 0),
        ("median", 1),
        ("worst", 2),
        ("best", 4),
    ]


def test_fewer_images_than_rows_and_equal_methods_give_fewer_rows():
    chosen = choose_images(with_scores([[0.5, 0.4], [0.5, 0.4]]), {"differ": 3, "median": 2, "worst": 2})
    assert [choice.group for choice in chosen] == ["median", "median"]


def test_undefined_scores_are_never_chosen():
    chosen = choose_images(with_scores([[None, 0.4], [None, None]]), {"worst": 5})
    assert [choice.index for choice in chosen] == [1]


def test_the_gallery_holds_the_images_of_the_figure():
    random = np.random.default_rng(3)
    evaluation = with_scores(random.uniform(size=(2, 60)).round(1).tolist())
    few = choose_images(evaluation, {"differ": 3, "median": 2, "worst": 2})
    many = choose_images(evaluation, dict.fromkeys(("differ", "median", "worst", "best"), 6))
    assert {choice.name for choice in few} <= {choice.name for choice in many}


def test_comparison_is_a_print_quality_picture_of_its_methods(tmp_path):
    evaluation, pictures = made_up()
    write_comparison(tmp_path / "comparison.png", evaluation, pictures)
    with Image.open(tmp_path / "comparison.png") as picture:
        assert picture.info["dpi"] == pytest.approx((300, 300), abs=0.1)
        assert 1500 < picture.width <= 2100
        colours = {colour for _, colour in picture.convert("RGB").getcolors(1 << 24)}
    assert {CLASS_COLOURS[2], CLASS_COLOURS[3]} <= colours
    assert len(pictures.asked) == 7


@pytest.mark.parametrize("count", [1, 2])
def test_comparison_of_few_images_and_one_method(tmp_path, count):
    evaluation, pictures = made_up(count, {"$\\frac{ <b> \udcff": 3})
    write_comparison(tmp_path / "comparison.png", evaluation, pictures)
    assert (tmp_path / "comparison.png").stat().st_size > 1000


@pytest.mark.parametrize("records", [RECORDS, RECORDS[:1], [], [{**RECORDS[0], "validation": None}]])
def test_curves_of_any_number_of_epochs(tmp_path, records):
    write_curves(tmp_path / "curves.png", records)
    with Image.open(tmp_path / "curves.png") as picture:
        assert picture.width == 2100


def test_best_epoch_is_the_best_validation_or_the_last():
    assert best_epoch(RECORDS) == 2
    assert best_epoch([{key: value for key, value in record.items() if key != "validation"} for record in RECORDS]) == 3


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path):
    with pytest.raises(UserError, match="cannot be written"):
        write_curves(tmp_path / "missing" / "curves.png", RECORDS)


def test_matplotlib_is_imported_only_to_draw():
    check = "import sys, cad.reports.report; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], cwd=CODE).returncode == 0
