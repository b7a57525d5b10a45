"""No file that is read may run code: hostile files at every place that reads one, and the code's own calls."""

import ast
import pickle
import tarfile
from pathlib import Path

import embed
import evaluate
import numpy as np
import pytest
import run_cad
import summarize
import torch
from PIL import Image

from cad.datasets.pairs import read_image, read_mask
from cad.encoders.feature_cache import EmbeddingCache, _checksum
from cad.encoders.sam import SAM_SIZES, build_random_sam, load_sam, read_weights_file
from cad.errors import UserError
from cad.files import read_json_lines
from cad.segmenter import Segmenter
from cad.trained_weights import load_segmenter, publish, read_weights, save_weights

ROOT = Path(__file__).parents[1]
SIZE = SAM_SIZES["vit_demo"]
SMALL = ["--model_type", "vit_demo", "--image_size", "32", "--batch_size", "2", "--epoch", "1", "--wandb", "disabled"]
FAST = ["--num_workers", "0", "--device", "cpu"]


class MakesFolder:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder):
        self.folder = str(folder)

    def __reduce__(self):
        return Path.mkdir, (Path(self.folder), 0o777, False, True)


def whole_sam():
    return build_random_sam(SIZE, seed=1).state_dict()


def write_pickle(protocol):
    return lambda path, evil: path.write_bytes(pickle.dumps(evil, protocol))


def write_tar(path, evil):
    (path.parent / "pickle").write_bytes(pickle.dumps(evil))
    with tarfile.open(path, "w") as archive:
        for name in ("storages", "tensors", "pickle"):  # PyTorch's first format
            archive.add(path.parent / "pickle", name)


WAYS = {
    **{f"pickle, protocol {protocol}": write_pickle(protocol) for protocol in (0, 2, 4)},
    "torch zip": lambda path, evil: torch.save(evil, path),
    "torch before 1.6": lambda path, evil: torch.save(evil, path, _use_new_zipfile_serialization=False),
    "torch tar": write_tar,
    "whole SAM": lambda path, evil: torch.save(whole_sam() | {"prompt_encoder.extra": evil}, path),
    "SAM with an adapter": lambda path, evil: torch.save(whole_sam() | {"conv_adapter.conv_up.weight": evil}, path),
    "trained": lambda path, evil: torch.save(
        {"format": "sam-cad weights", "version": 1, "metadata": {"method": evil}, "state": {}}, path
    ),
    "key": lambda path, evil: torch.save({"format": "sam-cad weights", "version": 1, "metadata": {"a": [evil]}}, path),
}


@pytest.fixture
def marker(tmp_path):
    """A folder that must not come into being."""
    path = tmp_path / "code ran"
    yield path
    assert not path.exists()


@pytest.fixture
def hostile(way, tmp_path, marker):
    """A weights file that makes the marker where it is unpickled."""
    path = tmp_path / "hostile" / "weights.pth"
    path.parent.mkdir()
    WAYS[way](path, MakesFolder(marker))
    return path


@pytest.mark.parametrize("way", [way for way in WAYS if way != "torch tar"])  # which needs sound storages to get so far
def test_the_hostile_files_of_these_tests_would_run_code(way, tmp_path):
    WAYS[way](tmp_path / "weights.pth", MakesFolder(tmp_path / "ran"))
    if "pickle" in way:
        pickle.loads((tmp_path / "weights.pth").read_bytes())
    else:
        torch.load(tmp_path / "weights.pth", weights_only=False)
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize("way", WAYS)
def test_no_reader_of_weights_runs_code(hostile, tmp_path):
    readers = [
        lambda: read_weights_file(hostile),
        lambda: load_sam("vit_demo", hostile),
        *(lambda method=method: read_weights(hostile, method) for method in (None, "cad", "sam_adapter", "decoder")),
        lambda: load_segmenter(hostile, tmp_path),
    ]
    for read in readers:
        with pytest.raises(UserError, match="refused|truncated, or not a PyTorch weights file"):
            read()
    assert "stays as it is" in publish(hostile, hostile)


@pytest.fixture
def good(tmp_path):
    """Trained weights that stand on the SAM weights base.pth, which is hostile where it is read again."""
    torch.save(whole_sam(), tmp_path / "base.pth")
    sam, base = load_sam("vit_demo", tmp_path / "base.pth")
    metadata = {"method": "decoder", "model_type": "vit_demo", "image_size": 32, "base": base.as_metadata()}
    path = tmp_path / "good.pth"
    save_weights(path, Segmenter(sam, "decoder"), metadata | {"demo": False})
    return path


OFTEN = ("pickle, protocol 2", "torch zip", "trained")  # the other ways through every script are slow tests


@pytest.mark.parametrize("way", [way if way in OFTEN else pytest.param(way, marks=pytest.mark.slow) for way in WAYS])
def test_no_script_runs_code(hostile, good, pair_folders, tmp_path, capsys):
    output = ["--output_dir", str(tmp_path / "out"), *FAST]
    train = ["--train_image_dir", str(pair_folders[0]), "--train_mask_dir", str(pair_folders[1]), *SMALL, *output]
    test = ["--test_image_dir", str(pair_folders[0]), "--test_mask_dir", str(pair_folders[1]), *output]
    (tmp_path / "base.pth").write_bytes(hostile.read_bytes())
    calls = [
        (run_cad, [*train, "--checkpoint", str(hostile)]),
        (embed, [*train, "--checkpoint", str(hostile)]),
        (evaluate, ["--checkpoint", str(hostile), *test]),
        (evaluate, ["--checkpoint", str(hostile), "--method", "decoder", *test]),
        (evaluate, ["--method", "zero_shot", "--model_type", "vit_demo", "--sam_checkpoint", str(hostile), *test]),
        (evaluate, ["--checkpoint", str(good), *test]),
        (evaluate, ["--checkpoint", str(good), "--sam_checkpoint", str(hostile), *test]),
    ]
    for script, flags in calls:
        assert script.main(flags) == 2, flags
        error = capsys.readouterr().err.splitlines()[-1]
        assert "refused" in error or "truncated, or not a PyTorch weights file" in error
    assert not list((tmp_path / "out").rglob("*.pth"))


def test_the_default_checkpoint_and_published_weights_run_no_code(marker, pair_folders, tmp_path, monkeypatch, capsys):
    """What lies in checkpoints/ under a well-known name is trusted no more than any other file."""
    checkpoints = tmp_path / "out" / "checkpoints"
    checkpoints.mkdir(parents=True)
    torch.save(MakesFolder(marker), checkpoints / "sam_vit_b_01ec64.pth")
    data = ["--train_image_dir", str(pair_folders[0]), "--train_mask_dir", str(pair_folders[1])]
    output = ["--output_dir", str(tmp_path / "out"), *FAST]
    assert run_cad.main([*data, "--wandb", "disabled", *output]) == 2
    assert "refused" in capsys.readouterr().err
    torch.save(MakesFolder(marker), checkpoints / "sam_cad.pth")
    assert run_cad.main([*data, *SMALL, *output, "--publish", "sam_cad.pth"]) == 0
    assert "sam_cad.pth is something else than trained weights and stays as it is" in capsys.readouterr().err


def test_cache_entries_are_numbers_whatever_they_hold(tmp_path, marker):
    cache = EmbeddingCache(tmp_path / "cache", (3, 8, 8), "fp32", "sha", "fp32")
    cache.store("ab12", torch.ones(3, 8, 8))
    (entry,) = (tmp_path / "cache").rglob("*.embedding")
    evil = pickle.dumps(MakesFolder(marker))
    entry.write_bytes(evil)
    assert cache.load("ab12") is None
    payload = evil.ljust(cache.entry_bytes - 16, b"\0")
    entry.write_bytes(_checksum(payload) + payload)
    assert cache.load("ab12").shape == (3, 8, 8)
    torch.save(MakesFolder(marker), entry)
    assert cache.load("ab12") is None


def test_images_and_logs_that_are_pickles_are_refused(tmp_path, marker, capsys):
    evil = pickle.dumps(MakesFolder(marker))
    run = tmp_path / "runs" / "May21_172910"
    run.mkdir(parents=True)
    for name in ("a.png", "a.jpg", "a.tif", "a.webp", "runs/May21_172910/log.jsonl", "runs/May21_172910/summary.json"):
        (tmp_path / name).write_bytes(evil)
    np.savez(tmp_path / "b.npz", np.array([MakesFolder(marker)], dtype=object))
    (tmp_path / "b.npz").rename(tmp_path / "b.png")
    for name in ("a.png", "a.jpg", "a.tif", "a.webp", "b.png"):
        for read in (read_image, read_mask):
            with pytest.raises(UserError, match="unreadable or truncated image file"):
                read(tmp_path / name)
    with pytest.raises(ValueError, match="decode|Expecting"):
        read_json_lines(run / "log.jsonl")
    assert summarize.main(["--output_dir", str(tmp_path)]) == 2
    assert "summary.json: damaged, passed over" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["EPS", "PDF", "PPM", "TGA", "ICO"])
def test_formats_beyond_those_of_the_documentation_are_not_opened(tmp_path, kind):
    """Pillow goes by the content, not by the name, and starts Ghostscript for PostScript."""
    path = tmp_path / "frog.png"
    Image.new("RGB", (32, 32), "red").save(path, kind)
    with pytest.raises(UserError, match="none of JPEG, PNG, BMP"):
        read_image(path)


FORBIDDEN_MODULES = {"marshal", "shelve", "dill", "cloudpickle", "joblib", "yaml", "subprocess", "pty", "runpy"}
FORBIDDEN_CALLS = {"eval", "exec", "compile", "__import__", "execfile", "input"}
FORBIDDEN_ATTRIBUTES = {
    ("os", "system"), ("os", "popen"), ("np", "load"), ("numpy", "load"), ("pd", "read_pickle"), ("torch", "hub"),
    ("pickle", "load"), ("pickle", "loads"), ("pickle", "Unpickler"), ("importlib", "import_module"),
}  # fmt: skip
SOURCES = sorted([*ROOT.glob("code/**/*.py"), *ROOT.glob("benchmarks/**/*.py")])


def dangers(tree):
    """What in a syntax tree could run the content of a file."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            modules = {alias.name.split(".")[0] for alias in node.names}
            if isinstance(node, ast.ImportFrom):
                modules = {(node.module or "").split(".")[0]}
                if node.module in ("pickle", "torch.serialization"):
                    yield f"line {node.lineno}: from {node.module}"
            if modules & FORBIDDEN_MODULES:
                yield f"line {node.lineno}: import of {modules & FORBIDDEN_MODULES}"
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            if (node.value.id, node.attr) in FORBIDDEN_ATTRIBUTES:
                yield f"line {node.lineno}: {node.value.id}.{node.attr}"
        elif isinstance(node, ast.keyword) and node.arg in ("allow_pickle", "shell", "trust_remote_code"):
            yield f"line {node.lineno}: {node.arg}"
        if isinstance(node, ast.Call):
            if isinstance(node.func, ast.Name) and node.func.id in FORBIDDEN_CALLS:
                yield f"line {node.lineno}: {node.func.id}()"
            if ast.unparse(node.func) == "torch.jit.load":
                yield f"line {node.lineno}: torch.jit.load"
            if ast.unparse(node.func) in ("torch.load", "load_state_dict_from_file"):
                given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
                if given.get("weights_only") != "True":
                    yield f"line {node.lineno}: torch.load without weights_only=True"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_code_has_no_call_that_runs_the_content_of_a_file(path):
    found = list(dangers(ast.parse(path.read_text(encoding="utf-8"))))
    allowed = ["subprocess"] if path.parent.name == "benchmarks" else []  # benchmarks start themselves afresh
    if path.name == "errors.py":
        allowed = ["importlib.import_module"]  # of optional packages, whose names are in our code
    assert [danger for danger in found if not any(word in danger for word in allowed)] == []


def test_what_the_search_above_finds():
    for line in (
        "torch.load(path)", "torch.load(path, weights_only=False)", "import pickle; pickle.load(file)", "import yaml",
        "from pickle import load", "np.load(file)", "f(allow_pickle=True)", "eval(text)", "os.system(text)",
    ):  # fmt: skip
        assert list(dangers(ast.parse(line))), line
    for line in ("torch.load(path, weights_only=True)", "model.eval()", "pickle.UnpicklingError"):
        assert not list(dangers(ast.parse(line))), line
