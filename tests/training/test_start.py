"""`--dist True`: the command becomes torchrun with a process for each GPU."""

import os
import subprocess
import sys

import pytest
import torch
from conftest import write_pairs
from training_runs import TINY, log_of

from cad.options import PROJECT_ROOT
from cad.training.options import training_parser
from cad.training.start import start_a_process_per_gpu


@pytest.fixture
def become(monkeypatch):
    """With so many GPUs: what the process would become for a command line, or None where it goes on."""

    def command_for(gpus, *command_line):
        started = []
        monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
        monkeypatch.setattr(os, "execv", lambda program, command: started.append(command))
        monkeypatch.setattr(sys, "argv", list(command_line))
        start_a_process_per_gpu(training_parser("run_cad.py", "").parse_args(command_line[1:]))
        return started[0] if started else None

    return command_for


def test_torchrun_is_given_the_gpus_the_port_and_the_same_command(become):
    command = ["code/run_cad.py", "--dist", "True", "--port", "29777", "--demo", "shadow"]
    torchrun = ["-m", "torch.distributed.run", "--nproc_per_node", "4", "--master_port", "29777"]
    assert become(4, *command) == [sys.executable, *torchrun, *command]


@pytest.mark.parametrize(("gpus", "device"), [(0, "auto"), (1, "cuda"), (4, "cpu"), (4, "cuda:1")])
def test_without_two_gpus_to_share_one_process_trains_and_says_so(become, capsys, gpus, device):
    assert become(gpus, "code/run_cad.py", "--dist", "True", "--device", device) is None
    assert "training in one process" in capsys.readouterr().out


def test_a_process_that_torchrun_started_starts_no_others(become, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert become(4, "code/run_cad.py", "--dist", "True") is None


@pytest.mark.slow
def test_the_command_that_it_becomes_trains(become, tmp_path):
    images, masks = write_pairs(tmp_path / "data", count=6)
    script = str(PROJECT_ROOT / "code" / "run_decoder.py")
    flags = [
        "--train_image_dir",
        str(images),
        "--train_mask_dir",
        str(masks),
        *TINY,
        "--epoch",
        "1",
        "--batch_size",
        "2",
    ]
    command = become(2, script, *flags, "--dist", "True", "--port", "29778", "--output_dir", str(tmp_path / "out"))
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert [record["epoch"] for record in log_of(tmp_path / "out")] == [1]
