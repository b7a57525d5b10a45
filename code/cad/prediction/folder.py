"""Predict files and folders: read | compute | write, all at once. What predict.py does.

Every batch holds the same images whether or not some of them are done already: what is in a batch can change the last
bits of a result, and a run that was interrupted must end with the same masks as one that was not.
"""

import argparse
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
from tqdm import tqdm

from cad.datasets.pairs import read_image
from cad.device import pick_device
from cad.encoders.sam import hash_file
from cad.errors import MissingPathError, UserError
from cad.prediction.coco_results import write_coco
from cad.prediction.inputs import InputImage, find_images
from cad.prediction.model import load_model
from cad.prediction.outputs import PredictionFolder, eight_bits
from cad.prediction.overlay import reduce_picture
from cad.prediction.pipeline import PixelBudget, WriteBehind, count_pixels, read_ahead
from cad.prediction.predictor import PredictionSettings, Predictor, PreparedImage
from cad.prediction.tiles import upsample

GROUPS_AHEAD = 4  # batches read before the model asks for them
TILED_AHEAD = 1  # tiled images stay in memory whole until they are predicted


@dataclass(frozen=True)
class ReadImage:
    """An image as the reading threads leave it: prepared, or with the reason why it cannot be predicted."""

    source: InputImage
    prepared: PreparedImage | None = None
    picture: np.ndarray | None = None  # reduced, for the overlay
    problem: str = ""


@dataclass
class Progress:
    """What a run has done so far.

    Args:
        seconds, computed: how long it ran until everything was written, and how long of this the model was at work.
    """

    written: int = 0
    problems: list[str] = field(default_factory=list)
    seconds: float = 0.0
    computed: float = 0.0
    interrupted: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def count_written(self, bar: tqdm) -> None:
        """Count an image whose results are written; called by the writing threads."""
        with self._lock:
            self.written += 1
            bar.update()


def predict_folder(args: argparse.Namespace) -> bool:
    """Predict what the flags name, print a summary, and return whether every image has a result.

    Raises:
        UserError: wrong flags, paths or weights, before anything is computed; or the disk is full.
        KeyboardInterrupt: after Ctrl-C, once what was in flight is written.
    """
    settings = PredictionSettings(args.threshold, args.tile, args.overlap, args.flip_average)
    if not args.checkpoint.is_file():
        kind = "a folder" if args.checkpoint.is_dir() else "no such file"
        raise MissingPathError(f"--checkpoint {args.checkpoint}: {kind}; expected trained weights or an .onnx file")
    asked = {"overlays": args.overlay, "probabilities": args.probabilities, "coco": args.coco is not None}
    results = PredictionFolder(args.output, frozenset(kind for kind, wanted in asked.items() if wanted))
    check_output(args, results)
    images = find_images(args.input, results.result_folders)
    described = describe(args.checkpoint, settings)
    results.check(described, images, args.overwrite)
    predictor = None
    if args.overwrite or not all(results.is_done(image) for image in images):
        model = load_model(args.checkpoint, pick_device(args.device), args.sam_checkpoint, args.method)
        predictor = Predictor(model, settings, args.batch_size)
    results.start(described, images, args.overwrite)
    done_before = sum(results.is_done(image) for image in images)
    progress = Progress() if predictor is None else predict_images(predictor, images, results, args.num_workers)
    if progress.interrupted:
        print(
            f"\n{done_before + progress.written} of {len(images)} images are done; the same command"
            f"{' without --overwrite' if args.overwrite else ''} goes on with the rest",
            file=sys.stderr,
        )
        raise KeyboardInterrupt
    if args.coco is not None:
        write_coco(args.coco, results.coco_records(images))
    summarise(progress, len(images), done_before, results, args.coco)
    return not progress.problems


def check_output(args: argparse.Namespace, results: PredictionFolder) -> None:
    """Refuse results among the images, images among the results, and a COCO file that cannot be."""
    output = args.output.resolve()
    for given in args.input:
        if given.resolve() == output:
            raise UserError(f"--output {args.output}: is the folder of the images; choose another for the results")
        if any(given.resolve().is_relative_to(folder.resolve()) for folder in results.result_folders):
            raise UserError(f"--input {given}: holds results of --output {args.output}; choose another --output")
    if args.coco is not None and (args.coco.is_dir() or not args.coco.absolute().parent.is_dir()):
        expected = "a file name, found a folder" if args.coco.is_dir() else "a file in a folder that exists"
        raise UserError(f"--coco {args.coco}: expected {expected}")


def describe(checkpoint: Path, settings: PredictionSettings) -> dict[str, Any]:
    """What results depend on beside the images, as plain values."""
    return {
        "checkpoint": checkpoint.name,
        "checkpoint_sha256": hash_file(checkpoint),
        "threshold": settings.threshold,
        "tile": settings.tile,
        "overlap": settings.overlap,
        "flip_average": settings.flip_average,
    }


def predict_images(predictor: Predictor, images: list[InputImage], results: PredictionFolder, threads: int) -> Progress:
    """Predict the images that are not done, and write their results.

    Args:
        threads: that read, and as many that write.

    Raises:
        UserError: the model predicts no numbers, or the disk is full.
    """
    progress = Progress()
    tiled = predictor.settings.tile is not None
    size = 1 if tiled else predictor.batch_size
    groups = [images[first : first + size] for first in range(0, len(images), size)]
    open_groups = [group for group in groups if not all(results.is_done(image) for image in group)]
    done = {image for image in images if results.is_done(image)}
    budget = PixelBudget()  # one for both, so that a large image is not read while another one is written
    read = partial(_read, predictor, "overlays" in results.kinds, budget)
    reading = read_ahead(open_groups, read, threads, TILED_AHEAD if tiled else GROUPS_AHEAD)
    bar = tqdm(total=len(images), initial=len(done), desc="predicting", unit="image", disable=None)
    start = time.perf_counter()
    with bar, closing(reading), WriteBehind(max(1, threads), budget) as writing, _first_interrupt(progress):
        while not progress.interrupted:
            group = next(reading, None)
            if group is None:
                break
            _predict_group(predictor, group, done, results, writing, bar, progress)
            group.clear()  # frees large images before others are read
    progress.seconds = time.perf_counter() - start
    return progress


def _predict_group(
    predictor: Predictor,
    group: list[ReadImage],
    done: set[InputImage],
    results: PredictionFolder,
    writing: WriteBehind,
    bar: tqdm,
    progress: Progress,
) -> None:
    """Compute a batch and hand over what is not done to be written."""
    for image in group:
        if image.prepared is None:
            progress.problems.append(image.problem)
            bar.update()
    readable = [(image, image.prepared) for image in group if image.prepared is not None]
    start = time.perf_counter()
    predicted = predictor.logits([prepared for _, prepared in readable])
    progress.computed += time.perf_counter() - start
    for (image, prepared), logits in zip(readable, predicted, strict=True):
        if image.source in done:
            continue

        write = partial(_write, image, prepared.size, [logits], predictor.settings.threshold_logit, results)
        writing.submit(prepared.size[0] * prepared.size[1], write, partial(progress.count_written, bar))


def _read(predictor: Predictor, with_picture: bool, budget: PixelBudget, source: InputImage) -> ReadImage:
    """Read and prepare an image."""
    try:
        with budget.held(count_pixels(source.path)):
            pixels = read_image(source.path)
            picture = reduce_picture(pixels) if with_picture else None
            return ReadImage(source, predictor.prepare(pixels), picture)
    except UserError as error:
        return ReadImage(source, problem=str(error))
    except MemoryError:
        return ReadImage(source, problem=f"{source.path}: does not fit into memory")


def _write(
    image: ReadImage, size: tuple[int, int], logits: list[np.ndarray], threshold_logit: float, results: PredictionFolder
) -> None:
    """Bring the logits to the image's size and write its results."""
    full = upsample(logits.pop(), *size)  # out of the list, so that a large map is freed before files are written
    mask = full > threshold_logit
    probabilities = eight_bits(full) if results.needs_probabilities else None
    del full
    results.write(image.source, mask, probabilities, image.picture)


@contextmanager
def _first_interrupt(progress: Progress) -> Iterator[None]:
    """Note the first Ctrl-C and let what is in flight finish; a second one interrupts at once."""
    before = signal.getsignal(signal.SIGINT)

    def note(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, before)
        progress.interrupted = True
        print("\nfinishing the images in flight; Ctrl-C again stops at once", file=sys.stderr)

    if before is not signal.default_int_handler:  # ignored, or the business of a program that calls this
        yield
        return
    try:
        signal.signal(signal.SIGINT, note)
    except ValueError:  # not the main thread, where no signal arrives
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def summarise(progress: Progress, count: int, done_before: int, results: PredictionFolder, coco: Path | None) -> None:
    """Say what was done, and which files could not be read."""
    speed = ""
    if progress.written:
        speed = (
            f" in {progress.seconds:.1f} s, {progress.written / progress.seconds:.1f} images/s; the model waited for "
            f"files {100 * (1 - progress.computed / progress.seconds):.0f} % of the time"
        )
    before = f", {done_before} were there" if done_before else ""
    print(f"predicted {progress.written} of {count} images{before}{speed}")
    print(f"results: {results.folder}{f' and {coco}' if coco else ''}")
    if progress.problems:
        print(f"error: {len(progress.problems)} of {count} images have no result:", file=sys.stderr)
        for problem in progress.problems:
            print(f"  {' '.join(problem.split())}", file=sys.stderr)
