"""Fixtures that several rooms share: small folders of images and masks, and the --slow switch."""

import signal

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from PIL import Image

# A background job of a script ignores Ctrl-C, and would hand that on to the processes that tests start and interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser):
    parser.addoption("--slow", action="store_true", help="also run the tests marked slow")


def pytest_configure(config):
    config.addinivalue_line("markers", "slow: takes long; runs with --slow")
    # The same examples in every run: a test that fails by chance says nothing about the change at hand.
    steady = {"derandomize": True, "deadline": None, "suppress_health_check": list(HealthCheck)}
    settings.register_profile("quick", max_examples=40, **steady)
    settings.register_profile("thorough", max_examples=1500, **steady)
    settings.load_profile("thorough" if config.getoption("--slow") else "quick")


def pytest_collection_modifyitems(config, items):
    if not config.getoption("--slow"):
        skip = pytest.mark.skip(reason="slow: run ./test.sh --slow")
        for item in items:
            if "slow" in item.keywords:
                item.add_marker(skip)


def write_pairs(folder, count=6, size=(40, 32), suffix=".jpg", first=0):
    """Write `count` pairs below `folder`/image and /mask: bright discs on dark noise. Returns the two folders."""
    images, masks = folder / "image", folder / "mask"
    for directory in (images, masks):
        directory.mkdir(parents=True, exist_ok=True)
    width, height = size
    rows, columns = np.mgrid[:height, :width]
    for index in range(first, first + count):
        random = np.random.default_rng(index)
        centre = random.uniform(0.3, 0.7, size=2) * (height, width)
        disc = (rows - centre[0]) ** 2 + (columns - centre[1]) ** 2 < (0.25 * height) ** 2
        image = random.integers(0, 60, size=(height, width, 3)) + 150 * disc[:, :, None]
        Image.fromarray(image.astype(np.uint8)).save(images / f"photo_{index}{suffix}", quality=95)
        Image.fromarray(disc.astype(np.uint8) * 255).save(masks / f"photo_{index}.png")
    return images, masks


@pytest.fixture
def pair_folders(tmp_path):
    """Six pairs of 40x32 pixels: (image folder, mask folder)."""
    return write_pairs(tmp_path / "data")


@pytest.fixture(autouse=True)
def no_wandb_account(monkeypatch, tmp_path_factory):
    """Tests never reach Weights & Biases, whatever this machine is logged in to."""
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path_factory.getbasetemp() / "no-netrc"))
