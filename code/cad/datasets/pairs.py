"""Image and mask files -> checked pairs, and how a file becomes an array.

Two folders, paired by file stem: `images/frog.jpg` goes with `masks/frog.png`.

What images are converted to: RGB, 8 bit. Grey is repeated, palettes are looked up, an alpha channel is dropped, 16-bit
values are reduced to 8 bits, CMYK and other colour spaces are converted, and EXIF orientation is applied. What masks
are converted to: any non-zero pixel is foreground in a lossless file (in colour: any channel but alpha); in a lossy one
(JPEG, lossy WebP) grey values above 127, since compression leaves noise around 0.

Of an animation, or a file of several pages, the first one counts. A mask seldom has an EXIF orientation: it is taken to
be drawn on the upright image. A file's content decides how it is read, not its extension. Whatever is wrong with a file
is a `UserError` that names it.
"""

import random
import stat
import unicodedata
import warnings
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError
from tqdm import tqdm

from cad.errors import MissingPathError, UserError, first_names

EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
# Of all that Pillow reads: some of its other readers start programs, as that of PostScript does.
FORMATS = ("JPEG", "PNG", "BMP", "TIFF", "WEBP", "GIF")
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_KEPT_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "I", "F")

# Pillow's remarks on damaged metadata and on large images name no file. What matters of them is an error below.
for _category in (UserWarning, Image.DecompressionBombWarning):
    warnings.filterwarnings("ignore", category=_category, module=r"PIL\.")


@dataclass(frozen=True)
class Pair:
    """One image file and its mask file; `name` is the stem they share."""

    name: str
    image: Path
    mask: Path


def stem_of(path: Path) -> str:
    """What pairs a file: its name up to the extension, in composed Unicode (NFC), since macOS stores it decomposed."""
    return unicodedata.normalize("NFC", path.stem)


def list_images(folder: Path, what: str) -> dict[str, Path]:
    """Image files of a folder by stem (see `stem_of`), sorted; other files and hidden ones are ignored.

    Args:
        what: the flag the folder came from, for errors.

    Raises:
        MissingPathError: the folder does not exist.
        UserError: it is a file or cannot be listed, it holds no image, two files share a stem, or a name cannot be
            printed.
    """
    try:
        if not folder.exists():
            raise MissingPathError(f"{what} {folder}: no such folder")
        if not folder.is_dir():
            raise UserError(f"{what} {folder}: expected a folder of images, found a file")
        paths = sorted(folder.iterdir())
    except UserError:
        raise
    except OSError as error:
        raise UserError(f"{what} {folder}: cannot be listed: {error.strerror or error}") from error
    by_stem: dict[str, list[Path]] = defaultdict(list)
    for path in paths:
        if path.suffix.lower() in EXTENSIONS and not path.name.startswith("."):
            by_stem[stem_of(path)].append(path)
    unprintable = [ascii(paths[0].name) for stem, paths in by_stem.items() if not _is_printable(stem)]
    if unprintable:
        raise UserError(
            f"{what} {folder}: {len(unprintable)} names hold control characters or are not UTF-8: "
            f"{first_names(unprintable)}; rename these files"
        )
    if not by_stem:
        raise UserError(f"{what} {folder}: no image files found; expected any of {' '.join(EXTENSIONS)}")
    twice = [f"{paths[0].name} and {paths[1].name}" for paths in by_stem.values() if len(paths) > 1]
    if twice:
        raise UserError(
            f"{what} {folder}: {len(twice)} names occur twice, so that pairs are not clear: {first_names(twice)}; "
            "keep one file of each name"
        )
    return {stem: paths[0] for stem, paths in by_stem.items()}


def _is_printable(name: str) -> bool:
    """Whether a name is text on one line, as logs, tables and reports need it (Cc: control, Cs: not UTF-8)."""
    return not any(unicodedata.category(letter) in ("Cc", "Cs") for letter in name)


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
        _, mask = read_pair(pair, mask_threshold)
    except UserError as error:
        return str(error), False
    return None, bool(mask.any())


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


def read_pair(pair: Pair, mask_threshold: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """An image (H, W, 3) uint8 RGB and its mask (H, W) uint8, 0 or 1.

    Files may change after they were checked, so that every reading checks them.

    Args:
        mask_threshold: see `read_mask`.

    Raises:
        UserError: see `read_image` and `read_mask`; or the two differ in size.
    """
    image, mask = read_image(pair.image), read_mask(pair.mask, mask_threshold)
    if image.shape[:2] != mask.shape:
        turned = image.shape[:2] == mask.shape[::-1]
        raise UserError(
            f"{pair.image} is {image.shape[1]}x{image.shape[0]} pixels (width x height) and its mask {pair.mask} is "
            f"{mask.shape[1]}x{mask.shape[0]}: expected the same size"
            + "; EXIF orientation is applied here: if the mask was drawn without it, turn the mask likewise"
            * turned
        )
    return image, mask


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
            are not zero, as in a mask of 0 and 1; or a pixel is NaN or infinite.
    """
    image = _decode(path)
    if image.mode == "F" and not np.isfinite(np.asarray(image)).all():
        raise UserError(f"{path}: NaN or infinite pixels; expected numbers, 0 for background; convert the file")
    if threshold is not None:
        return _at_least(image, threshold, path)
    foreground: np.ndarray
    if image.info["lossy"]:
        foreground = np.asarray(image.convert("L")) > 127
    elif image.info["deep colour"]:
        # Pillow keeps the high byte of each channel, in which small labels are 0.
        foreground = _has_deep_colour(path, image.info["turn"])
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


def _has_deep_colour(path: Path, turn: Image.Transpose | None) -> np.ndarray:
    """Where a file of 16 bits a channel is not black, alpha apart: (H, W), upright by `turn`."""
    try:
        values = cv2.imread(str(path), cv2.IMREAD_UNCHANGED | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error:
        values = None
    if values is None:
        raise UserError(f"{path}: 16-bit colour that cannot be read; convert the mask to 8-bit grey")
    coloured = Image.fromarray(np.asarray(values[:, :, :3].any(axis=2), dtype=np.uint8))
    return np.asarray(coloured if turn is None else coloured.transpose(turn))


def _decode(path: Path) -> Image.Image:
    """Open and fully decode a file, upright as its EXIF data say, in a mode of `_KEPT_MODES` or 16-bit grey.

    What its header tells about the pixels is left in `info`: "format", "lossy", "deep colour" and how it was turned.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):  # opening a pipe would wait forever
            raise OSError("a folder or a device")
        if not status.st_size:
            raise OSError("0 bytes")
        with Image.open(path, formats=FORMATS) as image:
            image.load()
            turn = _UPRIGHT.get(image.getexif().get(ExifTags.Base.Orientation, 1))
            header = {
                "format": image.format,
                "lossy": _is_lossy(image, path),
                "deep colour": _is_deep_colour(image, path),
                "turn": turn,
            }
            upright: Image.Image = image if turn is None else image.transpose(turn)
            if upright.mode not in _KEPT_MODES and not upright.mode.startswith("I;16"):
                upright = upright.convert("RGB")
            upright.info.update(header)
            return upright
    except Image.DecompressionBombError as error:
        raise UserError(
            f"{path}: too large to be decoded safely ({error}); make it smaller: it is resized to --image_size anyway"
        ) from error
    except Exception as error:  # Pillow's readers raise almost any class on damaged files
        raise UserError(
            f"{path}: unreadable or truncated image file ({_reason(error)}); replace or remove it"
        ) from error


def _reason(error: Exception) -> str:
    """What went wrong with a file, on one line and without its path."""
    if isinstance(error, UnidentifiedImageError):
        return f"none of {', '.join(FORMATS)}, or its header is damaged"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).split()) or type(error).__name__


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
