"""The results of predicting a folder: which files each image has, when they are done, and what made them.

masks/NAME.png is written last: an image is done when it and all other files that are asked for are there. predict.json
says what the masks were made with; results of different settings are never mixed.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from scipy.special import expit

from cad.errors import UserError
from cad.files import unfinished_name, write_atomically, write_json
from cad.prediction.coco_results import annotate
from cad.prediction.inputs import InputImage
from cad.prediction.overlay import draw_overlay

SUFFIXES = {"masks": ".png", "probabilities": ".png", "overlays": ".jpg", "coco": ".json"}
SETTINGS_FILE = "predict.json"
BAND_PIXELS = 2**22  # of a map, turned into 8 bits at a time
OVERLAY_QUALITY = 92


@dataclass(frozen=True)
class PredictionFolder:
    """The folder of results.

    Args:
        kinds: what is asked for beside masks, of the keys of `SUFFIXES`.
    """

    folder: Path
    kinds: frozenset[str]

    @property
    def result_folders(self) -> list[Path]:
        """Every folder that can hold results."""
        return [self.folder / kind for kind in SUFFIXES]

    def path(self, kind: str, image: InputImage) -> Path:
        return self.folder / kind / f"{image.name}{SUFFIXES[kind]}"

    def is_done(self, image: InputImage) -> bool:
        """Whether everything that is asked for is there."""
        return all(self.path(kind, image).is_file() for kind in ("masks", *self.kinds))

    def start(self, settings: dict[str, Any], images: list[InputImage], overwrite: bool) -> None:
        """Make the folder and record the settings; with `overwrite`, remove the results of these images.

        Call `check` before.

        Raises:
            UserError: the folder cannot be written.
        """
        try:
            if overwrite:
                for image in images:
                    for kind in SUFFIXES:
                        self.path(kind, image).unlink(missing_ok=True)
            self._remove_unfinished(images)
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"--output {self.folder}: cannot be written: {error.strerror or error}") from error
        write_json(self.folder / SETTINGS_FILE, settings)

    def check(self, settings: dict[str, Any], images: list[InputImage], overwrite: bool) -> None:
        """Raise a UserError if this run would mix its results with those of other settings."""
        if not self.folder.exists():
            return
        if not self.folder.is_dir():
            raise UserError(f"--output {self.folder}: expected a folder, found a file")
        difference = self._difference(settings)
        mine = {self.path("masks", image) for image in images}
        there = {path for path in (self.folder / "masks").rglob("*.png") if not path.name.startswith(".")}
        if difference is None or not there:
            return
        if not overwrite:
            raise UserError(f"--output {self.folder}: {difference}; pass --overwrite, or another --output")
        if there - mine:
            raise UserError(
                f"--output {self.folder}: {difference}; it also holds {len(there - mine)} masks of other images, which "
                "would be mixed with those of this run; choose another --output"
            )

    def _difference(self, settings: dict[str, Any]) -> str | None:
        """How the settings differ from those of the results that are there, or None."""
        file = self.folder / SETTINGS_FILE
        if not file.is_file():
            return f"holds masks, but no {SETTINGS_FILE} that says what they were made with"
        try:
            earlier = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            earlier = None
        if not isinstance(earlier, dict):
            return f"{SETTINGS_FILE} is damaged, so that nothing says what its masks were made with"
        different = [name for name in settings if earlier.get(name) != settings[name] and name != "checkpoint"]
        if not different:
            return None
        changes = [f"{name} {_short(earlier.get(name))}, now {_short(settings[name])}" for name in different]
        return f"holds masks made with {' and '.join(changes)}"

    def _remove_unfinished(self, images: list[InputImage]) -> None:
        """Remove what a killed run was in the middle of writing."""
        mine = {self.path(kind, image) for kind in SUFFIXES for image in images}
        for folder in self.result_folders:
            for path in folder.rglob(".*.tmp"):
                unfinished = unfinished_name(path)
                if unfinished and path.with_name(unfinished) in mine:
                    path.unlink(missing_ok=True)

    @property
    def needs_probabilities(self) -> bool:
        """Whether `write` is to be given probabilities."""
        return bool(self.kinds & {"probabilities", "coco"})

    def write(
        self, image: InputImage, mask: np.ndarray, probabilities: np.ndarray | None, picture: np.ndarray | None
    ) -> None:
        """Write an image's results, the mask last.

        Args:
            mask: (H, W) bool.
            probabilities: (H, W) uint8, 0..255 for 0..1, where they are needed.
            picture: the reduced image (h, w, 3) uint8, where an overlay is asked for.

        Raises:
            UserError: the disk is full or the folder cannot be written.
        """
        if "probabilities" in self.kinds and probabilities is not None:
            self._write_picture("probabilities", image, probabilities)
        if "coco" in self.kinds and probabilities is not None:
            height, width = mask.shape
            score = float(probabilities[mask].mean()) / 255 if mask.any() else 0.0
            record = {"width": width, "height": height, "annotation": annotate(mask, score)}
            self._write("coco", image, json.dumps(record).encode())
        pixels = mask.view(np.uint8) * np.uint8(255)
        if picture is not None:
            self._write_picture("overlays", image, draw_overlay(picture, pixels))
        self._write_picture("masks", image, pixels)

    def _write_picture(self, kind: str, image: InputImage, pixels: np.ndarray) -> None:
        path = self._made(kind, image)
        options: dict[str, Any] = {"format": "PNG", "compress_level": 1}  # fast rather than small
        if kind == "overlays":
            options = {"format": "JPEG", "quality": OVERLAY_QUALITY, "subsampling": 0}
        write_atomically(path, lambda file: Image.fromarray(pixels).save(file, **options))

    def _write(self, kind: str, image: InputImage, content: bytes) -> None:
        write_atomically(self._made(kind, image), lambda file: file.write(content))

    def _made(self, kind: str, image: InputImage) -> Path:
        """The path of a result, its folder made."""
        path = self.path(kind, image)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{path.parent}: cannot be written: {error.strerror or error}") from error
        return path

    def coco_records(self, images: Iterable[InputImage]) -> Iterator[tuple[str, dict[str, Any]]]:
        """(file name, record) of each image that is done, for `write_coco`."""
        for image in images:
            if self.is_done(image):
                yield image.file_name, json.loads(self.path("coco", image).read_text(encoding="utf-8"))


def eight_bits(logits: np.ndarray) -> np.ndarray:
    """Probabilities 0..1 as 0..255, (H, W) uint8, made in bands: a large map is not copied as floats."""
    result = np.empty(logits.shape, np.uint8)
    rows = max(1, BAND_PIXELS // logits.shape[1])
    for top in range(0, len(logits), rows):
        result[top : top + rows] = np.round(expit(logits[top : top + rows]) * 255)
    return result


def _short(value: Any) -> str:
    """A setting in a message: a hash by its beginning."""
    return f"{value[:12]}..." if isinstance(value, str) and len(value) == 64 else str(value)
