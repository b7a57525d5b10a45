import json

import numpy as np
import pytest

from cad.datasets.coco import AnnotatedImage, draw_union, read_annotations
from cad.prediction.coco_results import annotate, compress_counts, outlines, run_lengths, write_coco

RANDOM = np.random.default_rng(2)
MASKS = {
    "noise": RANDOM.random((23, 31)) > 0.5,
    "sparse": RANDOM.random((300, 200)) > 0.999,
    "full": np.ones((5, 7), bool),
    "pixel": np.eye(1, 12, 4, dtype=bool),
    "long runs": np.arange(1200 * 900).reshape(1200, 900) % 400_000 > 170_000,
    "first pixel": np.arange(12).reshape(3, 4) < 1,
    "diagonal": np.eye(6, dtype=bool),
}


@pytest.mark.parametrize("name", MASKS)
def test_rle_is_that_of_pycocotools(name):
    coco = pytest.importorskip("pycocotools.mask")
    mask = MASKS[name]
    expected = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    found = annotate(mask, 0.5)
    assert found["rle"] == {"size": list(mask.shape), "counts": expected["counts"].decode()}
    assert found["area"] == coco.area(expected) and found["bbox"] == coco.toBbox(expected).tolist()
    assert np.array_equal(coco.decode(found["rle"]), mask)


def test_compressed_counts_written_out_by_hand():
    """1 -> "1"; 40 = 8 + 32 -> "X1"; the fourth is 3 - 40 = -37, in five bits 27 and -2 -> "kN"."""
    assert compress_counts(np.array([1, 40, 1, 3])) == "1X11kN"


def test_run_lengths_go_down_the_columns_and_begin_with_background():
    assert run_lengths(np.array([[0, 1], [0, 1], [1, 0]], bool)).tolist() == [2, 3, 1]
    assert run_lengths(np.array([[1, 0]], bool)).tolist() == [0, 1, 1]
    assert run_lengths(np.zeros((2, 3), bool)).tolist() == [6]


@pytest.mark.parametrize("name", ["sparse", "full", "pixel", "first pixel", "diagonal"])
def test_outlines_hold_exactly_the_centres_of_a_mask_without_holes(name):
    mask = MASKS[name]
    height, width = mask.shape
    assert np.array_equal(draw_union(AnnotatedImage("", height, width, (outlines(mask),))), mask)


def test_outlines_fill_holes():
    ring = np.ones((9, 9), bool)
    ring[3:6, 3:6] = False
    assert draw_union(AnnotatedImage("", 9, 9, (outlines(ring),))).all()


def test_the_file_is_read_as_annotations_here_and_by_pycocotools(tmp_path):
    coco = pytest.importorskip("pycocotools.coco")
    mask = np.zeros((40, 60), bool)
    mask[5:20, 10:30] = mask[25:30, 3:50] = True
    records = [
        ("sub/a.jpg", {"width": 60, "height": 40, "annotation": annotate(mask, 0.75)}),
        ("empty.jpg", {"width": 9, "height": 8, "annotation": annotate(np.zeros((8, 9), bool), 0.0)}),
        ("b.jpg", {"width": 60, "height": 40, "annotation": annotate(~mask, 0.5)}),
    ]
    write_coco(tmp_path / "results.json", records)
    content = json.loads((tmp_path / "results.json").read_text())
    assert [image["file_name"] for image in content["images"]] == ["sub/a.jpg", "empty.jpg", "b.jpg"]
    assert [(one["id"], one["image_id"], one["score"]) for one in content["annotations"]] == [(1, 1, 0.75), (2, 3, 0.5)]
    assert content["annotations"][0]["bbox"] == [3, 5, 47, 25] and content["annotations"][0]["area"] == mask.sum()
    first, empty, _ = read_annotations(tmp_path / "results.json")
    assert np.array_equal(draw_union(first), mask) and not draw_union(empty).any()
    loaded = coco.COCO(str(tmp_path / "results.json"))
    assert np.array_equal(loaded.annToMask(loaded.anns[1]), mask)
    exact = loaded.loadRes([one | {"segmentation": one["rle"]} for one in content["annotations"]])
    assert np.array_equal(exact.annToMask(exact.anns[2]), ~mask)
