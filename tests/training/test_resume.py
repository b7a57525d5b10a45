"""A run that is cut off anywhere and resumed ends as if nothing had happened."""

import os
import random
import signal
import subprocess
import sys
import time

import pytest
import run_cad
import run_decoder
import run_sa
import torch
from conftest import write_pairs
from training_runs import result_of

import cad.files
from cad.options import PROJECT_ROOT
from cad.training.unfinished import unfinished_runs

SMALL = ["--model_type", "vit_demo", "--image_size", "32", "--batch_size", "2", "--epoch", "2", "--num_workers", "0"]
SMALL += ["--wandb", "disabled", "--device", "cpu"]
SCRIPTS = {"cad": run_cad, "sam_adapter": run_sa, "decoder": run_decoder}


HOLD_A_LOCK = """
import fcntl, sys, time
file = open(sys.argv[1], "a")
fcntl.lockf(file, fcntl.LOCK_EX)
print("locked", flush=True)
time.sleep(60)
"""


class Crash(BaseException):
    """The process is gone."""


@pytest.fixture
def flags(pair_folders, tmp_path):
    images, masks = map(str, pair_folders)
    return ["--train_image_dir", images, "--train_mask_dir", masks, "--output_dir", str(tmp_path / "out"), *SMALL]


def to(flags, output):
    """The flags with another output folder, which shares the embeddings."""
    at = flags.index("--output_dir") + 1
    return [*flags[:at], str(output), *flags[at + 1 :], "--cache_dir", str(output.parent / "embeddings")]


def crash_at_write(monkeypatch, number, before):
    """The process ends at the `number`th file that is written, before it is in place or right after.

    Embeddings are not counted.
    """
    seen, put = [], cad.files.Path.replace

    def replace(self, target):
        if "embedding" in self.name:
            return put(self, target)
        seen.append(target)
        if len(seen) == number and before:
            raise Crash
        put(self, target)
        if len(seen) == number:
            raise Crash
        return target

    monkeypatch.setattr(cad.files.Path, "replace", replace)


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize(
    ("method", "fraction", "numbers"),
    [
        ("decoder", "0", [3, 7]),
        pytest.param("cad", "0.2", range(2, 11), marks=pytest.mark.slow),
        pytest.param("sam_adapter", "0.2", range(2, 11), marks=pytest.mark.slow),
    ],
)
def test_a_crash_at_any_write_changes_nothing(flags, tmp_path, method, fraction, numbers, before):
    # Saved after every step, so that the writes lie within epochs, at their ends, and around the best weights.
    flags = [*flags, "--val_fraction", fraction, "--save_every", "1e-9"]
    main = SCRIPTS[method].main
    assert main(to(flags, tmp_path / "whole")) == 0
    for number in numbers:
        output = tmp_path / f"cut_{number}"
        with pytest.MonkeyPatch.context() as patch:
            crash_at_write(patch, number, before)
            with pytest.raises(Crash):
                main(to(flags, output))
        assert main([*to(flags, output), "--resume", "auto"]) == 0
        assert result_of(output) == result_of(tmp_path / "whole")


@pytest.mark.parametrize(
    ("method", "more"),
    [
        *((method, []) for method in SCRIPTS),
        pytest.param(
            "cad",
            ["--adapter", "cad_hires", "--adapter_gate", "channel", "--loss", "structure"],
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_signal_stops_after_the_step_and_the_run_goes_on(flags, tmp_path, method, more, monkeypatch, capsys):
    main = SCRIPTS[method].main
    flags = [*flags, *more]
    assert main(to(flags, tmp_path / "whole")) == 0
    from cad.training import engine

    step = engine.train_step
    taken = []

    def signalled(*arguments):
        step(*arguments)
        taken.append(1)
        if len(taken) == 4:  # in the middle of the second epoch
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(engine, "train_step", signalled)
    assert main(to(flags, tmp_path / "cut")) == 143
    assert "stopped and saved: the same command with --resume auto, or --resume" in capsys.readouterr().err
    (run,) = unfinished_runs(tmp_path / "cut" / "runs")
    assert (run.method, run.epochs_done, run.epochs) == (method, 1, 2)
    assert main(["--resume", str(run.folder), "--wandb", "disabled"]) == 0  # no other flag is needed
    assert "in epoch 2, after 2 images of it" in capsys.readouterr().out
    assert result_of(tmp_path / "cut") == result_of(tmp_path / "whole")
    assert len(taken) == 6


def test_a_signal_in_validation_saves_too(flags, tmp_path, monkeypatch):
    assert run_decoder.main(to(flags, tmp_path / "whole")) == 0
    from cad.training import engine

    keep, calls = engine.Preview.keep, []

    def signalled(self, batch, logits):
        keep(self, batch, logits)
        calls.append(torch.is_grad_enabled())
        if calls.count(False) == 2:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine.Preview, "keep", signalled)
        assert run_decoder.main(to(flags, tmp_path / "cut")) == 130
    assert run_decoder.main([*to(flags, tmp_path / "cut"), "--resume", "auto"]) == 0
    assert result_of(tmp_path / "cut") == result_of(tmp_path / "whole")


@pytest.fixture
def cut_off(flags, tmp_path):
    """A run of the decoder that crashed after its first epoch; returns its flags."""
    with pytest.MonkeyPatch.context() as patch:
        crash_at_write(patch, 4, before=False)  # settings, state at the start, weights, state
        with pytest.raises(Crash):
            run_decoder.main(flags)
    return flags


def error_of(capsys, main, flags):
    assert main(flags) == 2
    lines = capsys.readouterr().err.splitlines()
    errors = [line for line in lines if line.startswith("error: ")]
    assert len(errors) == 1
    return errors[0]


def test_flags_that_change_the_numbers_are_refused_and_others_followed(cut_off, tmp_path, capsys):
    for flag, value, saved in ("--lr", "0.5", "0.002"), ("--epoch", "9", "2"), ("--seed", "1", "21"):
        error = error_of(capsys, run_decoder.main, [*cut_off, flag, value, "--resume", "auto"])
        assert f"{flag} {value}: the run" in error and f"has {saved}, and its numbers depend on it" in error
    assert run_decoder.main([*cut_off, "--num_workers", "1", "--save_every", "3", "--resume", "auto"]) == 0
    out = capsys.readouterr().out
    assert "--num_workers 1: the run" in out and "has 0; followed" in out and "--save_every 3.0: the run" in out


def test_defaults_may_be_spelt_out(cut_off):
    assert run_decoder.main([*cut_off, "--adapter", "cad", "--adapter_gate", "fixed", "--resume", "auto"]) == 0


def test_data_that_moved_are_followed_and_paths_may_be_relative(cut_off, pair_folders, tmp_path, capsys, monkeypatch):
    (run,) = unfinished_runs(tmp_path / "out" / "runs")
    folder = pair_folders[0].parent.rename(tmp_path / "moved")
    moved = ["--train_image_dir", str(folder / "image"), "--train_mask_dir", str(folder / "mask")]
    monkeypatch.chdir(run.folder.parent)
    assert run_decoder.main(["--resume", run.folder.name, *moved]) == 0
    assert "--train_image_dir" in capsys.readouterr().out
    assert (run.folder / "summary.json").is_file()


def test_other_data_and_other_methods_are_refused(cut_off, pair_folders, tmp_path, capsys):
    (run,) = unfinished_runs(tmp_path / "out" / "runs")
    error = error_of(capsys, run_cad.main, ["--resume", str(run.folder)])
    assert "is a run of decoder, not of cad" in error
    write_pairs(pair_folders[0].parent, count=1, first=40)
    error = error_of(capsys, run_decoder.main, [*cut_off, "--resume", "auto"])
    assert "the images or masks are not those that the run was started with (6 then and 7 now)" in error


def test_what_cannot_be_resumed_is_one_line(cut_off, tmp_path, capsys):
    runs = tmp_path / "out" / "runs"
    (run,) = unfinished_runs(runs)
    for asked, expected in (
        (tmp_path, "expected the folder of an unfinished run, with a resume.pth"),
        (runs / "nowhere", "expected the folder of an unfinished run, with a resume.pth"),
    ):
        assert expected in error_of(capsys, run_decoder.main, ["--resume", str(asked)])
    whole = (run.folder / "resume.pth").read_bytes()
    (run.folder / "resume.pth").write_bytes(whole[: len(whole) // 2])
    assert "resume.pth: " in error_of(capsys, run_decoder.main, ["--resume", str(run.folder)])
    torch.save({"format": "something else"}, run.folder / "resume.pth")
    assert "expected the resume.pth of a training run" in error_of(
        capsys, run_decoder.main, ["--resume", str(run.folder)]
    )
    (run.folder / "resume.pth").write_bytes(whole)
    log = (run.folder / "log.jsonl").read_text()
    (run.folder / "log.jsonl").write_text("")
    error = error_of(capsys, run_decoder.main, ["--resume", str(run.folder)])
    assert "log.jsonl: holds 0 epochs, the saved state 1" in error
    (run.folder / "log.jsonl").write_text(log)
    (tmp_path / "out" / "checkpoints" / f"{run.folder.name}.pth").unlink()
    assert "it held the best weights so far" in error_of(capsys, run_decoder.main, ["--resume", str(run.folder)])


def test_a_finished_run_and_an_empty_folder_have_nothing_to_resume(flags, tmp_path, capsys):
    assert run_decoder.main([*flags, "--resume", "auto"]) == 0
    assert "--resume auto: nothing to resume, a new run starts" in capsys.readouterr().out
    (folder,) = [file.parent for file in (tmp_path / "out" / "runs").glob("*/summary.json")]
    assert "this run is finished" in error_of(capsys, run_decoder.main, ["--resume", str(folder)])


def test_an_unfinished_run_is_offered_and_a_new_one_starts_beside_it(cut_off, tmp_path, capsys):
    capsys.readouterr()
    assert run_decoder.main(cut_off) == 0
    out = capsys.readouterr().out
    assert "(decoder, 1 of 2 epochs); --resume auto goes on with it; now a new run starts" in out
    assert len(list((tmp_path / "out" / "runs").glob("*/log.jsonl"))) == 2


def test_a_run_under_way_is_neither_taken_by_auto_nor_by_its_path(cut_off, tmp_path, capsys):
    (run,) = unfinished_runs(tmp_path / "out" / "runs")
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            HOLD_A_LOCK,
            str(run.folder / "log.jsonl"),
        ],
        stdout=subprocess.PIPE,
    )
    try:
        assert holder.stdout.readline()
        assert unfinished_runs(tmp_path / "out" / "runs") == []
        error = error_of(capsys, run_decoder.main, ["--resume", str(run.folder), "--wandb", "disabled"])
        assert "this run is under way in another process" in error
    finally:
        holder.kill()
        holder.wait()
    assert unfinished_runs(tmp_path / "out" / "runs") == [run]


def start(flags, output):
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    script = PROJECT_ROOT / "code" / "run_cad.py"
    return subprocess.Popen(
        [sys.executable, str(script), *flags, "--output_dir", str(output)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=environment,
        start_new_session=True,
        text=True,
    )


def under_way(output):
    return any(output.glob("runs/*/resume.pth"))


@pytest.mark.slow
def test_a_process_killed_at_twenty_random_moments_ends_as_if_it_had_not_been(pair_folders, tmp_path):
    images, masks = map(str, pair_folders)
    flags = ["--train_image_dir", images, "--train_mask_dir", masks, *SMALL, "--num_workers", "1"]
    flags += ["--epoch", "80", "--save_every", "1e-9", "--cache_dir", str(tmp_path / "embeddings")]
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert start(flags, whole).wait() == 0
    moments = random.Random(0)
    kills = 0
    while kills < 20:
        process = start([*flags, "--resume", "auto"], cut)
        resumed_from = {file: file.stat().st_mtime_ns for file in cut.glob("runs/*/resume.pth")}
        while process.poll() is None:  # until it trains: its own first save is its sign of life
            now = {file: file.stat().st_mtime_ns for file in cut.glob("runs/*/resume.pth")}
            if now and now != resumed_from:
                break
            time.sleep(0.01)
        time.sleep(moments.uniform(0, 0.4))
        assert process.poll() is None, process.stderr.read()
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        process.stderr.close()
        kills += 1
        for file in (*cut.glob("runs/*/resume.pth"), *cut.glob("checkpoints/*.pth")):
            torch.load(file, weights_only=True)  # whole, at any moment
    assert start([*flags, "--resume", "auto"], cut).wait() == 0
    assert result_of(cut) == result_of(whole)


@pytest.mark.slow
@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_the_whole_group_saves_and_a_second_one_ends_at_once(pair_folders, tmp_path, number, times):
    images, masks = map(str, pair_folders)
    flags = ["--train_image_dir", images, "--train_mask_dir", masks, *SMALL, "--num_workers", "2", "--epoch", "400"]
    process = start(flags, tmp_path / "out")
    while not under_way(tmp_path / "out"):
        assert process.poll() is None
        time.sleep(0.05)
    time.sleep(1)
    for _ in range(times):
        os.killpg(process.pid, number)
    _, errors = process.communicate(timeout=60)
    if times == 1:
        assert process.returncode == 128 + number
        assert "stopped and saved" in errors and "Traceback" not in errors
    else:  # whichever of the two came first
        assert process.returncode in (128 + number, 130)
    (run,) = unfinished_runs(tmp_path / "out" / "runs")
    assert run.epochs == 400
    torch.load(run.folder / "resume.pth", weights_only=True)
