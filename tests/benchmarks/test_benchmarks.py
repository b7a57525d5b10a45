"""Each benchmark runs at its smallest and ends with a line of JSON. What it measures is not tested."""

import json
import subprocess
import sys

import pytest

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
