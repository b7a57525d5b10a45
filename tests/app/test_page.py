"""The page: what its controls call, and the whole of it in a real browser, skipped where there is none."""

import shutil
import socket
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image
from predicted import write_photographs, write_weights

import cad
from cad.app.page import HOST, NOTHING, Page, check_port, import_gradio, launch
from cad.app.trial import Models, Trial
from cad.errors import UserError

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


def free_port():
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return probe.getsockname()[1]


def write_bad_images(folder):
    """A text, half a photograph, and 400 megapixels in few bytes: (path, what is said of it)."""
    text = folder / "text.png"
    text.write_text("not an image")
    (photograph,) = write_photographs(folder / "cut", 1)
    photograph.write_bytes(photograph.read_bytes()[:1500])
    bomb = folder / "bomb.png"
    chunks = (b"IHDR", struct.pack(">IIBBBBB", 20_000, 20_000, 8, 0, 0, 0, 0)), (b"IDAT", zlib.compress(bytes(20_001)))
    bomb.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + b"".join(
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
            for kind, data in (*chunks, (b"IEND", b""))
        )
    )
    return (text, "unreadable or truncated"), (photograph, "unreadable or truncated"), (bomb, "too large")


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    pytest.importorskip("gradio", reason="gradio is not installed: pip install gradio")
    folder = tmp_path_factory.mktemp("weights")
    paths = {name: write_weights(folder / name, seed=seed) for seed, name in ((3, "a.pth"), (4, "b.pth"))}
    return Models(paths, torch.device("cpu"))


def test_what_the_controls_call(models, tmp_path, monkeypatch):
    page = Page(models, False, tmp_path)
    (image,) = write_photographs(tmp_path / "in", 1)
    trials, panel, other, download, _, _, column = page.predict(str(image), "a.pth", NOTHING, 0.5, [])
    assert len(trials) == 1 and "a.pth" in panel and "b.pth" not in other and column["visible"] is False
    expected = cad.load(models.paths["a.pth"], device="cpu").predict(image)
    assert np.array_equal(np.asarray(Image.open(download["value"])), expected * np.uint8(255))
    both = page.predict(str(image), "a.pth", "b.pth", 0.5, trials)
    assert both[0][0] is trials[0] and "b.pth" in both[2] and both[6]["visible"] is True

    monkeypatch.setattr(models, "try_on", None)  # no model runs when the threshold moves
    moved = page.show(both[0], 0.8)
    expected = cad.load(models.paths["b.pth"], device="cpu", threshold=0.8).predict(image)
    assert np.array_equal(np.asarray(Image.open(moved[3]["value"])), expected * np.uint8(255))
    trials, panel, *_, column = page.predict(None, "a.pth", "b.pth", 0.5, both[0])
    assert trials == [] and "once there is an image" in panel and column["visible"] is False


def test_bad_uploads_are_messages(models, tmp_path):
    page = Page(models, True, tmp_path)
    for path, problem in write_bad_images(tmp_path):
        trials, panel, _, download, *_ = page.predict(str(path), "a.pth", "b.pth", 0.5, [])
        assert len(trials) == 1 and not isinstance(trials[0], Trial)
        assert f"{path.name}: {problem}" in panel and str(tmp_path) not in panel and download["visible"] is False


def test_a_taken_port_is_named():
    with socket.socket() as other:
        other.bind((HOST, 0))
        other.listen()
        with pytest.raises(UserError, match=f"--port {other.getsockname()[1]}: cannot be used"):
            check_port(other.getsockname()[1])


@pytest.fixture(scope="module")
def address(models, tmp_path_factory):
    folder = tmp_path_factory.mktemp("gradio")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(folder))
        import_gradio()
        page = Page(models, False, folder)
        port = free_port()
        launch(page.build(), port)
        yield f"http://{HOST}:{port}"
        page.blocks.close(verbose=False)


@pytest.fixture
def browser_page(address):
    """The page in Chromium; at the end, whatever it asked other machines for is an error."""
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install 'playwright<2'")
    if not CHROMIUM:
        pytest.skip("no Chromium here: apt-get install chromium")
    foreign, errors = [], []
    with api.sync_playwright() as playwright:
        flags = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=flags)
        page = browser.new_page(viewport={"width": 1280, "height": 800})
        page.on("request", lambda r: r.url.startswith((address, "data:", "blob:")) or foreign.append(r.url))
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(address)
        page.locator("#upload input[type=file]").wait_for(state="attached")
        yield page
        browser.close()
    assert foreign == [] and errors == []


def facts(page, number=0):
    values = page.locator(".trial").nth(number).locator("dd").all_text_contents()
    return dict(zip(("size", "foreground", "time", "memory"), values, strict=True))


def downloaded(page, number=0):
    with page.expect_download() as download:
        page.get_by_text("Download mask").nth(number).click()
    return download.value.suggested_filename, np.asarray(Image.open(download.value.path()))


@pytest.mark.slow
def test_an_image_its_threshold_and_its_mask(browser_page, models, tmp_path):
    (image,) = write_photographs(tmp_path, 1)
    page = browser_page
    page.locator("#upload input[type=file]").set_input_files(image)
    page.locator(".trial .mask img").wait_for()
    expected = cad.load(models.paths["a.pth"], device="cpu").predict(image)
    assert facts(page)["foreground"] == f"{100 * expected.mean():.2f} %"
    assert facts(page)["size"] == f"{expected.shape[1]} × {expected.shape[0]}"  # noqa: RUF001
    name, mask = downloaded(page)
    assert name == "photo_000_mask.png" and np.array_equal(mask, expected * np.uint8(255))

    seconds = facts(page)["time"]
    page.locator("#threshold input[type=number]").fill("0.8")
    page.locator("#threshold input[type=number]").press("Tab")
    higher = cad.load(models.paths["a.pth"], device="cpu", threshold=0.8).predict(image)
    page.get_by_text(f"{100 * higher.mean():.2f} %").wait_for()
    assert higher.sum() < expected.sum() and facts(page)["time"] == seconds
    page.wait_for_timeout(300)
    assert np.array_equal(downloaded(page)[1], higher * np.uint8(255))


@pytest.mark.slow
def test_two_models_side_by_side(browser_page, models, tmp_path):
    (image,) = write_photographs(tmp_path, 1)
    page = browser_page
    page.locator("#upload input[type=file]").set_input_files(image)
    page.locator(".trial").wait_for()
    page.locator("#second input").click()
    page.get_by_role("option", name="b.pth").click()
    page.locator(".trial").nth(1).wait_for()
    boxes = [page.locator(".trial").nth(number).bounding_box() for number in range(2)]
    assert boxes[0]["y"] == boxes[1]["y"] and boxes[0]["x"] + boxes[0]["width"] < boxes[1]["x"]
    for number, name in enumerate(models.paths):
        expected = cad.load(models.paths[name], device="cpu").predict(image)
        assert facts(page, number)["foreground"] == f"{100 * expected.mean():.2f} %"
        assert np.array_equal(downloaded(page, number)[1], expected * np.uint8(255))
    page.set_viewport_size({"width": 390, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


@pytest.mark.slow
def test_bad_uploads_in_the_browser(browser_page, tmp_path):
    page = browser_page
    for path, problem in write_bad_images(tmp_path):
        page.locator("#upload input[type=file]").set_input_files(path)
        page.get_by_role("alert").filter(has_text=f"{path.name}: {problem}").wait_for()
        assert "Traceback" not in page.content() and page.locator(".trial").count() == 0
        page.locator("#upload button[aria-label*=lear]").first.click()
        page.locator(".invitation").wait_for()
