"""Hostile names, of image files, methods and in metadata: never a path, never markup, never lost."""

import csv
import json
import os
import re
import unicodedata
from html.parser import HTMLParser

import evaluate
import pytest
import run_cad
import torch
from conftest import write_pairs
from evaluated import RECORDS

from cad.datasets.coco import prepare_coco
from cad.encoders.sam import load_sam
from cad.errors import MissingPathError, UserError
from cad.evaluation.compared import Compared
from cad.evaluation.comparison import training_logs
from cad.metrics.measures import MEASURES, PER_IMAGE
from cad.metrics.results import Estimate, Evaluation, MethodResult
from cad.reports.outputs import per_image_csv, write_files
from cad.reports.table import latex_table, markdown_table
from cad.segmenter import Segmenter
from cad.trained_weights import find_base, read_weights, save_weights

NAMES = [
    "<img src=x onerror=alert(1)>",
    "a\"b'c",
    "$(touch x)",
    "`touch x`; touch x",
    "two\nlines\r\tand a tab",
    "&lt;script&gt; &amp;",
    "<|script><!--<script>",
    "\\input{x} 50% $a_1^2$ #~",
    "=HYPERLINK(1)",
    "+1-1@SUM(1),2",
    "a..",  # a stem of two dots alone is a hidden file, which is left out
    "-rf --checkpoint",
    "\x1b[2J\x07",
    "\N{RIGHT-TO-LEFT OVERRIDE}gpj",
    os.fsdecode(b"not utf-8 \xff\xfe"),
    "x" * 240,
]
SMALL = ["--model_type", "vit_demo", "--image_size", "32", "--batch_size", "2", "--epoch", "1", "--wandb", "offline"]
FAST = ["--num_workers", "0", "--device", "cpu"]


class Tags(HTMLParser):
    """The tags and attributes of a page, as a browser would see them, and its text."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.attributes, self.text = set(), set(), ""
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attributes}

    def handle_data(self, data):
        self.text += data


KNOWN_TAGS = """a abbr b body button dd details div dl dt fieldset figcaption figure h1 h2 h3 head header html img input
label legend li link main meta nav noscript ol option p path rect script section select small span strong style summary
svg table tbody td th thead title tr ul"""


def check_page(page):
    found = Tags(page)
    assert found.tags <= set(KNOWN_TAGS.split())
    assert not any(name.startswith("on") or name == "style" for name in found.attributes)
    assert page.count("</script>") == page.count("<script>") == 1
    return found


@pytest.fixture
def hostile_folders(tmp_path):
    """A data set of which every image and mask has one of `NAMES`, but for those that are refused."""
    names = [name for name in NAMES if not any(unicodedata.category(letter) in ("Cc", "Cs") for letter in name)]
    assert len(names) == len(NAMES) - 3
    images, masks = write_pairs(tmp_path / "data", count=len(names), suffix=".png")
    for index, name in enumerate(names):
        for folder in (images, masks):
            (folder / f"photo_{index}.png").rename(folder / f"{name}.png")
    return images, masks


@pytest.mark.slow
def test_a_run_and_an_evaluation_take_any_file_name(hostile_folders, tmp_path, monkeypatch, capsys):
    """Training and evaluation of hostile names end well, write where they should, and keep every name."""
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    images, masks = map(str, hostile_folders)
    output = ["--output_dir", str(tmp_path / "out"), *FAST]
    train = ["--train_image_dir", images, "--train_mask_dir", masks, *SMALL, *output, "--val_fraction", "0.8"]
    assert run_cad.main([*train, "--publish", "sam_cad.pth"]) == 0, capsys.readouterr().err
    (run,) = [file.parent for file in (tmp_path / "out" / "runs").glob("*/args.json")]
    check_page((run / "report.html").read_text(encoding="utf-8"))

    weights = str(tmp_path / "out" / "checkpoints" / "sam_cad.pth")
    test = ["--test_image_dir", images, "--test_mask_dir", masks, *output]
    assert evaluate.main(["--checkpoint", weights, "--save_masks", *test]) == 0, capsys.readouterr().err
    (folder,) = (tmp_path / "out" / "runs").glob("*-eval")
    page = check_page((folder / "report.html").read_text(encoding="utf-8"))
    assert NAMES[0] in page.text and "alert(1)" in page.text
    with (folder / "per_image.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    stems = sorted(path.stem for path in hostile_folders[0].iterdir())
    assert [row["name"] for row in rows] == [stem.encode(errors="backslashreplace").decode() for stem in stems]
    for kind in ("masks", "probabilities"):
        assert sorted(path.stem for path in (folder / kind / "cad").iterdir()) == stems
    assert not any(work.iterdir())
    assert {path.name for path in tmp_path.iterdir()} == {"data", "out", "work"}


def hostile_evaluation(label, names):
    summary = {name: Estimate(0.5, (0.25, 0.75)) for name in MEASURES}
    per_image = {name: [0.5] * len(names) for name in PER_IMAGE}
    protocol = {"images": 2, "metric_size": 512, "mask_threshold": 128, "normalize_maps": False, "resamples": 2000}
    result = MethodResult(label, label, label, {"demo": False}, summary, per_image)
    return Evaluation(protocol | {"demo": False}, names, [result], [])


def test_labels_are_text_in_latex_and_markdown(tmp_path):
    label = "\\input{x}\n50% $a_1^2$ #~ & <b>|`*["
    latex = latex_table(hostile_evaluation(label, ["a"]))
    row = next(line for line in latex.splitlines() if "Metric" in line)
    assert row == (
        "    Metric & \\textbackslash{}input\\{x\\} 50\\% \\$a\\_1\\textasciicircum{}2\\$ \\#\\textasciitilde{} \\& "
        "<b>|`*[ \\\\"
    )
    head = markdown_table(hostile_evaluation(label, ["a"])).splitlines()[0]
    assert head == "| metric | \\\\input{x} 50% $a\\_1^2$ #~ & \\<b\\>\\|\\`\\*\\[ |"


def test_names_in_the_csv_are_exact_formulas_included(tmp_path):
    """They are keys that scripts match with files; the page is what people read."""
    names = [name for name in NAMES if "utf-8" not in name]
    text = per_image_csv(hostile_evaluation("cad", names))
    assert [row["name"] for row in csv.DictReader(text.splitlines(keepends=True))] == names
    write_files(tmp_path, hostile_evaluation("cad", NAMES))
    assert json.loads((tmp_path / "metrics.json").read_text())["methods"].keys() == {"cad"}
    assert "not utf-8 \\udcff\\udcfe" in (tmp_path / "per_image.csv").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "run", ["..", "../..", "../outside", "/outside", "a/../../outside", "", ".", "a\0b", "x" * 300, 7]
)
def test_the_run_of_metadata_is_a_name_and_never_a_path(tmp_path, run):
    for folder in (tmp_path, tmp_path / "out", tmp_path / "out" / "runs", tmp_path / "outside"):
        folder.mkdir(exist_ok=True)
        (folder / "log.jsonl").write_text(json.dumps(RECORDS[0]))
    one = Compared("cad", "cad", "w.pth", {"run": run}, lambda: None)
    assert training_logs([one], tmp_path / "out") == {}


def test_a_damaged_log_costs_its_curves_only(tmp_path, capsys):
    log = tmp_path / "runs" / "May21_172910" / "log.jsonl"
    log.parent.mkdir(parents=True)
    one = Compared("cad", "cad", "w.pth", {"run": "May21_172910"}, lambda: None)
    log.write_text(json.dumps(RECORDS[0]) + "\n")
    assert training_logs([one], tmp_path) == {"cad": [RECORDS[0]]}
    log.write_text(json.dumps(RECORDS[0]) + '\n{"epoch": 2, "tra')
    assert training_logs([one], tmp_path) == {}
    assert "log.jsonl: damaged, its curves are left out" in capsys.readouterr().err


@pytest.fixture(scope="module")
def segmenter_and_metadata():
    sam, base = load_sam("vit_demo", "random", 1)
    metadata = {"method": "decoder", "model_type": "vit_demo", "image_size": 32, "base": base.as_metadata()}
    return Segmenter(sam, "decoder"), metadata | {"demo": False}


@pytest.mark.parametrize("source", ["../../secret.pth", "/secret.pth", "..", "", "a/../../secret.pth"])
def test_the_sam_weights_of_metadata_are_a_name_and_never_a_path(tmp_path, segmenter_and_metadata, source):
    segmenter, metadata = segmenter_and_metadata
    weights = tmp_path / "a" / "b" / "w.pth"
    weights.parent.mkdir(parents=True)
    (tmp_path / "secret.pth").touch()
    save_weights(weights, segmenter, metadata | {"base": {"source": source, "sha256": "0" * 64, "seed": None}})
    with pytest.raises(MissingPathError, match="was trained on the SAM weights"):
        find_base(read_weights(weights), tmp_path / "a" / "checkpoints", None)


CYCLE: dict = {}
CYCLE["self"] = CYCLE


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "../../etc"}, "method is '../../etc', expected one of"),
        ({"model_type": "<script>"}, "model_type is '<script>', expected one of"),
        ({"method": ["cad"]}, r"method is \['cad'\], expected one of"),
        ({"image_size": 0}, "image_size is 0, expected a positive multiple of 8"),
        ({"image_size": -512}, "image_size is -512, expected a positive multiple of 8"),
        ({"base": {"source": "random", "sha256": "0"}}, "lack the seed of the random weights"),
        ({"base": {"source": "random", "sha256": "0", "seed": "1; rm"}}, "lack the seed of the random weights"),
        ({"trainable_parameters": "<b>"}, "trainable_parameters is '<b>', expected a number"),
        ({"seconds_per_epoch": [1]}, r"seconds_per_epoch is \[1\], expected a number"),
        ({"seconds_per_epoch": float("nan")}, "the metadata hold more than plain values"),
        ({"settings": torch.zeros(1)}, "the metadata hold more than plain values"),
        ({"settings": CYCLE}, "the metadata hold more than plain values .Circular"),
    ],
    ids=str,
)
def test_metadata_are_checked_before_anything_is_made_of_them(tmp_path, segmenter_and_metadata, changes, message):
    segmenter, metadata = segmenter_and_metadata
    save_weights(tmp_path / "w.pth", segmenter, metadata | changes)
    with pytest.raises(UserError, match=message):
        read_weights(tmp_path / "w.pth")


def test_hostile_metadata_are_text_in_every_file_of_an_evaluation(
    tmp_path, segmenter_and_metadata, pair_folders, capsys
):
    segmenter, metadata = segmenter_and_metadata
    hostile = "</script><script>alert(1)</script>"
    metadata = metadata | {
        "run": "../../etc", "demo_task": "../../etc", "settings": {hostile: hostile}, hostile: hostile,
        "base": metadata["base"] | {hostile: [hostile, {hostile: hostile}]},
    }  # fmt: skip
    path = tmp_path / "<script>alert(1)<_script>.pth"
    save_weights(path, segmenter, metadata)
    (tmp_path / "twin").mkdir()
    twin = tmp_path / "twin" / path.name
    twin.write_bytes(path.read_bytes())
    folders = ["--test_image_dir", str(pair_folders[0]), "--test_mask_dir", str(pair_folders[1])]
    output = ["--output_dir", str(tmp_path / "out"), *FAST]
    assert evaluate.main(["--checkpoint", str(path), str(twin), *folders, *output]) == 0, capsys.readouterr().err
    (folder,) = (tmp_path / "out" / "runs").glob("*-eval")
    page = check_page((folder / "report.html").read_text(encoding="utf-8"))
    assert hostile in page.text
    labels = json.loads((folder / "metrics.json").read_text())["methods"].keys()
    assert all(re.fullmatch(r"[\w-]+", label) for label in labels) and len(labels) == 2


@pytest.mark.parametrize("file_name", ["../secret.png", "/{}/secret.png", "a/../../secret.png"])
def test_an_annotation_file_names_images_of_its_folder_only(tmp_path, file_name):
    images, _ = write_pairs(tmp_path / "data", count=1, suffix=".png")
    (images / "photo_0.png").rename(tmp_path / "data" / "secret.png")
    one = {"id": 1, "file_name": file_name.format(tmp_path / "data"), "height": 32, "width": 40}
    (tmp_path / "i.json").write_text(json.dumps({"images": [one], "annotations": [], "categories": []}))
    with pytest.raises(UserError, match="none of the images of .* is there"):
        prepare_coco(images, tmp_path / "to", tmp_path / "i.json", copy=True)
    assert not (tmp_path / "to").exists()
