"""run.sh, eval.sh and the search for a Python, as a user types them, on a copy of the project."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import run_sa
from conftest import write_pairs

from cad.options import PROJECT_ROOT


@pytest.fixture
def project(tmp_path):
    """A copy of what a user has after cloning, without weights and runs."""
    root = tmp_path / "a clone"
    root.mkdir()
    for name in ("run.sh", "eval.sh", "requirements.txt"):
        shutil.copy(PROJECT_ROOT / name, root / name)
    shutil.copytree(PROJECT_ROOT / "code", root / "code", ignore=shutil.ignore_patterns("__pycache__"))
    return root


def run(script, cwd, *arguments, **environment):
    """Run a script in `cwd` with this Python, and return (exit code, standard output, standard error)."""
    clean = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("TRAIN_", "TEST_", "CHECKPOINT", "METHODS"))
    }
    environment = {**clean, "PYTHON": sys.executable, "WANDB_MODE": "disabled", **environment}
    done = subprocess.run([script, *arguments], cwd=cwd, env=environment, capture_output=True, text=True, timeout=300)
    return done.returncode, done.stdout, done.stderr


def test_the_demo_trains_both_and_eval_scores_both_from_any_folder(project, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    quick = ["--image_size", "64", "--num_workers", "0"]
    code, out, err = run(project / "run.sh", elsewhere, *quick, EPOCH="1", DEMO="shadow")
    assert code == 0, err
    assert "No data set: running the built-in shadow demo" in out
    assert "cad: 54 training" in out and "sam_adapter: 54 training" in out
    table = out[out.index("means over validation images") :].splitlines()
    assert [line.split()[0] for line in table[3:5]] == ["cad", "sam_adapter"]
    names = {path.name for path in (project / "checkpoints").iterdir()}
    assert {"sam_cad.pth", "sam_sa.pth"} < names and len(names) == 4
    assert len(list((project / "runs").glob("*/log.jsonl"))) == 2
    assert not list(elsewhere.iterdir())

    code, out, err = run(project / "eval.sh", elsewhere, "--num_workers", "0")
    assert code == 0, err
    assert "20 test images, compared at 64 pixels" in out
    assert re.findall(r"^(cad|sam_adapter) ", out, re.MULTILINE) == ["cad", "sam_adapter"] * 2


@pytest.mark.slow
def test_own_folders_are_relative_to_the_user_and_a_missing_one_is_no_demo(project, tmp_path):
    write_pairs(tmp_path / "mine")
    settings = {
        "MODEL_TYPE": "vit_demo",
        "EPOCH": "1",
        "BATCH_SIZE": "2",
        "TRAIN_MASK_DIR": "mine/mask",
        "METHODS": "cad",
    }
    quick = ["--image_size", "32", "--num_workers", "0"]
    code, out, err = run(project / "run.sh", tmp_path, *quick, TRAIN_IMAGE_DIR="mine/images", **settings)
    assert code == 2
    assert err.splitlines()[-1] == "error: --train_image_dir mine/images: no such folder"
    assert "demo" not in out
    code, out, err = run(project / "run.sh", tmp_path, *quick, TRAIN_IMAGE_DIR="mine/image", **settings)
    assert code == 0, err
    assert "5 training and 1 validation" in out
    folders = {"TEST_IMAGE_DIR": "mine/image", "TEST_MASK_DIR": "mine/mask"}
    code, out, err = run(project / "eval.sh", tmp_path, "--num_workers", "0", METHODS="cad", **folders)
    assert code == 0, err
    assert "6 test images" in out


@pytest.mark.slow
def test_methods_choose_what_is_trained_and_scored(project, tmp_path):
    write_pairs(tmp_path / "mine")
    settings = {"MODEL_TYPE": "vit_demo", "METHODS": "cad decoder zero_shot"}
    of_cad = ["--adapter", "cad_hires", "--adapter_gate=scalar", "--no_high_frequency"]
    quick = ["--image_size", "32", "--num_workers", "0"]
    train = {"TRAIN_IMAGE_DIR": "mine/image", "TRAIN_MASK_DIR": "mine/mask", "EPOCH": "1", "BATCH_SIZE": "2"}
    code, out, err = run(project / "run.sh", tmp_path, *of_cad, *quick, **settings, **train)
    assert code == 0, err
    assert "zero_shot: SAM as it is, nothing to train" in out
    assert re.findall(r"^(\w+) .*sam_\w+.pth", out, re.MULTILINE) == ["cad_hires", "decoder"]
    assert {path.name for path in (project / "checkpoints").iterdir()} >= {"sam_cad.pth", "sam_decoder.pth"}
    test = {"TEST_IMAGE_DIR": "mine/image", "TEST_MASK_DIR": "mine/mask"}
    code, out, err = run(project / "eval.sh", tmp_path, "--num_workers", "0", **settings, **test)
    assert code == 0, err
    scored = re.findall(r"^(cad\w*|decoder|zero_shot) ", out, re.MULTILINE)
    assert scored == ["cad_hires", "decoder", "zero_shot"] * 2
    code, _, err = run(project / "run.sh", tmp_path, *of_cad, *quick, **settings | {"METHODS": "decoder"}, **train)
    assert code == 2 and "--adapter cad_hires: is of CAD's adapter" in err
    for script in ("run.sh", "eval.sh"):
        code, _, err = run(project / script, tmp_path, METHODS="cad sam")
        assert code == 2 and 'METHODS="cad sam": expected any of cad, sa, decoder and zero_shot, found sam' in err


def test_an_encoder_that_is_not_sams_is_refused_for_methods_that_need_sams(project):
    for flags, settings in (["--model_type", "efficientnet_lite0"], {}), ([], {"MODEL_TYPE": "efficientnet_lite0"}):
        code, _, err = run(project / "run.sh", project, *flags, **settings)
        assert code == 2 and err.startswith("error: sa and zero_shot need SAM's own encoder")


def test_only_a_checkpoint_set_is_no_demo(project):
    code, out, err = run(project / "run.sh", project, CHECKPOINT="sam.pth")
    assert code == 2 and "demo" not in out
    assert "error: --train_image_dir is not set" in err


def test_eval_before_training_says_what_is_missing(project):
    code, _, err = run(project / "eval.sh", project)
    assert code == 2
    assert "sam_cad.pth: no such checkpoint file" in err


def write_unfinished(project, name, method, age):
    folder = project / "runs" / name
    folder.mkdir(parents=True)
    (folder / "args.json").write_text(json.dumps({"settings": {"method": method, "epoch": 20}}))
    (folder / "log.jsonl").write_text('{"epoch": 1}\n' * 3)
    (folder / "resume.pth").touch()
    os.utime(folder / "resume.pth", (1e9 - age, 1e9 - age))


def test_an_unfinished_run_is_offered_before_anything_starts(project):
    refused = ["--epoch", "none"]  # ends the script as soon as training starts
    assert "Unfinished" not in run(project / "run.sh", project, *refused)[2]
    write_unfinished(project, "May20_120000", "cad", age=60)
    write_unfinished(project, "May21_172910", "sam_adapter", age=0)
    offer = "Unfinished: sam_adapter, 3 of 20 epochs (runs/May21_172910). To go on: "
    for methods, left in ("cad sa", "sa"), ("sa decoder", "sa decoder"), ("cad sa decoder zero_shot", None):
        code, _, err = run(project / "run.sh", project, *refused, METHODS=methods)
        assert code == 2
        assert f'{offer}METHODS="{left or "sa decoder zero_shot"}" ./run.sh --resume auto' == err.splitlines()[0]
    assert "Unfinished: cad, 3 of 20 epochs (runs/May20" in run(project / "run.sh", project, *refused, METHODS="cad")[2]
    assert "Unfinished" not in run(project / "run.sh", project, *refused, METHODS="decoder")[2]
    assert "Unfinished" not in run(project / "run.sh", project, *refused, "--resume", "auto")[2]
    assert "Unfinished" not in run(project / "run.sh", project, *refused, "--output_dir", str(project / "other"))[2]


def test_looking_for_unfinished_runs_takes_no_time(project):
    write_unfinished(project, "May21_172910", "cad", age=0)
    command = [sys.executable, "-X", "importtime", str(project / "code" / "unfinished.py"), "--methods", "cad"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert "Unfinished: cad" in done.stderr
    assert not re.search(r"\| +(torch|numpy|cad\.models)", done.stderr)


def cut_off(main, monkeypatch, project, *flags):
    """Train in the project, and end before the run is finished."""

    def gone(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("cad.training.run.finish", gone)
        fixed = ["--output_dir", str(project), "--image_size", "32", "--num_workers", "0", "--wandb", "disabled"]
        assert main([*fixed, "--epoch", "1", *flags]) == 130


@pytest.mark.slow
def test_a_run_goes_on_with_its_own_data_and_flags(project, tmp_path, monkeypatch):
    images, masks = map(str, write_pairs(tmp_path / "mine"))
    data = ["--train_image_dir", images, "--train_mask_dir", masks, "--model_type", "vit_demo"]
    cut_off(run_sa.main, monkeypatch, project, *data, "--batch_size", "2", "--seed", "3")
    code, out, err = run(project / "run.sh", tmp_path, "--resume", "auto", METHODS="sa", DIST="False", PORT="29512")
    assert code == 0, err
    assert "demo" not in out and "resumed" in out and "--port 29512: the run" in out
    assert "sam_sa.pth" in out and not list(project.glob("runs/*/resume.pth"))

    cut_off(run_sa.main, monkeypatch, project, *data, "--batch_size", "2")
    (folder,) = [file.parent for file in project.glob("runs/*/resume.pth")]
    code, _, err = run(project / "run.sh", tmp_path, "--resume", str(folder), METHODS="sa", BATCH_SIZE="3")
    assert code == 2 and "--batch_size 3: the run" in err
    code, out, err = run(project / "run.sh", tmp_path, "--resume", str(folder), METHODS="sa")
    assert code == 0 and "demo" not in out, err


@pytest.mark.slow
def test_behind_a_resumed_demo_the_next_method_starts_its_own(project, tmp_path, monkeypatch):
    cut_off(run_sa.main, monkeypatch, project, "--demo", "shadow")
    settings = {"METHODS": "sa decoder", "DEMO": "shadow", "EPOCH": "1"}
    quick = ["--image_size", "32", "--num_workers", "0"]
    code, out, err = run(project / "run.sh", tmp_path, *quick, "--resume", "auto", **settings)
    assert code == 0, err
    assert out.index("resumed") < out.index("No data set: running the built-in shadow demo")
    assert {file.name for file in (project / "checkpoints").iterdir()} >= {"sam_sa.pth", "sam_decoder.pth"}


def find_python(root, **environment):
    """Source environment.sh and return (exit code, the Python it finds, standard error)."""
    script = (
        f'. "{root}/code/environment.sh"; find_python "{root}" "{root}/requirements.txt"; c=$?; echo "$PYTHON"; exit $c'
    )
    clean = {name: value for name, value in os.environ.items() if name not in ("PYTHON", "VIRTUAL_ENV")}
    command = ["bash", "-c", script]
    done = subprocess.run(command, env={**clean, **environment}, capture_output=True, text=True, timeout=300)
    return done.returncode, done.stdout.strip(), done.stderr


FAKE_PYTHON = """#!/bin/sh
case "$*" in
    *check_requirements*) [ -e "{state}" ] ;;
    *"-m pip install"*) touch "{state}" ;;
    *"-m venv"*) for last; do :; done; mkdir -p "$last/bin"; cp "{path}" "$last/bin/python" ;;
esac
"""


def fake_python(path, has_everything):
    """A Python that passes the check of requirements only if it has everything or pip has been run."""
    path.parent.mkdir(parents=True, exist_ok=True)
    state = path.with_name("installed")
    if has_everything:
        state.touch()
    path.write_text(FAKE_PYTHON.format(path=path, state=state))
    path.chmod(0o755)
    return path


def test_python_override_wins_and_must_have_everything(project, tmp_path):
    good = fake_python(tmp_path / "good" / "python", has_everything=True)
    assert find_python(project, PYTHON=str(good))[:2] == (0, str(good))
    bad = fake_python(tmp_path / "bad" / "python", has_everything=False)
    code, _, err = find_python(project, PYTHON=str(bad))
    assert code == 2 and "lacks packages" in err
    code, _, err = find_python(project, PYTHON="/no/python")
    assert code == 2 and "PYTHON=/no/python: no such program" in err


def test_an_existing_venv_is_used_and_completed(project):
    venv = fake_python(project / ".venv" / "bin" / "python", has_everything=False)
    code, found, err = find_python(project)
    assert (code, Path(found)) == (0, venv)
    assert "set-up: installing" in err
    code, found, err = find_python(project)
    assert (code, Path(found), err) == (0, venv, "")


def test_the_active_python_is_used_if_it_has_everything(project, tmp_path):
    active = fake_python(tmp_path / "active" / "python", has_everything=True)
    code, found, err = find_python(project, PATH=f"{active.parent}:{os.environ['PATH']}")
    assert (code, found, err) == (0, "python", "")


def test_otherwise_a_venv_is_made_once_and_said(project, tmp_path):
    for name in ("python", "python3"):
        fake_python(tmp_path / "bare" / name, has_everything=False)
    code, found, err = find_python(project, PATH=f"{tmp_path / 'bare'}:/usr/bin:/bin")
    assert code == 0, err
    assert Path(found) == project / ".venv" / "bin" / "python"
    assert "set-up, once: making .venv" in err
