"""`import cad`: cheap, with five lines to a mask, and from anywhere once it is installed."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from predicted import write_weights

import cad
from cad import load
from cad.errors import UserError

ROOT = Path(__file__).parents[1]
NOT_FOR_PREDICTION = (
    "wandb",
    "matplotlib",
    "py_sod_metrics",
    "skimage",
    "onnxruntime",
    "cad.training",
    "cad.evaluation",
    "cad.metrics",
    "cad.reports",
)


def python(code, folder, cwd):
    """Run code in a new process that finds `cad` in a folder; its output."""
    environment = os.environ | {"PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, cwd=cwd)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_loading_imports_nothing_of_training_and_import_not_even_pytorch(tmp_path):
    write_weights(tmp_path / "w.pth")
    code = f"""
import sys, cad
print("torch" in sys.modules)
import numpy
mask = cad.load("w.pth", device="cpu").predict(numpy.zeros((40, 50, 3), numpy.uint8))
print(*mask.shape, [name for name in {NOT_FOR_PREDICTION} if name in sys.modules])
"""
    assert python(code, ROOT / "code", tmp_path) == ["False", "40", "50", "[]"]


def test_load_passes_its_settings_on(tmp_path):
    weights = write_weights(tmp_path / "w.pth")
    image = np.random.default_rng(0).integers(0, 256, (90, 130, 3), dtype=np.uint8)
    whole, tiled = (load(weights, device="cpu", threshold=0.3, tile=tile, flip_average=True) for tile in (None, 64))
    assert np.array_equal(whole.predict(image), whole.probabilities(image) > 0.3)
    assert tiled.settings.overlap == 8 and not np.array_equal(tiled.probabilities(image), whole.probabilities(image))
    with pytest.raises(UserError, match="overlap 64: expected 0 or more and less than the tile, 64"):
        load(weights, tile=64, overlap=64)
    with pytest.raises(UserError, match="none.pth: no such checkpoint file"):
        load(str(tmp_path / "none.pth"), device="cpu")


def test_the_folder_of_code_is_no_package():
    assert not (ROOT / "code" / "__init__.py").exists()


@pytest.mark.slow
def test_it_is_installed_whole(tmp_path):
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    for name in ("pyproject.toml", "requirements.txt", "README.md", "LICENSE", "code"):
        (source / name).symlink_to(ROOT / name)
    subprocess.run(["cp", "-rL", source, tmp_path / "copy"], check=True)  # building leaves files in its folder
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "--target", target, tmp_path / "copy"], check=True)
    found = {
        path.relative_to(target).as_posix() for path in target.rglob("cad/**/*") if path.suffix not in (".pyc", "")
    }
    there = {path.relative_to(ROOT / "code").as_posix() for path in (ROOT / "code" / "cad").rglob("*.*")}
    assert found == {name for name in there if not name.endswith(".pyc")}
    (metadata,) = target.glob("sam_cad-*.dist-info/METADATA")
    lines = metadata.read_text().splitlines()
    assert f"Version: {cad.__version__}" in lines and "Requires-Dist: torch<3,>=2.6" in lines
    write_weights(tmp_path / "w.pth")
    code = "from cad import load; import cad; print(cad.__file__); load('w.pth', device='cpu')"
    assert python(code, target, tmp_path)[0] == str(target / "cad" / "__init__.py")
