"""A self-contained HTML page: everything it needs is in it, and its policy forbids loading anything else."""

import base64
import hashlib
import io
from html import escape
from pathlib import Path

import numpy as np
from PIL import Image

from cad.files import write_atomically
from cad.reports.pictures import CLASS_COLOURS

ASSETS = Path(__file__).with_name("assets")
THUMBNAIL = 320  # pixels, the longest side


def text(value: object) -> str:
    """Anything from outside, safe between tags and inside quoted attributes."""
    return escape(str(value), quote=True)


def write_page(path: Path, title: str, body: str) -> None:
    """Write a page with the style and the script of `assets`.

    Raises:
        UserError: the file cannot be written.
    """
    style, script = ((ASSETS / name).read_text(encoding="utf-8") for name in ("report.css", "report.js"))
    policy = (
        f"default-src 'none'; img-src data:; style-src '{fingerprint(style)}'; script-src '{fingerprint(script)}'; "
        "base-uri 'none'; form-action 'none'"
    )
    page = f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta name="referrer" content="no-referrer">
<link rel="icon" href="data:,">
<title>{text(title)}</title>
<style>{style}</style>
</head>
<body>
<a class="skip" href="#content">Skip to content</a>
{body}
<script>{script}</script>
</body>
</html>
"""
    # A lone surrogate, as in a file name that is not UTF-8, must not cost the page.
    write_atomically(path, lambda file: file.write(page.encode(errors="replace")), durable=False)


def fingerprint(content: str) -> str:
    """What the policy knows a style or a script by."""
    return "sha256-" + base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()


def section(name: str, title: str, content: str) -> str:
    """A part of the page that links can point to."""
    return (
        f'<section id="{name}" aria-labelledby="{name}-title"><h2 id="{name}-title">{title}</h2>\n{content}</section>\n'
    )


def masthead(kind: str, title: str, warnings: list[str], links: dict[str, str] | None = None) -> str:
    """The top of a page: what it is about, what must be read first, and links to its sections."""
    anchors = "".join(f'<a href="#{name}">{words}</a>' for name, words in (links or {}).items())
    navigation = f'<nav aria-label="Sections">{anchors}</nav>' if anchors else ""
    return (
        f'<header><p class="kind">{text(kind)}</p><h1>{text(title)}</h1>{warning_boxes(warnings)}{navigation}</header>'
    )


def main(sections: list[str]) -> str:
    """The sections, where the link that skips to the content leads."""
    return f'<main id="content" tabindex="-1">\n{"".join(sections)}</main>'


def warning_boxes(warnings: list[str]) -> str:
    """What must be read first; safe text."""
    return "".join(f'<p class="warning" role="note">{text(warning)}</p>' for warning in warnings)


def definitions(rows: dict[str, str]) -> str:
    """Names and values."""
    return "<dl>" + "".join(f"<div><dt>{text(k)}</dt><dd>{text(v)}</dd></div>" for k, v in rows.items()) + "</dl>"


def scrollable(table: str, label: str) -> str:
    """A table that scrolls within itself where it is too wide; reachable by keyboard."""
    return f'<div class="scroll" role="region" aria-label="{text(label)}" tabindex="0">{table}</div>'


def data_uri(picture: Image.Image, kind: str, **options: object) -> str:
    """The picture as the source of an <img>."""
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def thumbnail_size(height: int, width: int) -> tuple[int, int]:
    """(width, height) of a thumbnail: at most `THUMBNAIL` on its longest side, never enlarged."""
    scale = min(1.0, THUMBNAIL / max(height, width))
    return max(1, round(width * scale)), max(1, round(height * scale))


def photo_uri(image: np.ndarray) -> str:
    """A photograph (H, W, 3) uint8 as JPEG."""
    small = Image.fromarray(image).resize(thumbnail_size(*image.shape[:2]), Image.Resampling.LANCZOS)
    return data_uri(small, "JPEG", quality=82, optimize=True)


def shrink_map(values: np.ndarray) -> np.ndarray:
    """A map (H, W) uint8 0..255 at the size of a thumbnail, averaged."""
    return np.asarray(Image.fromarray(values).resize(thumbnail_size(*values.shape), Image.Resampling.BOX))


def mask_uri(mask: np.ndarray) -> str:
    """A mask (H, W) bool as black and white PNG."""
    return data_uri(Image.fromarray(mask.astype(np.uint8) * 255).convert("1"), "PNG")


def outcomes_uri(classes: np.ndarray) -> str:
    """Outcomes (H, W) uint8 as PNG to lay over the photograph: the background darkens it, the rest is in colour."""
    picture = Image.fromarray(classes)
    picture.putpalette([channel for colour in CLASS_COLOURS for channel in colour])
    return data_uri(picture, "PNG", bits=2, transparency=bytes((160, 235, 255, 255)))
