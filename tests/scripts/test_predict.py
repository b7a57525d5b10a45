"""predict.py as its main function, and as a process that is interrupted or given an image of 100 megapixels."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import evaluate
import numpy as np
import predict
import pytest
from conftest import write_pairs
from PIL import Image
from predicted import contents, write_photographs, write_weights

SCRIPT = Path(predict.__file__)


@pytest.fixture
def weights(tmp_path):
    return str(write_weights(tmp_path / "w.pth"))


def test_masks_are_those_of_an_evaluation(weights, tmp_path):
    write_pairs(tmp_path / "test", count=5, size=(40, 32))
    images, masks = write_pairs(tmp_path / "test", count=4, size=(101, 77), first=5)
    output = ["--output_dir", str(tmp_path / "evaluated"), "--num_workers", "0", "--device", "cpu"]
    folders = ["--test_image_dir", str(images), "--test_mask_dir", str(masks), "--save_masks"]
    assert evaluate.main(["--checkpoint", weights, *folders, "--metric_size", "original", *output]) == 0
    flags = ["--input", str(images), "--output", str(tmp_path / "out"), "--probabilities", "--device", "cpu"]
    assert predict.main(["--checkpoint", weights, *flags]) == 0
    (evaluated,) = (tmp_path / "evaluated" / "runs").glob("*-eval")
    both = 0
    for kind in ("masks", "probabilities"):
        expected = sorted((evaluated / kind / "decoder").iterdir())
        assert len(expected) == 9
        for path in expected:
            found = np.asarray(Image.open(tmp_path / "out" / kind / path.name))
            assert np.array_equal(found, np.asarray(Image.open(path))), path.name
            both += found.min() == 0 and found.max() == 255
    assert both > 0  # masks with foreground and background


def test_exit_codes(weights, tmp_path, capsys):
    write_photographs(tmp_path / "in", 2, broken=(1,))
    flags = ["--checkpoint", weights, "--output", str(tmp_path / "out"), "--device", "cpu"]
    assert predict.main([*flags, "--input", str(tmp_path / "in")]) == 1
    assert "photo_001.png: unreadable or truncated" in capsys.readouterr().err
    assert predict.main([*flags, "--input", str(tmp_path / "in" / "photo_000.jpg")]) == 0
    assert predict.main([*flags, "--input", str(tmp_path / "none")]) == 2
    assert capsys.readouterr().err == f"error: --input {tmp_path / 'none'}: no such file or folder\n"


def run_script(*flags, **options):
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, str(SCRIPT), *map(str, flags)], env=environment, text=True, **options)


@pytest.mark.slow
def test_a_large_folder_killed_and_interrupted_ends_as_if_it_had_not_been(weights, tmp_path):
    write_photographs(tmp_path / "in", 200, broken=(17, 101, 198))

    def start(output):
        flags = ("--checkpoint", weights, "--input", tmp_path / "in", "--output", output, "--device", "cpu")
        more = ("--overlay", "--probabilities", "--coco", f"{output}.json")
        return run_script(*flags, *more, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    whole = start(tmp_path / "whole")
    said, complaints = whole.communicate(timeout=300)
    assert whole.returncode == 1 and "predicted 197 of 200 images" in said
    assert all(name in complaints for name in ("photo_017", "photo_101", "photo_198"))
    assert len(list((tmp_path / "whole" / "masks").rglob("*.png"))) == 197

    for number, wanted in (signal.SIGKILL, 20), (signal.SIGINT, 90):
        process = start(tmp_path / "out")
        while sum(1 for path in (tmp_path / "out").rglob("masks/**/photo*.png")) < wanted:
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(number)
        _, complaints = process.communicate(timeout=60)
        assert process.returncode == (130 if number == signal.SIGINT else -number)
    done = len(list((tmp_path / "out" / "masks").rglob("photo*.png")))
    assert f"{done} of 200 images are done; the same command goes on with the rest" in complaints and done < 197
    last = start(tmp_path / "out")
    said, _ = last.communicate(timeout=300)
    assert last.returncode == 1 and f"predicted {197 - done} of 200 images, {done} were there" in said
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    assert Path(f"{tmp_path / 'out'}.json").read_bytes() == Path(f"{tmp_path / 'whole'}.json").read_bytes()


MEASURED = """
import resource, subprocess, sys
code = subprocess.run([sys.executable, *sys.argv[1:]]).returncode
print(code, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["jpg", "png"])
@pytest.mark.parametrize("tile", [[], ["--tile", "1024", "--overlap", "128"]])
def test_100_megapixels_fit_into_4_gib(weights, tmp_path, suffix, tile):
    coarse = np.random.default_rng(0).integers(0, 256, (100, 100, 3), dtype=np.uint8)
    image = np.repeat(np.repeat(coarse, 100, axis=0), 100, axis=1)
    (tmp_path / "in").mkdir()
    Image.fromarray(image).save(
        tmp_path / "in" / f"large.{suffix}", **({"compress_level": 1} if suffix == "png" else {})
    )
    flags = ["--checkpoint", weights, "--input", tmp_path / "in", "--output", tmp_path / "out", "--device", "cpu"]
    more = ["--overlay", "--probabilities", "--coco", tmp_path / "r.json", *tile]
    command = [sys.executable, "-c", MEASURED, str(SCRIPT), *map(str, flags + more)]
    measured = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    code, peak = map(int, measured.stdout.splitlines()[-1].split())
    assert code == 0, measured.stderr
    unit = 1 if sys.platform == "darwin" else 1024
    assert peak * unit < 4 * 2**30
    with Image.open(tmp_path / "out" / "masks" / "large.png") as mask:
        assert mask.size == (10_000, 10_000)
    assert json.loads((tmp_path / "r.json").read_text())["images"][0]["width"] == 10_000
