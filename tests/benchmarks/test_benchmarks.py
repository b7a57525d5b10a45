"""Each benchmark runs at its smallest and ends with a line of JSON. What it measures is not tested."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import write_pairs

from cad.options import PROJECT_ROOT

SMALLEST = {
    "adapter_step": ["--image_size", "64", "--channels", "16", "--repeats", "1"],
    "attention": ["--windowed", "--repeats", "1"],
    "epoch": ["--model_type", "vit_demo", "--images", "2", "--batch_size", "2", "--repeats", "1"],
    "methods": ["--model_type", "vit_demo", "--repeats", "1"],
    "onnx_inference": ["--method", "decoder", "--repeats", "1"],
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALLEST)
def test_a_benchmark_runs_and_ends_with_json(name):
    command = [sys.executable, PROJECT_ROOT / "benchmarks" / f"{name}.py", *SMALLEST[name]]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["benchmark"] == name


@pytest.mark.slow
def test_accuracy_trains_scores_and_goes_on_where_it_stopped(tmp_path):
    train, test = write_pairs(tmp_path / "train", 6), write_pairs(tmp_path / "test", 3, first=10)
    flags = ["--test_image_dir", test[0], "--test_mask_dir", test[1], "--num_workers", "0", "--output_dir"]
    training = ["--train_image_dir", train[0], "--train_mask_dir", train[1], "--model_type", "vit_demo"]
    training += ["--image_size", "32", "--seeds", "2", "--epochs", "1", "--methods", "decoder", "cad"]

    def benchmark(folder, *more):
        command = [sys.executable, PROJECT_ROOT / "benchmarks" / "accuracy.py", *flags, tmp_path / folder, *more]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        metrics = json.loads(done.stdout.splitlines()[-1])["metrics"]
        return json.loads(Path(metrics).read_text()), done.stdout

    first, printed = benchmark("out", *training)
    assert "decoder, seed 22" in printed and (tmp_path / "out" / "figure.png").stat().st_size > 10_000
    cad = first["configurations"]["cad"]
    assert cad["metrics"]["iou"]["value"] == pytest.approx(sum(cad["metrics"]["iou"]["of_seeds"]) / 2)
    assert cad["train_peak_mib"] > first["configurations"]["decoder"]["train_peak_mib"] > 0
    again, printed = benchmark("out", *training)
    assert again == first and "decoder, seed 22" not in printed
    files = {
        name: ",".join(str(path) for path in sorted((tmp_path / "out" / "runs").glob(f"{name}-*/checkpoints/*.pth")))
        for name in ("decoder", "cad")
    }
    given, _ = benchmark("given", "--from_weights", *(f"{name}={paths}" for name, paths in files.items()))
    assert given["configurations"]["cad"]["metrics"] == cad["metrics"]
    assert given["differences"] == first["differences"]
