"""Trying models on single images: which there are, what one predicts, and the masks at other thresholds.

What the page of app.py does behind its looks.
"""

import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from scipy.special import expit

from cad.datasets.pairs import read_image
from cad.device import describe_memory
from cad.encoders.sam import SAM_SIZES
from cad.errors import UserError
from cad.prediction.model import load_model
from cad.prediction.overlay import reduce_picture
from cad.prediction.predictor import PredictionSettings, Predictor
from cad.prediction.tiles import upsample

MODEL_SUFFIXES = (".pth", ".onnx")
MOST_LOADED = 2  # as many as are compared


@dataclass(frozen=True, eq=False)
class Trial:
    """What a model predicts for an image, small enough to be kept while the threshold moves.

    Args:
        model, image: the name of the weights, and the path of the image.
        size: (H, W) of the image.
        logits: (S, S) float32, to be upsampled.
        picture: the image (h, w, 3) uint8, reduced where it is large.
        seconds: what the model took.
        memory: the peak of this process since it started.
    """

    model: str
    image: str
    size: tuple[int, int]
    logits: np.ndarray
    picture: np.ndarray
    seconds: float
    memory: str

    def mask(self, threshold: float) -> np.ndarray:
        """The mask at the image's own size, (H, W) bool: `Predictor.predict`'s at that threshold."""
        return upsample(self.logits, *self.size) > PredictionSettings(threshold).threshold_logit

    def probabilities(self) -> np.ndarray:
        """0..1 at the size of the model, (S, S) float32, for looking at."""
        return expit(self.logits)


def name_models(given: Iterable[Path], folder: Path) -> dict[str, Path]:
    """The models to choose from, by the names that are shown: the ones given, then those in a folder.

    SAM's own weights, which were not trained for any masks, are left out of the folder's. Where file names are the
    same, as much of the path is added as tells them apart.

    Raises:
        UserError: a file that was given does not exist.
    """
    paths: dict[Path, Path] = {}
    for path in given:
        if not path.is_file():
            raise UserError(f"--checkpoint {path}: no such file; expected trained weights or an .onnx file")
        paths.setdefault(path.absolute(), path)
    official = {size.file_name for size in SAM_SIZES.values()}
    for path in sorted(folder.glob("*")) if folder.is_dir() else []:
        if path.suffix in MODEL_SUFFIXES and path.name not in official and path.is_file():
            paths.setdefault(path.absolute(), path)
    names: dict[str, Path] = {}
    for absolute in paths:
        parts = 1
        while (name := "/".join(absolute.parts[-parts:])) in names:
            parts += 1
        names[name] = absolute
    return names


class Models:
    """The models by name, loaded when they are first asked for; the last few stay loaded.

    Args:
        paths: by the names that are shown; nothing else can be loaded.
        sam_checkpoint: see `cad.load`.
    """

    def __init__(self, paths: dict[str, Path], device: torch.device, sam_checkpoint: Path | None = None) -> None:
        self.paths = paths
        self.device = device
        self.sam_checkpoint = sam_checkpoint
        self._loaded: dict[str, Predictor] = {}

    def try_on(self, name: str, image: Path) -> Trial:
        """Predict an image file with the model of that name.

        Raises:
            UserError: there is no such model, its file is damaged, the image cannot be read, or memory is short.
        """
        try:
            pixels = read_image(image)
            predictor = self._predictor(name)
            prepared = predictor.prepare(pixels)
            start = time.perf_counter()
            (logits,) = predictor.logits([prepared])
            seconds = time.perf_counter() - start
        except (MemoryError, torch.OutOfMemoryError) as error:
            raise UserError(f"{image}: does not fit into memory with {name}") from error
        memory = describe_memory(self.device)
        return Trial(name, str(image), prepared.size, logits, reduce_picture(pixels), seconds, memory)

    def _predictor(self, name: str) -> Predictor:
        if name not in self.paths:
            raise UserError(f"{name}: not among the weights of this page")
        predictor = self._loaded.pop(name, None)
        if predictor is None:
            while len(self._loaded) >= MOST_LOADED:
                del self._loaded[next(iter(self._loaded))]
            predictor = Predictor(load_model(self.paths[name], self.device, self.sam_checkpoint))
        self._loaded[name] = predictor  # the one used last is last
        return predictor
