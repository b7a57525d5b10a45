"""COCO instance annotations -> one mask an image: the union of its instances, as PNG files of 0 and 255.

Polygons and uncompressed RLE are drawn here; compressed RLE needs pycocotools. A pixel belongs to a polygon if its
centre does, by the even-odd rule, as in pycocotools, which rounds corners to a fifth of a pixel first: the two differ
by at most a pixel along an outline. Several polygons of one instance are united. Crowds count as instances.
"""

import io
import json
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from cad.datasets.placing import Placement, check_folders, check_targets, make_folder, place, refuse_in_the_way
from cad.errors import MissingPathError, UserError, first_names
from cad.files import write_atomically


@dataclass(frozen=True)
class AnnotatedImage:
    """One image of an annotation file: the name it is stored under, its size, and its instances' segmentations."""

    file_name: str
    height: int
    width: int
    segmentations: tuple[Any, ...]

    @property
    def mask_name(self) -> str:
        return f"{Path(self.file_name).stem}.png"


def prepare_coco(
    from_dir: Path,
    to_dir: Path,
    annotations: Path,
    split: str = "train",
    categories: list[str] | None = None,
    copy: bool = False,
    say: Callable[[str], None] = print,
) -> None:
    """Write `to_dir`/`split`/{image,mask}: links to (or copies of) the images, and a mask for each.

    Args:
        from_dir: the folder of images that the annotation file names.
        categories: names of the categories whose instances count; all of them by default. Without any, a mask is empty.

    Raises:
        MissingPathError, UserError: a path or the annotation file is wrong, or a file is in the way. Nothing has been
            written then, unless writing itself failed.
    """
    check_folders(from_dir, to_dir)
    annotated = read_annotations(annotations, categories)
    placements, masks, lost = [], [], []
    for image in annotated:
        source = next((path for path in _possible_files(from_dir, image.file_name) if path.is_file()), None)
        if source is None:
            lost.append(image.file_name)
            continue
        placements.append(Placement(source, to_dir / split / "image" / source.name))
        masks.append((to_dir / split / "mask" / image.mask_name, image))
    if not placements:
        raise UserError(f"--from_dir {from_dir}: none of the images of {annotations} is there: {first_names(lost)}")
    _check_stems(placements)
    for _, image in masks:
        check_segmentations(image)
    check_targets(placements, copy)
    refuse_in_the_way([str(target) for target, image in masks if not _is_free(target, image)])
    verb = place(placements, copy, say)
    make_folder(to_dir / split / "mask")
    for target, image in tqdm(masks, desc="drawing masks", disable=None, leave=False):
        if not target.exists():
            _write_mask(target, image)
    say(f"{split}: {len(masks)} images {verb} into {to_dir / split}, their masks drawn from {annotations.name}")
    empty = sum(not image.segmentations for _, image in masks)
    if empty:
        say(f"{split}: {empty} of the masks are empty, without an instance{' of these categories' * bool(categories)}")
    if lost:
        say(f"warning: {split}: left out {len(lost)} images that are not in {from_dir} ({first_names(lost)})")


def read_annotations(file: Path, categories: list[str] | None = None) -> list[AnnotatedImage]:
    """Read an instance annotation file: its images in its order, with their instances.

    Raises:
        MissingPathError, UserError: there is no such file, it is no such file, or it lacks a category.
    """
    if not file.is_file():
        raise MissingPathError(f"--annotations {file}: no such file")
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        wanted = _category_ids(content.get("categories", []), categories)
        segmentations = defaultdict(list)
        for annotation in content["annotations"]:
            if wanted is None or annotation["category_id"] in wanted:
                segmentations[annotation["image_id"]].append(annotation["segmentation"])
        return [
            AnnotatedImage(
                str(one["file_name"]), int(one["height"]), int(one["width"]), tuple(segmentations[one["id"]])
            )
            for one in content["images"]
        ]
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UserError(f"--annotations {file}: cannot be read as JSON: {error}") from error
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise UserError(
            f"--annotations {file}: expected COCO's instance format with images (id, file_name, height, width) and "
            f"annotations (image_id, category_id, segmentation); missing or wrong: {error}"
        ) from error


def _category_ids(known: list[dict], names: list[str] | None) -> set[int] | None:
    if names is None:
        return None
    ids = {category["name"]: category["id"] for category in known}
    unknown = [name for name in names if name not in ids]
    if unknown:
        found = first_names(list(ids), 10)
        raise UserError(f"--categories {' '.join(unknown)}: no such category in the annotations, which have {found}")
    return {ids[name] for name in names}


def _possible_files(from_dir: Path, file_name: str) -> Iterator[Path]:
    """Where an image may be: below `from_dir` in the folders it is named with, or right there. Never elsewhere.

    As it is written, then in composed and in decomposed Unicode: macOS stores names decomposed.
    """
    for name in (file_name, unicodedata.normalize("NFC", file_name), unicodedata.normalize("NFD", file_name)):
        named = Path(name)
        if not (named.is_absolute() or ".." in named.parts):
            yield from_dir / named
        yield from_dir / named.name


def check_segmentations(image: AnnotatedImage) -> None:
    """Check the form of an image's segmentations without drawing them.

    Raises:
        UserError: one is none of COCO's forms or of another size, or is compressed and pycocotools is not installed.
    """
    for segmentation in image.segmentations:
        try:
            if isinstance(segmentation, list):
                for polygon in segmentation:
                    _corners(polygon)
            elif tuple(segmentation["size"]) != (image.height, image.width):
                raise ValueError(f"RLE of {segmentation['size']}")
            elif isinstance(segmentation["counts"], list):
                _runs(segmentation)
            else:
                _pycocotools_mask()
        except (TypeError, ValueError, KeyError) as error:
            if isinstance(error, UserError):
                raise
            raise UserError(
                f"{image.file_name}: expected segmentations that are polygons or RLE of {image.height}x{image.width} "
                f"pixels (height x width), found one with {error}"
            ) from error


def draw_union(image: AnnotatedImage) -> np.ndarray:
    """The union of an image's instances: (H, W) bool."""
    union = np.zeros((image.height, image.width), bool)
    for segmentation in image.segmentations:
        if isinstance(segmentation, list):
            for polygon in segmentation:
                union |= draw_polygon(polygon, image.height, image.width)
        else:
            union |= decode_rle(segmentation)
    return union


def draw_polygon(polygon: list[float], height: int, width: int) -> np.ndarray:
    """The pixels whose centre lies in a polygon by the even-odd rule: (H, W) bool.

    Args:
        polygon: x0, y0, x1, y1, ... in pixels; the first pixel's centre is (0.5, 0.5).
    """
    corners = _corners(polygon)
    # True where a column's line of centres crosses the outline: the inside lies between crossings.
    crossings = np.zeros((height + 1, width), bool)
    for (x0, y0), (x1, y1) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        if x0 > x1:
            x0, y0, x1, y1 = x1, y1, x0, y0
        columns = np.arange(max(np.ceil(x0 - 0.5), 0), min(np.ceil(x1 - 0.5), width), dtype=np.int64)
        if columns.size:
            y = y0 + (columns + 0.5 - x0) * (y1 - y0) / (x1 - x0)
            crossings[np.clip(np.ceil(y - 0.5), 0, height).astype(np.int64), columns] ^= True
    return np.logical_xor.accumulate(crossings[:height], axis=0)


def _corners(polygon: list[float]) -> np.ndarray:
    """(N, 2) float64: x and y of each corner."""
    corners = np.asarray(polygon, np.float64)
    if corners.ndim != 1 or len(corners) % 2 or not np.isfinite(corners).all():
        raise ValueError(f"a polygon {str(polygon)[:60]} that is not a list of x, y, x, y, ...")
    return corners.reshape(-1, 2)


def decode_rle(rle: dict[str, Any]) -> np.ndarray:
    """A run-length encoded mask: (H, W) bool. Runs of 0 and 1 alternate down the columns, 0 first.

    Raises:
        UserError: the runs are compressed and pycocotools is not installed.
        ValueError: the runs do not fill the mask.
    """
    if not isinstance(rle["counts"], list):
        return np.asarray(_pycocotools_mask().decode(rle), bool)
    height, width = rle["size"]
    runs = _runs(rle)
    return np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(width, height).T


def _runs(rle: dict[str, Any]) -> np.ndarray:
    runs = np.asarray(rle["counts"], np.int64)
    if runs.sum() != np.prod(rle["size"]) or (runs < 0).any():
        raise ValueError(f"RLE runs of {runs.sum()} pixels for {rle['size']}")
    return runs


def _pycocotools_mask() -> ModuleType:
    try:
        from pycocotools import mask
    except ImportError as error:
        raise UserError(
            "these annotations hold compressed RLE, which pycocotools decodes, and it is not installed: "
            "pip install pycocotools"
        ) from error
    return mask


def encode_mask(mask: np.ndarray) -> bytes:
    """A mask (H, W) bool as PNG of 0 and 255."""
    file = io.BytesIO()
    Image.fromarray(mask.astype(np.uint8) * 255).save(file, "PNG")
    return file.getvalue()


def _write_mask(target: Path, image: AnnotatedImage) -> None:
    content = encode_mask(draw_union(image))
    write_atomically(target, lambda file: file.write(content), durable=False)


def _is_free(target: Path, image: AnnotatedImage) -> bool:
    """Whether there is no such mask yet, or it is the very mask that would be written."""
    return not target.exists() or target.read_bytes() == encode_mask(draw_union(image))


def _check_stems(placements: list[Placement]) -> None:
    """Masks are named after their image's stem, and so must differ in it."""
    stems = Counter(placement.target.stem for placement in placements)
    twice = [stem for stem, count in stems.items() if count > 1]
    if twice:
        raise UserError(f"{len(twice)} names are those of several images, up to the extension: {first_names(twice)}")
