"""Full disks, folders that cannot be written, runs that start together: one line, and what was whole stays."""

import ast
import fnmatch
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path

import evaluate
import merge
import predict
import pytest
import run_decoder
import torch
from conftest import write_pairs
from PIL import Image
from trained import trained_file
from training_runs import TINY, log_of, result_of

import cad.files
from cad.datasets.demo import prepare_demo
from cad.errors import UserError
from cad.files import start_run_folder, unfinished_name
from cad.options import PROJECT_ROOT
from cad.training import logger

CODE = PROJECT_ROOT / "code"


def files_below(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and ".tmp" not in path.name}


@pytest.fixture
def full_disk(monkeypatch, tmp_path):
    """full_disk(pattern, written, how): the disk is full when files so named have been written that often.

    Returns a list that gets, at that moment, all files there are. `how` is "write", where the kernel refuses every byte
    (/dev/full), or "fsync", where it refuses only in the end.
    """
    opened, synced = Path.open, os.fsync
    state = {"failing": -1}

    def fill(pattern, written, how):
        seen, there = [], []

        def open_file(self, *arguments, **options):
            file = opened(self, *arguments, **options)
            unfinished = unfinished_name(self)
            if unfinished is None or not fnmatch.fnmatch(unfinished, pattern):
                return file
            seen.append(unfinished)
            if len(seen) <= written:
                return file
            there.append(files_below(tmp_path))
            if how == "fsync":
                state["failing"] = file.fileno()
                return file
            file.close()
            return opened(Path("/dev/full"), "wb")

        def fsync(number):
            if number == state["failing"]:
                state["failing"] = -1
                raise OSError(28, "No space left on device")
            synced(number)

        monkeypatch.setattr(Path, "open", open_file)
        monkeypatch.setattr(os, "fsync", fsync)
        return there

    return fill


def assert_one_line(capsys, name):
    stderr = capsys.readouterr().err
    assert "Traceback" not in stderr
    (line,) = [line for line in stderr.splitlines() if line.startswith("error: ")]
    assert fnmatch.fnmatch(line, f"error: *{name}: cannot be written: No space left on device"), line


FLAGS = (*TINY, "--batch_size", "2", "--epoch", "2", "--val_fraction", "0", "--device", "cpu")


@pytest.fixture
def flags(pair_folders, tmp_path):
    """Two epochs of the decoder, both of which are kept, to be published over older weights."""
    output = tmp_path / "out"
    (output / "checkpoints").mkdir(parents=True)
    trained_file(output / "checkpoints" / "mine.pth", "decoder", 32)
    images, masks = map(str, pair_folders)
    data = ["--train_image_dir", images, "--train_mask_dir", masks, "--output_dir", str(output)]
    return [*data, *FLAGS, "--publish", "mine.pth"]


@pytest.fixture(scope="session")
def whole(tmp_path_factory):
    """What such a run comes to when nothing is in its way."""
    folder = tmp_path_factory.mktemp("whole")
    images, masks = map(str, write_pairs(folder / "data"))
    data = ["--train_image_dir", images, "--train_mask_dir", masks, "--output_dir", str(folder / "out")]
    assert run_decoder.main([*data, *FLAGS]) == 0
    return result_of(folder / "out")


@pytest.mark.parametrize(
    ("pattern", "written", "how"),
    [
        ("*.embedding", 1, "write"),
        pytest.param("resume.pth", 0, "write", marks=pytest.mark.slow),
        ("resume.pth", 1, "write"),
        pytest.param("resume.pth", 1, "fsync", marks=pytest.mark.slow),
        ("[A-Z]*.pth", 1, "write"),
        pytest.param("[A-Z]*.pth", 1, "fsync", marks=pytest.mark.slow),
        pytest.param("summary.json", 0, "write", marks=pytest.mark.slow),
        ("mine.pth", 0, "write"),
    ],
)
def test_a_full_disk_ends_training_in_one_line_and_the_run_goes_on_when_there_is_room(
    flags, tmp_path, full_disk, whole, capsys, monkeypatch, pattern, written, how
):
    there = full_disk(pattern, written, how)
    assert run_decoder.main(flags) == 2
    assert_one_line(capsys, pattern)
    assert files_below(tmp_path) == there[0] and not list(tmp_path.rglob("*.tmp"))
    monkeypatch.undo()
    assert run_decoder.main([*flags, "--resume", "auto"]) == 0
    shutil.rmtree(tmp_path / "out" / "runs" / "embeddings")
    assert result_of(tmp_path / "out") == whole


def test_a_run_that_cannot_even_say_its_settings_leaves_no_folder(flags, tmp_path, full_disk, capsys):
    there = full_disk("args.json", 0, "write")
    assert run_decoder.main(flags) == 2
    assert_one_line(capsys, "args.json")
    assert files_below(tmp_path) == there[0]
    assert not list((tmp_path / "out" / "runs").iterdir())


@pytest.mark.parametrize("part", [pytest.param(0, marks=pytest.mark.slow), 10])
def test_a_full_disk_leaves_no_part_of_a_line_in_the_log(flags, tmp_path, whole, capsys, monkeypatch, part):
    write, lines = logger.RunLog.log, []

    class FullFile:
        """A log whose disk takes `part` bytes more, or only at the end refuses."""

        def __init__(self, file):
            self.file = file

        def __getattr__(self, name):
            return getattr(self.file, name)

        def write(self, line):
            return self.file.write(line[:part])

    def log(self, record):
        lines.append(record)
        if len(lines) == 2:
            self._file = FullFile(self._file)
        write(self, record)

    monkeypatch.setattr(logger.RunLog, "log", log)
    assert run_decoder.main(flags) == 2
    assert_one_line(capsys, "log.jsonl")
    assert [record["epoch"] for record in log_of(tmp_path / "out")] == [1]
    monkeypatch.undo()
    assert run_decoder.main([*flags, "--resume", "auto"]) == 0
    assert result_of(tmp_path / "out") == whole


@pytest.mark.parametrize("name", [pytest.param("curves.png", marks=pytest.mark.slow), "report.html"])
def test_the_page_of_a_run_is_only_warned_about(flags, tmp_path, full_disk, capsys, name):
    full_disk(name, 0, "write")
    assert run_decoder.main(flags) == 0
    warning = capsys.readouterr().err
    assert warning.splitlines()[-1].endswith(f"{name}: cannot be written: No space left on device")
    assert "warning: " in warning.splitlines()[-1] and "Traceback" not in warning
    assert not list(tmp_path.rglob("*.tmp"))
    (folder,) = [file.parent for file in (tmp_path / "out" / "runs").glob("*/summary.json")]
    assert not (folder / name).exists()


@pytest.mark.parametrize(
    "name",
    [
        "photo_3.png",
        "metrics.json",
        "report.html",
        *[
            pytest.param(name, marks=pytest.mark.slow)
            for name in ("per_image.csv", "table.md", "table.tex", "comparison.png")
        ],
    ],
)
def test_a_full_disk_ends_an_evaluation_in_one_line(pair_folders, tmp_path, full_disk, capsys, name):
    weights = trained_file(tmp_path / "weights.pth", "decoder", 32)
    data = ["--test_image_dir", str(pair_folders[0]), "--test_mask_dir", str(pair_folders[1])]
    there = full_disk(name, 0, "write")
    flags = ["--checkpoint", str(weights), *data, "--output_dir", str(tmp_path / "out"), "--save_masks"]
    assert evaluate.main([*flags, "--num_workers", "0", "--device", "cpu"]) == 2
    assert_one_line(capsys, name)
    assert files_below(tmp_path) == there[0] and not list(tmp_path.rglob("*.tmp"))


def test_a_full_disk_ends_a_prediction_in_one_line_and_it_goes_on_later(
    pair_folders, tmp_path, full_disk, capsys, monkeypatch
):
    weights = trained_file(tmp_path / "weights.pth", "decoder", 32)
    flags = ["--checkpoint", str(weights), "--input", str(pair_folders[0]), "--device", "cpu"]
    there = full_disk("photo_3.png", 0, "write")
    assert predict.main([*flags, "--output", str(tmp_path / "out")]) == 2
    assert_one_line(capsys, "photo_3.png")
    assert there[0].items() <= files_below(tmp_path).items() and not list(tmp_path.rglob("*.tmp"))
    monkeypatch.undo()
    assert predict.main([*flags, "--output", str(tmp_path / "out")]) == 0
    assert len(list((tmp_path / "out" / "masks").iterdir())) == 6


def test_a_full_disk_leaves_no_merged_file(tmp_path, full_disk, capsys):
    weights = trained_file(tmp_path / "weights.pth", "decoder", 32)
    there = full_disk("sam.pth", 0, "write")
    assert merge.main(["--checkpoint", str(weights), "--output", str(tmp_path / "sam.pth")]) == 2
    assert_one_line(capsys, "sam.pth")
    assert files_below(tmp_path) == there[0] and not list(tmp_path.rglob("*.tmp"))


def test_a_demo_that_finds_no_room_leaves_no_part(tmp_path, monkeypatch):
    written, real = [], Image.Image.save

    def save(self, path, *arguments, **options):
        written.append(path)
        if len(written) == 5:
            raise OSError(28, "No space left on device")
        real(self, path, *arguments, **options)

    monkeypatch.setattr(Image.Image, "save", save)
    with pytest.raises(UserError, match="the demo cannot be written there: No space left on device"):
        prepare_demo(tmp_path, "camouflage", counts={"train": 3, "test": 1})
    assert not list(tmp_path.iterdir())


@pytest.fixture
def small_disk(tmp_path):
    """A file system of its own: small_disk(kilobytes) makes it, or changes its size; only root may."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(options):
        remount = "remount," if folder.is_mount() else ""
        command = ["mount", "-t", "tmpfs", "-o", remount + options, "tmpfs", str(folder)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"mounting is not permitted here: {done.stderr.strip()}")
        return folder

    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("only root may mount a small disk")
    yield mount
    if folder.is_mount():
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.mark.slow
def test_a_real_disk_that_is_full_at_any_point_of_a_run(pair_folders, small_disk, capsys, whole):
    images, masks = map(str, pair_folders)
    flags = ["--train_image_dir", images, "--train_mask_dir", masks, *FLAGS, "--num_workers", "1"]
    disk = small_disk("size=64m")
    assert run_decoder.main([*flags, "--output_dir", str(disk / "out")]) == 0
    needed = sum(len(content) for content in files_below(disk).values()) // 1024 + 1000
    failed = 0
    for kibibytes in range(100, needed, needed // 20):
        shutil.rmtree(disk / "out")
        small_disk(f"size={kibibytes}k")
        capsys.readouterr()
        code = run_decoder.main([*flags, "--output_dir", str(disk / "out")])
        assert not list(disk.rglob("*.tmp"))
        for file in disk.rglob("*.pth"):
            torch.load(file, weights_only=True)
        stderr = capsys.readouterr().err
        assert "Traceback" not in stderr and stderr.count("error: ") == (code == 2), stderr
        if code:
            assert code == 2 and "No space left on device" in stderr, stderr
            failed += 1
        small_disk("size=64m")
        if code:
            assert run_decoder.main([*flags, "--output_dir", str(disk / "out"), "--resume", "auto"]) == 0
            assert result_of(disk / "out") == whole
    assert failed >= 10


@pytest.mark.slow
def test_a_disk_that_cannot_be_written(pair_folders, small_disk, capsys):
    images, masks = map(str, pair_folders)
    disk = small_disk("size=64m")
    flags = ["--train_image_dir", images, "--train_mask_dir", masks, "--output_dir", str(disk / "out"), *FLAGS]
    weights = disk / "weights.pth"
    trained_file(weights, "decoder", 32)
    small_disk("ro")
    before = files_below(disk)
    scored = ["--checkpoint", str(weights), "--test_image_dir", images, "--test_mask_dir", masks, "--device", "cpu"]
    for main, arguments in (
        (run_decoder.main, flags),
        (evaluate.main, [*scored, "--output_dir", str(disk / "out")]),
        (predict.main, ["--checkpoint", str(weights), "--input", images, "--output", str(disk / "predicted")]),
        (merge.main, ["--checkpoint", str(weights), "--output", str(disk / "sam.pth")]),
    ):
        assert main(arguments) == 2
        stderr = capsys.readouterr().err
        assert "Traceback" not in stderr and stderr.count("error: ") == 1 and "Read-only file system" in stderr
    assert files_below(disk) == before
    small_disk("rw")
    assert run_decoder.main(flags) == 0
    small_disk("ro")  # what is there already can be read
    assert run_decoder.main([*flags, "--resume", "auto"]) == 2
    assert "Read-only file system" in capsys.readouterr().err


class OneSecond(datetime):
    """A clock that stands still."""

    @classmethod
    def now(cls, tz=None):
        return cls(2026, 5, 21, 17, 29, 10)


def test_runs_of_one_second_have_folders_of_their_own(tmp_path, monkeypatch):
    monkeypatch.setattr(cad.files, "datetime", OneSecond)
    with ThreadPoolExecutor(8) as pool:
        folders = list(pool.map(lambda _: start_run_folder(tmp_path).name, range(24)))
    assert sorted(folders) == sorted(["May21_172910", *[f"May21_172910_{number}" for number in range(2, 25)]])


RUN_IN_ONE_SECOND = """
import sys
from datetime import datetime
import cad.files, run_decoder
class OneSecond(datetime):
    @classmethod
    def now(cls, tz=None):
        return cls(2026, 5, 21, 17, 29, 10)
cad.files.datetime = OneSecond
print("ready", flush=True)
sys.stdin.readline()
sys.exit(run_decoder.main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_two_runs_that_start_together_share_embeddings_and_nothing_else(pair_folders, tmp_path, whole):
    images, masks = map(str, pair_folders)
    output = tmp_path / "out"
    flags = ["--train_image_dir", images, "--train_mask_dir", masks, "--output_dir", str(output), *FLAGS]
    environment = os.environ | {"PYTHONPATH": str(CODE), "OMP_NUM_THREADS": "1"}
    for repeat in range(3):
        shutil.rmtree(output, ignore_errors=True)
        pipes = {name: subprocess.PIPE for name in ("stdin", "stdout", "stderr")}
        command = [sys.executable, "-c", RUN_IN_ONE_SECOND, *flags, "--publish", "mine.pth"]
        both = [subprocess.Popen(command, env=environment, text=True, **pipes) for _ in range(2)]
        assert [process.stdout.readline() for process in both] == ["ready\n"] * 2
        for process in both:
            process.stdin.write("go\n")
            process.stdin.flush()
        for process in both:
            _, errors = process.communicate(timeout=120)
            assert process.returncode == 0, errors
        names = {"May21_172910", "May21_172910_2"}
        assert {file.parent.name for file in output.glob("runs/*/summary.json")} == names
        for name in names:
            assert result_of(output, name) == whole, repeat
        published = (output / "checkpoints" / "mine.pth").read_bytes()
        assert published in [(output / "checkpoints" / f"{name}.pth").read_bytes() for name in names]


# (module, function, what it calls) of each write that does not go through `write_atomically`, with the reason.
ALLOWED = {
    ("cad/datasets/coco.py", "encode_mask", "save"): "into memory",
    ("cad/datasets/demo.py", "_draw_all", "save"): "into a folder that is renamed when it is whole",
    ("cad/datasets/demo.py", "_prepare_demo", "write_text"): "into that folder",
    ("cad/datasets/demo.py", "_prepare_demo", "rename"): "of that folder",
    ("cad/distributed.py", "process_group", "open"): "the null device",
    ("cad/reports/page.py", "data_uri", "save"): "into memory",
    ("cad/files.py", "write_atomically", "open"): "the way itself",
    ("cad/encoders/download.py", "_fetch", "open"): "a part, until its hash is right",
    ("cad/encoders/download.py", "_fetch", "rename"): "of that part",
    ("cad/training/logger.py", "open_log", "open"): "appended to, line by line",
    ("cad/training/unfinished.py", "unfinished_runs", "open"): "to lock it, which NFS allows only so",
}
WRITERS = {"write_text", "write_bytes", "savefig", "imwrite", "imsave", "savez", "to_csv", "dump", "copyfile", "copy2"}
WRITERS |= {"copytree", "move", "rename", "tofile", "save_image", "urlretrieve", "NamedTemporaryFile", "extractall"}


def called(call):
    """The last name of what is called: "save" of `image.save(path)`."""
    return call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")


def writes(call):
    """Whether a call opens, copies or saves a file to write it; what is written into memory is not told apart."""
    if called(call) == "open":
        at = 0 if isinstance(call.func, ast.Attribute) else 1
        modes = [*call.args[at : at + 1], *[option.value for option in call.keywords if option.arg == "mode"]]
        return any(isinstance(mode, ast.Constant) and set(str(mode.value)) & set("wax+") for mode in modes)
    return called(call) in WRITERS or (called(call) == "save" and bool(call.args))


def calls_that_write(source):
    """(function, name) of each call that writes and is not part of what is handed to `write_atomically`."""
    tree = ast.parse(source)
    atomic = [call for call in ast.walk(tree) if isinstance(call, ast.Call) and called(call) == "write_atomically"]
    inside = {node for call in atomic for node in ast.walk(call)}
    handed_on = {argument.id for call in atomic for argument in call.args if isinstance(argument, ast.Name)}

    def visit(node, function):
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.FunctionDef):
                if child.name not in handed_on:
                    yield from visit(child, child.name)
                continue
            if isinstance(child, ast.Call) and child not in inside and writes(child):
                yield function, called(child)
            yield from visit(child, function)

    return list(visit(tree, ""))


def test_a_write_that_is_not_atomic_is_found():
    assert calls_that_write("def f(p):\n  p.open('w')\n  open(p, mode='ab')\n  torch.save(1, p)\n  p.open()") == [
        *[("f", "open")] * 2,
        ("f", "save"),
    ]
    assert calls_that_write("write_atomically(p, lambda file: torch.save(1, file))") == []


def test_every_file_is_written_atomically_but_for_known_exceptions():
    found = {
        (module.relative_to(CODE).as_posix(), function, name)
        for module in CODE.rglob("*.py")
        for function, name in calls_that_write(module.read_text())
    }
    assert found == set(ALLOWED)
