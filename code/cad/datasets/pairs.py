"""Image and mask files -> checked pairs, and how a file becomes an array.

Two folders, paired by file stem: `images/frog.jpg` goes with `masks/frog.png`.

What images are converted to: RGB, 8 bit. Grey is repeated, palettes are looked up, an alpha channel is dropped, 16-bit
values are reduced to 8 bits, CMYK and other colour spaces are converted, of an animation the first frame counts, and
EXIF orientation is applied. What masks are converted to: any non-zero pixel is foreground in a lossless file (in
colour: any channel but alpha); in a lossy one (JPEG, lossy WebP) grey values above 127, since compression leaves noise
around 0.
"""

import random
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageOps
from tqdm import tqdm

from cad.errors import MissingPathError, UserError, first_names

# What Pillow may take a file for, whatever its extension says: for others it starts programs, such as Ghostscript.
_FORMATS = ("JPEG", "PNG", "BMP", "TIFF", "WEBP", "GIF")
EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")


@dataclass(frozen=True)
class Pair:
    """One image file and its mask file; `name` is the stem they share."""

    name: str
    image: Path
    mask: Path


def list_images(folder: Path, what: str) -> dict[str, Path]:
    """Image files of a folder by stem, sorted; other files and hidden ones are ignored.

    Args:
        what: the flag the folder came from, for errors.

    Raises:
        MissingPathError: the folder does not exist.
        UserError: it is a file, it holds no image, or two files share a stem.
    """
    if not folder.exists():
        raise MissingPathError(f"{what} {folder}: no such folder")
    if not folder.is_dir():
        raise UserError(f"{what} {folder}: expected a folder of images, found a file")
    by_stem: dict[str, list[Path]] = defaultdict(list)
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in EXTENSIONS and not path.name.startswith("."):
            by_stem[path.stem].append(path)
    if not by_stem:
        raise UserError(f"{what} {folder}: no image files found; expected any of {' '.join(EXTENSIONS)}")
    twice = [f"{paths[0].name} and {paths[1].name}" for paths in by_stem.values() if len(paths) > 1]
    if twice:
        raise UserError(
            f"{what} {folder}: {len(twice)} names occur twice, so that pairs are not clear: {first_names(twice)}; "
            "keep one file of each name"
        )
    return {stem: paths[0] for stem, paths in by_stem.items()}


def find_pairs(
    image_dir: Path,
    mask_dir: Path,
    skip_unpaired: bool = False,
    flags: str = "train",
    say: Callable[[str], None] = print,
) -> list[Pair]:
    """Pair the images of one folder with the masks of another by file stem, in sorted order.

    Args:
        skip_unpaired: leave out files without a partner and say how many, instead of raising.
        flags: "train", "val" or "test": which flags the folders came from, for errors.

    Raises:
        MissingPathError, UserError: see `list_images`; or files without a partner; or no pair at all.
    """
    images = list_images(image_dir, f"--{flags}_image_dir")
    masks = list_images(mask_dir, f"--{flags}_mask_dir")
    lonely_images = [images[stem].name for stem in images if stem not in masks]
    lonely_masks = [masks[stem].name for stem in masks if stem not in images]
    pairs = [Pair(stem, images[stem], masks[stem]) for stem in images if stem in masks]
    if lonely_images or lonely_masks:
        problems = []
        if lonely_images:
            problems.append(f"{len(lonely_images)} images without a mask ({first_names(lonely_images)})")
        if lonely_masks:
            problems.append(f"{len(lonely_masks)} masks without an image ({first_names(lonely_masks)})")
        found = f"{image_dir} and {mask_dir}: {' and '.join(problems)}"
        if not pairs:
            raise UserError(
                f"{found}; no pair is left: an image and its mask must have the same name up to the extension"
            )
        if not skip_unpaired:
            raise UserError(f"{found}; add or remove these files, or pass --skip_unpaired to leave them out")
        say(f"{found}: left out, {len(pairs)} pairs remain")
    return pairs


def check_pairs(
    pairs: list[Pair],
    workers: int = 8,
    progress: bool = True,
    needs_foreground: bool = False,
    mask_threshold: int | None = None,
) -> None:
    """Decode every file of every pair completely and compare the sizes.

    A header says too little: a truncated PNG has a sound one.

    Args:
        needs_foreground: refuse pairs of which no mask has a foreground pixel: nothing can be learnt from them.
        mask_threshold: see `read_mask`.

    Raises:
        UserError: a file cannot be decoded, or an image and its mask differ in size; the first such files are named.
    """
    has_foreground = False
    problems = []
    with ThreadPoolExecutor(workers) as pool:
        checks = tqdm(
            pool.map(lambda pair: _check_pair(pair, mask_threshold), pairs),
            total=len(pairs),
            desc="checking files",
            disable=None if progress else True,
            leave=False,
        )
        for problem, foreground in checks:
            has_foreground |= foreground
            problems += [problem] if problem else []
    if problems:
        raise UserError(f"{len(problems)} of {len(pairs)} pairs cannot be used: {first_names(problems)}")
    if needs_foreground and not has_foreground:
        raise UserError(
            f"{pairs[0].mask.parent}: none of the {len(pairs)} masks has a foreground pixel; expected values "
            "above 0, in JPEG files above 127"
        )


def _check_pair(pair: Pair, mask_threshold: int | None) -> tuple[str | None, bool]:
    """(what is wrong with a pair or None, whether its mask has foreground)."""
    try:
        image, mask = read_image(pair.image), read_mask(pair.mask, mask_threshold)
    except UserError as error:
        return str(error), False
    problem = None
    if image.shape[:2] != mask.shape:
        problem = (
            f"{pair.image} is {image.shape[1]}x{image.shape[0]} pixels (width x height) and its mask {pair.mask} is "
            f"{mask.shape[1]}x{mask.shape[0]}: expected the same size"
        )
    return problem, bool(mask.any())


def split_pairs(pairs: list[Pair], fraction: float, seed: int) -> tuple[list[Pair], list[Pair]]:
    """Split off a seeded random share for validation: (training pairs, validation pairs), both in the given order.

    With a fraction above 0 and at least two pairs, each side gets at least one; a single pair is for training.
    """
    count = 0
    if fraction > 0 and len(pairs) > 1:
        count = min(max(round(len(pairs) * fraction), 1), len(pairs) - 1)
    chosen = set(random.Random(seed).sample(range(len(pairs)), count))
    validation = [pair for index, pair in enumerate(pairs) if index in chosen]
    return [pair for index, pair in enumerate(pairs) if index not in chosen], validation


def read_image(path: Path) -> np.ndarray:
    """Read an image file as RGB (H, W, 3) uint8.

    Raises:
        UserError: the file is unreadable or truncated, or its pixels have 32 bits.
    """
    image = _decode(path)
    if image.mode.startswith("I;16") or (image.mode == "I" and image.info["format"] == "PNG"):
        grey = np.asarray(image, dtype=np.int64) // 257
        return np.repeat(grey.astype(np.uint8)[:, :, None], 3, axis=2)
    if image.mode in ("I", "F"):
        raise UserError(f"{path}: 32-bit or floating-point pixels; expected 8 or 16 bits a channel; convert the file")
    return np.asarray(image.convert("RGB"))


def read_mask(path: Path, threshold: int | None = None) -> np.ndarray:
    """Read a mask file as (H, W) uint8, 1 for foreground and 0 for background.

    Args:
        threshold: the smallest grey value, in 0..255, that is foreground, in every file (published protocols: 128);
            None: any non-zero pixel of a lossless file, values above 127 of a lossy one.

    Raises:
        UserError: the file is unreadable or truncated, or no pixel of a lossless file reaches the threshold though some
            are not zero, as in a mask of 0 and 1.
    """
    image = _decode(path)
    if threshold is not None:
        return _at_least(image, threshold, path)
    foreground: np.ndarray
    if image.info["lossy"]:
        foreground = np.asarray(image.convert("L")) > 127
    elif image.info["deep colour"]:
        # Pillow keeps the high byte of each channel, in which small labels are 0.
        values = cv2.imread(str(path), cv2.IMREAD_UNCHANGED | cv2.IMREAD_IGNORE_ORIENTATION)
        if values is None:
            raise UserError(f"{path}: 16-bit colour that cannot be read; convert the mask to 8-bit grey")
        foreground = np.asarray(values[:, :, :3]).any(axis=2)  # type: ignore[assignment]
    elif image.mode in ("1", "L", "RGB", "I", "F") or image.mode.startswith("I;16"):
        foreground = np.atleast_3d(np.asarray(image)).any(axis=2)  # type: ignore[assignment]
    else:
        # A palette index or an alpha value says nothing about foreground: the colour does.
        foreground = np.asarray(image.convert("RGB")).any(axis=2)  # type: ignore[assignment]
    return foreground.astype(np.uint8)


def _at_least(image: Image.Image, threshold: int, path: Path) -> np.ndarray:
    """(H, W) uint8, 1 where the grey value is at least the threshold; 16-bit values are divided by 257."""
    if image.mode.startswith("I"):
        grey = np.clip(np.asarray(image, dtype=np.int64), 0, 65535) / 257
    elif image.mode == "F":
        grey = np.asarray(image)
    else:
        opaque = image if image.mode in ("1", "L", "RGB") else image.convert("RGB")
        grey = np.asarray(opaque.convert("L"))
    foreground = grey >= threshold
    if not foreground.any() and grey.any() and not image.info["lossy"]:
        raise UserError(
            f"{path}: no pixel is as bright as {threshold}, but some are not black (up to {grey.max():g}); "
            "use --mask_threshold nonzero"
        )
    return foreground.astype(np.uint8)


def _decode(path: Path) -> Image.Image:
    """Open and fully decode a file, upright as its EXIF data say.

    What its header tells about the pixels is left in `info`: "format", "lossy" and "deep colour".
    """
    try:
        with Image.open(path, formats=_FORMATS) as image:
            image.load()
            header = {
                "format": image.format,
                "lossy": _is_lossy(image, path),
                "deep colour": _is_deep_colour(image, path),
            }
            upright = ImageOps.exif_transpose(image)
            upright.info.update(header)
            return upright
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"{path}: unreadable or truncated image file ({error}); replace or remove it") from error


def _is_lossy(image: Image.Image, path: Path) -> bool:
    """Whether the file's compression changes pixel values."""
    if image.format == "WEBP":
        return not _webp_is_lossless(path.read_bytes())
    if image.format == "TIFF":
        return "jpeg" in str(image.info.get("compression", ""))
    return image.format in ("JPEG", "MPO")


def _webp_is_lossless(content: bytes) -> bool:
    """Whether a WebP's pixels are in a VP8L chunk: chunks of 4 letters, a length, and as many bytes, padded to even."""
    position = 12
    while position + 8 <= len(content):
        if content[position : position + 4] == b"VP8L":
            return True
        length = int.from_bytes(content[position + 4 : position + 8], "little")
        position += 8 + length + length % 2
    return False


def _is_deep_colour(image: Image.Image, path: Path) -> bool:
    """Whether the file has 16 bits in each of several channels, of which Pillow keeps 8."""
    if image.mode not in ("RGB", "RGBA"):
        return False
    if image.format == "PNG":
        with path.open("rb") as file:
            return file.read(25)[24] == 16  # the bit depth, in the header chunk
    return image.format == "TIFF" and max(image.tag_v2.get(258, (8,))) == 16  # type: ignore[attr-defined]
