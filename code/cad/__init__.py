"""CAD: a convolutional adapter beside a frozen Segment Anything encoder.

Five rooms, each readable on its own: `datasets` (files -> what a model eats), `models` (images -> mask logits),
`evaluation` (predictions and truth -> numbers and figures), `training` (the loops) and `prediction` (new images ->
masks). `training` knows the first three, `prediction` the first two; they know nothing of either.

    from cad import load
    mask = load("checkpoints/sam_cad.pth").predict("photo.jpg")
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from cad.prediction.predictor import Predictor
    from cad.prediction.sam_predictor import AdaptedPredictor

__version__ = "0.1.0"


def load(
    checkpoint: str | Path,
    *,
    device: str = "auto",
    threshold: float = 0.5,
    tile: int | None = None,
    overlap: int | None = None,
    flip_average: bool = False,
    batch_size: int = 4,
    sam_checkpoint: str | Path | None = None,
) -> Predictor:
    """Load trained weights to predict masks of new images.

        model = load("checkpoints/sam_cad.pth")
        mask = model.predict(image)                   # (H, W, 3) uint8 RGB, or a path -> (H, W) bool
        probabilities = model.probabilities(image)    # (H, W) float32 in 0..1

    Args:
        checkpoint: trained weights, or an exported model (.onnx).
        device: "auto", "cpu", "cuda", "cuda:1", "mps", ...; "auto" is the first there is.
        threshold, tile, overlap, flip_average: see `cad.prediction.predictor.PredictionSettings`.
        batch_size: images, or tiles of an image, that the model computes at once.
        sam_checkpoint: the SAM weights it was trained on, where they are neither beside it nor in checkpoints/.

    Raises:
        UserError: a file is missing, damaged or something else, or a value is out of its range.
    """
    from pathlib import Path  # imports nothing of PyTorch before it is needed

    from cad.device import pick_device
    from cad.prediction.model import load_model
    from cad.prediction.predictor import PredictionSettings, Predictor

    settings = PredictionSettings(threshold, tile, overlap, flip_average)
    base = None if sam_checkpoint is None else Path(sam_checkpoint).expanduser()
    model = load_model(Path(checkpoint).expanduser(), pick_device(device), base)
    return Predictor(model, settings, batch_size)


def sam_predictor(
    checkpoint: str | Path,
    *,
    device: str = "auto",
    sam_checkpoint: str | Path | None = None,
    method: str | None = None,
) -> AdaptedPredictor:
    """Load trained weights into segment_anything's `SamPredictor`: points, boxes and masks prompt them.

        predictor = sam_predictor("checkpoints/sam_cad.pth")
        predictor.set_image(image)                                    # (H, W, 3) uint8 RGB
        masks, _, _ = predictor.predict(box=box, multimask_output=False)

        generator = SamAutomaticMaskGenerator(predictor.model)
        generator.predictor = predictor                               # squash images as in training, not pad them

    Training prompts with one box over the whole image and scores one mask. The three masks of `multimask_output=True`
    and the predicted qualities, by which the generator filters, come from heads that stay SAM's own, behind a decoder
    that has changed: prefer `multimask_output=False`, and lower the generator's `pred_iou_thresh`.

    Args:
        checkpoint: trained weights of any method.
        device: as of `load`.
        sam_checkpoint, method: see `cad.trained_weights.load_segmenter`.

    Raises:
        UserError: a file is missing, damaged or something else.
    """
    from cad.prediction.sam_predictor import load_sam_predictor  # imports PyTorch

    return load_sam_predictor(checkpoint, device, sam_checkpoint, method)
