"""What version 0.1 wrote loads, predicts the same and goes on: see earlier_version/README.md."""

import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import run_decoder
import torch

from cad.trained_weights import load_segmenter, read_weights

ARCHIVE = Path(__file__).parent / "earlier_version" / "version_0_1.tar.xz"
NAMES = ("vit_demo_cad", "vit_demo_sa", "vit_demo_decoder", "efficientnet_lite0_cad", "efficientnet_lite0_decoder")


@pytest.fixture(scope="module")
def earlier(tmp_path_factory):
    folder = tmp_path_factory.mktemp("earlier")
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(folder, filter="data")
    return folder


@pytest.mark.parametrize("name", NAMES)
def test_trained_files_predict_the_same(earlier, name):
    if name.startswith("efficientnet"):
        pytest.importorskip("efficientnet_lite_pytorch")
    segmenter, metadata = load_segmenter(earlier / "weights" / f"{name}.pth", earlier)
    images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits = segmenter(images)
    expected = json.loads((earlier / "expected_logits.json").read_text())[name]
    np.testing.assert_allclose(logits[:, 0, ::16, ::16].flatten(), expected["every_16th_pixel"], rtol=0, atol=2e-5)
    assert metadata["settings"]["seed"] == 7


def test_an_unfinished_run_ends_with_the_same_weights(earlier, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (run,) = (earlier / "output" / "runs").iterdir()
    data = ["--train_image_dir", str(earlier / "data" / "image"), "--train_mask_dir", str(earlier / "data" / "mask")]
    assert run_decoder.main(["--resume", str(run), *data]) == 0
    resumed = read_weights(earlier / "output" / "checkpoints" / f"{run.name}.pth")
    expected = read_weights(earlier / "weights" / "vit_demo_decoder.pth")
    assert resumed.state.keys() == expected.state.keys()
    for name, tensor in expected.state.items():
        if not name.endswith("k_proj.bias"):  # its gradient is rounding noise, which AdamW makes steps of
            torch.testing.assert_close(resumed.state[name], tensor, rtol=1e-4, atol=1e-5)
    found, wanted = ({k: v for k, v in each.metadata["metrics"].items() if k != "on"} for each in (resumed, expected))
    assert found == pytest.approx(wanted, rel=1e-4)
