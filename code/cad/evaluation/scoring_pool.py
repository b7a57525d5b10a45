"""Score images beside the model: in processes of their own, a few at a time. Without PyTorch.

pysodmetrics holds Python's lock, so threads would wait for each other.
"""

import multiprocessing
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import cv2
import numpy as np
from scipy.special import expit

from cad.evaluation.kept_maps import write_picture
from cad.metrics.field_metrics import FieldScores, field_scores

WAITING_PER_PROCESS = 4  # bounds memory: what is scored slower than it is predicted waits here


@dataclass(frozen=True)
class ImageJob:
    """One image to score and to keep.

    Args:
        logits: (H, W) float32, finite.
        truth: (H, W) bool.
        map_path: where the probability map goes.
        mask_path: where the predicted mask goes, or None.
        normalize_maps: see `cad.metrics.field_metrics`.
    """

    logits: np.ndarray
    truth: np.ndarray
    map_path: Path
    mask_path: Path | None
    normalize_maps: bool


def score_image(job: ImageJob) -> FieldScores:
    """Write the pictures of a job and return its scores."""
    write_picture(job.map_path, np.round(expit(job.logits) * 255).astype(np.uint8))
    if job.mask_path is not None:
        write_picture(job.mask_path, (job.logits > 0).astype(np.uint8) * 255)
    return field_scores(job.logits, job.truth, job.normalize_maps)


class ScoringPool:
    """Runs `score_image` in so many processes; with 0 in this one, at once. A context manager."""

    def __init__(self, processes: int) -> None:
        self.processes = processes
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> "ScoringPool":
        if self.processes:
            # Started afresh, not forked: this process has threads, and PyTorch, which scoring does not need.
            context = multiprocessing.get_context("spawn")
            self._pool = ProcessPoolExecutor(self.processes, context, initializer=_single_threaded)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def scores(self, jobs: Iterator[ImageJob]) -> Iterator[FieldScores]:
        """Scores of the jobs in their order; takes a next job only when few are waiting."""
        if self._pool is None:
            yield from map(score_image, jobs)
            return
        waiting: deque[Future[FieldScores]] = deque()
        for job in jobs:
            waiting.append(self._pool.submit(score_image, job))
            if len(waiting) > WAITING_PER_PROCESS * self.processes:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _single_threaded() -> None:
    """One process is one core."""
    cv2.setNumThreads(1)
