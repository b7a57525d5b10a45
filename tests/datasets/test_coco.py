"""COCO instances -> masks: drawn by hand-computed values, and against pycocotools where it is installed."""

import json
import sys

import cv2
import numpy as np
import pytest
from PIL import Image

from cad.datasets.coco import decode_rle, draw_polygon, prepare_coco, read_annotations
from cad.datasets.pairs import check_pairs, find_pairs, read_mask
from cad.errors import MissingPathError, UserError

SQUARE = [1, 1, 3, 1, 3, 4, 1, 4]
CORNER = [4, 0, 6, 0, 6, 2, 4, 2]
# Runs down the columns of 5x6 pixels: the last column.
LAST_COLUMN = {"size": [5, 6], "counts": [25, 5]}


@pytest.fixture
def coco(tmp_path):
    """Four images of 6x5 pixels: two with instances, one without, one that is lost."""
    names = ["a.jpg", "val/b ü.jpg", "c.jpg", "lost.jpg"]
    for name in names[:3]:
        path = tmp_path / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros((5, 6, 3), np.uint8)).save(path)
    content = {
        "images": [{"id": 7 + i, "file_name": name, "height": 5, "width": 6} for i, name in enumerate(names)],
        "categories": [{"id": 1, "name": "frog"}, {"id": 2, "name": "owl"}],
        "annotations": [
            {"id": 1, "image_id": 7, "category_id": 1, "segmentation": [SQUARE], "iscrowd": 0},
            {"id": 2, "image_id": 7, "category_id": 2, "segmentation": [CORNER], "iscrowd": 0},
            {"id": 3, "image_id": 8, "category_id": 1, "segmentation": LAST_COLUMN, "iscrowd": 1},
        ],
    }
    (tmp_path / "instances.json").write_text(json.dumps(content))
    return tmp_path


def change(folder, edit):
    """Edit the annotation file's content."""
    file = folder / "instances.json"
    content = json.loads(file.read_text())
    edit(content)
    file.write_text(json.dumps(content))


def prepare(folder, **options):
    said = []
    prepare_coco(folder / "images", folder / "out", folder / "instances.json", say=said.append, **options)
    return said


def mask_of(folder, name):
    return np.asarray(Image.open(folder / "out/train/mask" / name))


def test_masks_are_the_union_of_an_images_instances(coco):
    said = prepare(coco)
    expected = np.zeros((5, 6), np.uint8)
    expected[1:4, 1:3] = 255
    expected[:2, 4:] = 255
    assert np.array_equal(mask_of(coco, "a.png"), expected)
    assert np.array_equal(mask_of(coco, "b ü.png"), np.tile(np.array([0] * 5 + [255], np.uint8), (5, 1)))
    assert not mask_of(coco, "c.png").any()
    assert said == [
        f"train: 3 images linked into {coco / 'out' / 'train'}, their masks drawn from instances.json",
        "train: 1 of the masks are empty, without an instance",
        f"warning: train: left out 1 images that are not in {coco / 'images'} (lost.jpg)",
    ]
    pairs = find_pairs(coco / "out/train/image", coco / "out/train/mask")
    check_pairs(pairs, progress=False)
    assert read_mask(pairs[0].mask).sum() == 10


def test_only_some_categories(coco):
    prepare(coco, categories=["owl"])
    assert (mask_of(coco, "a.png") > 0).sum() == 4 and not mask_of(coco, "b ü.png").any()


def test_an_unknown_category_is_named_with_those_there_are(coco):
    with pytest.raises(UserError, match="--categories newt: no such category in the annotations, which have frog, owl"):
        prepare(coco, categories=["frog", "newt"])


def test_again_changes_nothing_and_another_mask_in_the_way_is_refused(coco):
    prepare(coco, split="test")
    written = (coco / "out/test/mask/a.png").stat().st_mtime_ns
    prepare(coco, split="test")
    assert (coco / "out/test/mask/a.png").stat().st_mtime_ns == written
    with pytest.raises(UserError, match=r"2 other files are in the way: .*a\.png"):
        prepare(coco, split="test", categories=["owl"])
    assert (coco / "out/test/mask/a.png").stat().st_mtime_ns == written


@pytest.mark.parametrize("installed", [False, True])
def test_compressed_rle_needs_pycocotools_and_says_so_before_writing(coco, monkeypatch, installed):
    if installed:
        pytest.importorskip("pycocotools", reason="pycocotools is not installed")
        from pycocotools import mask

        runs = mask.encode(np.asfortranarray(decode_rle(LAST_COLUMN).astype(np.uint8)))["counts"].decode()
    else:
        monkeypatch.setitem(sys.modules, "pycocotools", None)
        runs = "i05"
    change(coco, lambda content: content["annotations"][2].update(segmentation={"size": [5, 6], "counts": runs}))
    if installed:
        prepare(coco)
        assert (mask_of(coco, "b ü.png") > 0).sum() == 5
    else:
        with pytest.raises(UserError, match="compressed RLE, which pycocotools decodes, and it is not installed"):
            prepare(coco)
        assert not (coco / "out").exists()


def test_a_pixel_belongs_to_a_polygon_if_its_centre_does():
    triangle = draw_polygon([0, 0, 4, 0, 0, 4], 4, 5).astype(int)
    assert triangle.tolist() == [[1, 1, 1, 0, 0], [1, 1, 0, 0, 0], [1, 0, 0, 0, 0], [0, 0, 0, 0, 0]]
    assert draw_polygon([0.6, 0.6, 2.4, 0.6, 2.4, 2.4, 0.6, 2.4], 3, 3).sum() == 1
    assert draw_polygon([-9, -9, 99, -9, 99, 99, -9, 99], 3, 4).all()
    assert not draw_polygon([1, 1, 3, 3], 4, 4).any() and not draw_polygon([], 4, 4).any()
    bow_tie = draw_polygon([0, 0, 4, 4, 4, 0, 0, 4], 4, 4)
    assert bow_tie[1:3, 0].all() and bow_tie[1:3, 3].all() and not bow_tie[0, 1:3].any()


def test_polygons_are_those_of_pycocotools_within_a_pixel_of_the_outline():
    mask = pytest.importorskip("pycocotools.mask", reason="pycocotools is not installed")
    random = np.random.default_rng(0)
    for _ in range(100):
        height, width = map(int, random.integers(8, 70, size=2))
        corners = random.uniform(0, 1, size=(int(random.integers(3, 12)), 2)) * (width, height)
        theirs = mask.decode(mask.merge(mask.frPyObjects([corners.ravel().tolist()], height, width))).astype(bool)
        outline = np.zeros((height, width), np.uint8)
        cv2.polylines(outline, [np.round(corners - 0.5).astype(np.int32)], True, 1)
        near = cv2.dilate(outline, np.ones((3, 3), np.uint8)).astype(bool)
        assert not ((draw_polygon(corners.ravel().tolist(), height, width) != theirs) & ~near).any()


def test_runs_go_down_the_columns_and_start_with_zeros():
    assert decode_rle({"size": [2, 3], "counts": [1, 2, 3]}).astype(int).tolist() == [[0, 1, 0], [1, 0, 0]]
    assert decode_rle({"size": [2, 2], "counts": [0, 4]}).all()


@pytest.mark.parametrize(
    "segmentation",
    [[[1, 2, 3]], [1, 2, 3, 4], [["x", 1]], {"size": [5, 6], "counts": [3]}, {"size": [6, 5], "counts": [30]}, {}, 5],
)
def test_a_segmentation_of_another_form_names_its_image_and_nothing_is_written(coco, segmentation):
    change(coco, lambda content: content["annotations"][0].update(segmentation=segmentation))
    with pytest.raises(UserError, match=r"a\.jpg: expected segmentations that are polygons or RLE of 5x6"):
        prepare(coco)
    assert not (coco / "out").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "cannot be read as JSON"),
        ("[]", "expected COCO's instance format"),
        ('{"images": []}', "expected COCO's instance format .*'annotations'"),
        ('{"images": [{"id": 1, "file_name": "a.jpg"}], "annotations": []}', "'height'"),
    ],
)
def test_another_kind_of_file_is_one_line(tmp_path, text, message):
    file = tmp_path / "instances.json"
    file.write_text(text)
    with pytest.raises(UserError, match=message):
        read_annotations(file)


def test_missing_annotations_and_missing_images(coco):
    with pytest.raises(MissingPathError, match="--annotations .*: no such file"):
        prepare_coco(coco / "images", coco / "out", coco / "none.json")
    (coco / "empty").mkdir()
    with pytest.raises(UserError, match="none of the images of .* is there: a.jpg, val/b ü.jpg, c.jpg, lost.jpg"):
        prepare_coco(coco / "empty", coco / "out", coco / "instances.json")


def test_two_images_of_one_name_are_refused(coco):
    (coco / "images/val/a.png").write_bytes((coco / "images/a.jpg").read_bytes())
    change(coco, lambda content: content["images"][3].update(file_name="val/a.png"))
    with pytest.raises(UserError, match="1 names are those of several images, up to the extension: a"):
        prepare(coco)
    assert not (coco / "out").exists()
