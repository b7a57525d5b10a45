"""PyTorch, ONNX, the script and the Python interface give the same masks of real images."""

import export_onnx
import numpy as np
import predict
import pytest
import run_sa
from PIL import Image

import cad
from cad.options import PROJECT_ROOT

NUCLEI = PROJECT_ROOT / "docs" / "nuclei"


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """SAM-Adapter trained on nuclei for eight epochs: (its file, the file of its export)."""
    output = tmp_path_factory.mktemp("trained")
    flags = ["--train_image_dir", str(NUCLEI / "train" / "image"), "--train_mask_dir", str(NUCLEI / "train" / "mask")]
    flags += ["--model_type", "vit_demo", "--epoch", "8", "--lr", "3e-3", "--views", "1", "--num_workers", "0"]
    flags += ["--wandb", "disabled", "--device", "cpu", "--output_dir", str(output), "--publish", "mine.pth"]
    assert run_sa.main(flags) == 0
    pytest.importorskip("onnxruntime")
    trained, exported = output / "checkpoints" / "mine.pth", output / "mine.onnx"
    assert export_onnx.main(["--checkpoint", str(trained), "--output", str(exported)]) == 0
    return trained, exported


@pytest.mark.slow
@pytest.mark.parametrize("tiles", [{}, {"tile": 128, "overlap": 32}])
def test_all_ways_to_predict_agree_on_real_images(weights, tmp_path, tiles):
    files = sorted((NUCLEI / "test" / "image").iterdir())[:4]
    flags = [word for name, value in tiles.items() for word in (f"--{name}", str(value))]
    found = {}
    for checkpoint in weights:
        output = tmp_path / checkpoint.suffix[1:]
        given = ["--checkpoint", str(checkpoint), "--input", str(NUCLEI / "test" / "image"), "--output", str(output)]
        assert predict.main([*given, *flags, "--device", "cpu", "--batch_size", "1"]) == 0
        found[checkpoint.suffix] = [np.asarray(Image.open(output / "masks" / f"{file.stem}.png")) > 0 for file in files]
    model, exported = (cad.load(checkpoint, device="cpu", batch_size=1, **tiles) for checkpoint in weights)
    share = [mask.mean() for mask in found[".pth"]]
    assert min(share) > 0.02 and max(share) < 0.98  # something was learnt: the masks are not empty or full
    for file, script, of_export in zip(files, found[".pth"], found[".onnx"], strict=True):
        assert (model.predict(file) == script).all()
        assert (exported.predict(np.asarray(Image.open(file).convert("RGB"))) == of_export).all()
        assert (script == of_export).mean() > 0.999
        assert np.abs(model.probabilities(file) - exported.probabilities(file)).max() < 1e-3


@pytest.mark.slow
def test_a_tile_as_large_as_the_image_is_the_whole_image(weights):
    file = min((NUCLEI / "test" / "image").iterdir())
    whole, tiled = cad.load(weights[0], device="cpu"), cad.load(weights[0], device="cpu", tile=1024, overlap=64)
    assert (whole.probabilities(file) == tiled.probabilities(file)).all()
