"""A trial as HTML: overlay, mask and probability, with the facts beside them."""

import html

import cv2
import numpy as np
from PIL import Image

from cad.app.trial import Trial
from cad.prediction.overlay import draw_overlay
from cad.reports.page import data_uri

SHOWN_SIDE = 1024  # pixels; what is downloaded is the mask at its own size


def draw_panel(trial: Trial, mask: np.ndarray) -> str:
    """The pictures and facts of a trial.

    Args:
        mask: (H, W) bool.
    """
    height, width = trial.size
    pixels = mask.view(np.uint8) * np.uint8(255)
    overlay = draw_overlay(trial.picture, pixels)
    probabilities = np.round(trial.probabilities() * 255).astype(np.uint8)
    colours = cv2.cvtColor(cv2.applyColorMap(probabilities, cv2.COLORMAP_VIRIDIS), cv2.COLOR_BGR2RGB)
    name = html.escape(trial.model)
    shape = f"--shape: {width} / {height}"
    overlay_figure, *parts = (
        _figure(f"Overlay of {name}", "Overlay", overlay, trial.size, "JPEG", "overlay"),
        _figure(f"Mask of {name}", "Mask", pixels, trial.size, "PNG", "mask"),
        _figure(f"Probability by {name}", f"Probability {_SCALE}", colours, trial.size, "PNG", "probability"),
    )
    facts = {
        "Image": f"{width} × {height}",  # noqa: RUF001  (the sign that belongs between sizes)
        "Foreground": f"{100 * mask.mean():.2f} %",
        "Time": f"{trial.seconds:.2f} s",
        "Peak memory": trial.memory,
    }
    listed = "".join(f"<div><dt>{key}</dt><dd>{html.escape(value)}</dd></div>" for key, value in facts.items())
    return (
        f'<section class="trial" style="{shape}"><h2>{name}</h2><dl>{listed}</dl>'
        f'<div class="pictures">{overlay_figure}<div class="parts">{"".join(parts)}</div></div></section>'
    )


def draw_problem(message: str) -> str:
    """A message in the place of a trial."""
    return f'<p class="problem" role="alert">{html.escape(message)}</p>'


def draw_invitation() -> str:
    """What is seen before there is an image."""
    return '<p class="invitation">Overlay, mask and probability appear here once there is an image.</p>'


_SCALE = '<span class="scale" aria-hidden="true"><span>0</span><i></i><span>1</span></span>'


def _figure(
    description: str, caption: str, pixels: np.ndarray, size: tuple[int, int], kind: str, class_name: str
) -> str:
    """A picture within the page, in the proportions of the image (H, W) whatever its own."""
    height, width = size
    scale = min(1.0, SHOWN_SIDE / max(height, width))
    shown = max(1, round(width * scale)), max(1, round(height * scale))
    if pixels.shape[1::-1] != shown:
        shrinks = pixels.shape[1] > shown[0]
        pixels = cv2.resize(pixels, shown, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    options = {"quality": 92} if kind == "JPEG" else {"compress_level": 1}
    source = data_uri(Image.fromarray(pixels), kind, **options)
    picture = f'<img src="{source}" alt="{description}">'
    return f'<figure class="{class_name}">{picture}<figcaption>{caption}</figcaption></figure>'
