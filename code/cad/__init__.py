"""CAD: a convolutional adapter beside a frozen Segment Anything encoder.

Four rooms, each readable on its own: `datasets` (files -> what a model eats), `models` (images -> mask logits),
`evaluation` (predictions and truth -> numbers and figures) and `training` (the loops). `training` knows the other
three; they know nothing of it.
"""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cad.prediction.sam_predictor import AdaptedPredictor


def sam_predictor(
    checkpoint: str | Path,
    device: str = "auto",
    sam_checkpoint: str | Path | None = None,
    method: str | None = None,
) -> "AdaptedPredictor":
    """segment_anything's `SamPredictor` with a trained model inside: points, boxes and masks prompt it.

        predictor = cad.sam_predictor("checkpoints/sam_cad.pth")
        predictor.set_image(image)                                    # (H, W, 3) uint8 RGB
        masks, _, _ = predictor.predict(box=box, multimask_output=False)

        generator = SamAutomaticMaskGenerator(predictor.model)
        generator.predictor = predictor                               # squash images as in training, not pad them

    Training prompts with one box over the whole image and scores one mask. The three masks of `multimask_output=True`
    and the predicted qualities, by which the generator filters, come from heads that stay SAM's own, behind a decoder
    that has changed: prefer `multimask_output=False`, and lower the generator's `pred_iou_thresh`.

    Args:
        checkpoint: trained weights of any method.
        device: as --device.
        sam_checkpoint, method: see `cad.models.weights.load_segmenter`.

    Raises:
        MissingPathError, UserError: the weights or their SAM weights are missing, damaged or something else.
    """
    from cad.prediction.sam_predictor import load_sam_predictor  # imports torch: not for every `import cad`

    return load_sam_predictor(checkpoint, device, sam_checkpoint, method)
