"""What predicts: a model of one fixed input size behind one method, whatever library computes it.

Tiles, flips, resizing and thresholds are made around it, so that they are the same for every backend.
"""

from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from cad.options import checkpoints_folder
from cad.segmenter import Segmenter
from cad.trained_weights import load_segmenter


class MaskModel(Protocol):
    """Images of the side `image_size` (S) -> mask logits of the same side."""

    image_size: int

    def mask_logits(self, images: np.ndarray) -> np.ndarray:
        """(B, S, S, 3) uint8 RGB -> (B, 1, S, S) float32 before the sigmoid; above 0 is foreground."""


class TorchModel:
    """A segmenter on a device, as a `MaskModel`.

    Args:
        image_size: side of its images in pixels, from the metadata of its weights.
    """

    def __init__(self, segmenter: Segmenter, image_size: int, device: torch.device) -> None:
        self.segmenter = segmenter.to(device).eval()
        self.image_size = image_size
        self.device = device

    @torch.no_grad()
    def mask_logits(self, images: np.ndarray) -> np.ndarray:
        """(B, S, S, 3) uint8 RGB -> (B, 1, S, S) float32 before the sigmoid."""
        batch = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()
        return self.segmenter(batch.to(self.device)).float().cpu().numpy()


def load_model(
    path: Path, device: torch.device, sam_checkpoint: Path | None = None, method: str | None = None
) -> MaskModel:
    """The model in a file: trained weights, or an exported one (`.onnx`).

    Args:
        device: where trained weights are computed; an exported model chooses for itself.
        sam_checkpoint, method: of trained weights, see `cad.trained_weights.load_segmenter`.

    Raises:
        MissingPathError, UserError: the file or its SAM weights are missing, damaged or something else.
    """
    if path.suffix.lower() == ".onnx":
        from cad.prediction.onnx_model import OnnxModel  # onnxruntime is needed for this alone

        return OnnxModel(path)
    segmenter, metadata = load_segmenter(path, checkpoints_folder(), sam_checkpoint, method)
    return TorchModel(segmenter, metadata["image_size"], device)
