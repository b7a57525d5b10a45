import base64
import io
import re

import numpy as np
from PIL import Image

from cad.app.panel import draw_panel, draw_problem
from cad.app.trial import Trial


def test_a_panel_shows_mask_and_facts_and_escapes_names():
    logits = np.full((8, 8), -9, np.float32)
    logits[:, 4:] = 9
    trial = Trial("<b>.pth", "photo.jpg", (30, 40), logits, np.full((30, 40, 3), 90, np.uint8), 0.126, "7 MiB")
    panel = draw_panel(trial, trial.mask(0.5))
    assert "<b>" not in panel and "&lt;b&gt;.pth" in panel
    for fact in ("40 × 30", "50.00 %", "0.13 s", "7 MiB"):  # noqa: RUF001
        assert f"<dd>{fact}</dd>" in panel
    pictures = [Image.open(io.BytesIO(base64.b64decode(data))) for data in re.findall(r";base64,([^\"]+)", panel)]
    overlay, mask, probability = map(np.asarray, pictures)
    assert np.array_equal(mask, trial.mask(0.5) * np.uint8(255))
    assert overlay[15, 35, 2] > 130 > overlay[15, 5, 2] and overlay.shape == (30, 40, 3)
    assert probability[15, 5].tolist() == [68, 1, 84] and probability[15, 35].tolist() == [253, 231, 37]


def test_a_large_mask_is_shown_smaller():
    trial = Trial("a", "b", (1500, 3000), np.ones((8, 8), np.float32), np.zeros((4, 8, 3), np.uint8), 1, "")
    (size,) = {
        Image.open(io.BytesIO(base64.b64decode(data))).size
        for data in re.findall(r";base64,([^\"]+)", draw_panel(trial, trial.mask(0.5)))
    }
    assert size == (1024, 512)


def test_a_problem_is_text():
    assert "&lt;script&gt;" in draw_problem("<script>.png: unreadable")
