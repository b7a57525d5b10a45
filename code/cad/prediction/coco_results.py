"""Predicted masks in COCO's instance format, for annotation tools.

One annotation an image, all of its foreground: `segmentation` has the outlines (polygons, which have no holes), `rle`
the exact mask as pycocotools' compressed run lengths, `score` the mean probability of foreground over the mask. An
image without foreground has none.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO

import cv2
import numpy as np

from cad.files import write_atomically

CATEGORY = {"id": 1, "name": "foreground"}


def annotate(mask: np.ndarray, score: float) -> dict[str, Any] | None:
    """The annotation of a mask, without ids; None where it is empty.

    Args:
        mask: (H, W) bool.
        score: 0..1.
    """
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return None
    top, left, bottom, right = (int(value) for value in (rows[0], columns[0], rows[-1] + 1, columns[-1] + 1))
    return {
        "category_id": CATEGORY["id"],
        "segmentation": outlines(mask[top:bottom, left:right], left, top),
        "rle": {"size": list(mask.shape), "counts": compress_counts(run_lengths(mask))},
        "bbox": [left, top, right - left, bottom - top],
        "area": int(np.count_nonzero(mask)),
        "score": round(score, 6),
        "iscrowd": 0,
    }


def run_lengths(mask: np.ndarray) -> np.ndarray:
    """Lengths of the runs of background, foreground, background, ... down the columns, the first of them maybe 0.

    Source: pycocotools' uncompressed "counts".
    """
    pixels = np.ravel(mask, order="F")
    changes = np.flatnonzero(pixels[1:] != pixels[:-1]) + 1
    lengths = np.diff(changes, prepend=0, append=pixels.size)
    return np.concatenate([[0], lengths]) if pixels[0] else lengths


def compress_counts(lengths: np.ndarray) -> str:
    """Run lengths as pycocotools' compressed "counts".

    From the fourth on, a length is written as the difference to the one two before; each number in groups of 5 bits,
    lowest first, each in a character from "0" on whose sixth bit says that another follows. Source: pycocotools.
    """
    numbers = np.array(lengths, dtype=np.int64)
    numbers[3:] -= lengths[1:-2]
    written, goes_on = [], []
    open_numbers = np.ones(len(numbers), bool)
    while open_numbers.any():
        group = numbers & 31
        numbers >>= 5
        # The last group's highest bit is the sign.
        more = np.where(group & 16, numbers != -1, numbers != 0)
        written.append(group + 32 * more + 48)
        goes_on.append(open_numbers)
        open_numbers = open_numbers & more
    characters, used = np.stack(written, axis=1), np.stack(goes_on, axis=1)
    return characters[used].astype(np.uint8).tobytes().decode("ascii")


def outlines(mask: np.ndarray, left: int = 0, top: int = 0) -> list[list[float]]:
    """The outer outlines of a mask (H, W) bool as polygons [x, y, x, y, ...] in pixels, moved by (left, top).

    They run a quarter of a pixel inside the edges of the outermost pixels, so that exactly the centres of foreground
    pixels (and of holes) are within them.
    """
    doubled = cv2.resize(mask.astype(np.uint8), None, fx=2, fy=2, interpolation=cv2.INTER_NEAREST)
    contours, _ = cv2.findContours(doubled, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    return [((contour[:, 0] + 0.5) / 2 + (left, top)).ravel().tolist() for contour in contours]


def write_coco(path: Path, records: Iterable[tuple[str, dict[str, Any]]]) -> None:
    """Join the images' records into one file, atomically, one record in memory at a time.

    Args:
        records: (file name, {"width", "height", "annotation" or None}) of each image.

    Raises:
        UserError: the file cannot be written.
    """
    images: list[dict[str, Any]] = []

    def write(file: BinaryIO) -> None:
        file.write(b'{"info": {"description": "masks predicted by sam-cad"},\n"annotations": [')
        number = 0
        for image_id, (file_name, record) in enumerate(records, start=1):
            size = {"width": record["width"], "height": record["height"]}
            images.append({"id": image_id, "file_name": file_name} | size)
            if record["annotation"] is not None:
                number += 1
                annotation = {"id": number, "image_id": image_id} | record["annotation"]
                file.write((",\n" if number > 1 else "\n").encode() + json.dumps(annotation).encode())
        file.write(f'\n],\n"images": {json.dumps(images)},\n"categories": {json.dumps([CATEGORY])}}}\n'.encode())

    write_atomically(path, write)
