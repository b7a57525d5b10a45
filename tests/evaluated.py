"""A small made-up evaluation for the tests of figures and pages: discs, and predictions that miss them."""

import numpy as np

from cad.metrics.results import Difference, Estimate, Evaluation, MethodResult

SIZE = 48
RECORDS = [
    {
        "epoch": epoch,
        "train": {"bce": 0.6 / epoch, "iou_loss": 0.8 / epoch, "dice": 0.1 * epoch + 0.1, "iou": 0.1 * epoch},
        "validation": {"bce": 0.7 / epoch, "iou_loss": 0.9 / epoch, "dice": 0.1 * epoch + 0.05, "iou": iou},
        "learning_rate": 2e-4 / epoch,
        "seconds": 2.0,
    }
    for epoch, iou in enumerate((0.1, 0.3, 0.25), start=1)
]


class Discs:
    """Pictures of one bright disc; a method's prediction is the disc moved to the right by `shifts[label]` pixels."""

    def __init__(self, shifts: dict[str, int], names: list[str]) -> None:
        self.shifts, self.names = shifts, names
        self.asked: set[str] = set()

    def image(self, name: str) -> np.ndarray:
        self.asked.add(name)
        return np.repeat((60 + 150 * self.truth(name))[:, :, None], 3, axis=2).astype(np.uint8)

    def truth(self, name: str) -> np.ndarray:
        rows, columns = np.mgrid[:SIZE, :SIZE]
        return ((rows - 24) ** 2 + (columns - 20) ** 2 < (6 + self.names.index(name) % 8) ** 2).astype(np.uint8)

    def probability(self, label: str, name: str) -> np.ndarray:
        return np.roll(self.truth(name), self.shifts[label], axis=1) * np.uint8(200) + np.uint8(20)


def made_up(count: int = 30, shifts: dict[str, int] | None = None, **metadata: object) -> tuple[Evaluation, Discs]:
    """An evaluation of `count` images with its pictures; by default of two methods, the first better."""
    shifts = {"CAD": 2, "zero-shot": 9} if shifts is None else shifts
    names = [f"photo_{number:03}" for number in range(count)]
    pictures = Discs(shifts, names)
    methods = []
    for label in shifts:
        scores = [overlap(pictures.truth(name), pictures.probability(label, name)) for name in names]
        mean = float(np.mean(scores))
        summary = {
            "iou": Estimate(mean, (mean - 0.02, mean + 0.02)),
            "mae": Estimate(1 - mean, (0.98 - mean, 1.02 - mean)),
            "boundary_iou": Estimate(None, reason="no mask has a boundary"),
        }
        content = {"demo": False, "base": {"source": "sam.pth"}} | metadata
        methods.append(MethodResult(label, label, f"checkpoints/{label}.pth", content, summary, {"iou": list(scores)}))
    differences = []
    if len(methods) > 1:
        first, second = methods[:2]
        gap = first.summary["iou"].value - second.summary["iou"].value
        estimate = Estimate(gap, (gap - 0.01, gap + 0.01))
        differences = [Difference("iou", first.label, second.label, estimate, "better")]
    return Evaluation({"metric_size": 512, "mask_threshold": 128}, names, methods, differences), pictures


def overlap(truth: np.ndarray, probability: np.ndarray) -> float:
    """Intersection over union of a mask and a probability map 0..255."""
    predicted = probability >= 128
    return float((predicted & (truth > 0)).sum() / (predicted | (truth > 0)).sum())
