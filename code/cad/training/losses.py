"""The training loss. Source: arXiv 2409.15889, section 4; docs/METHOD.md."""

from torch import Tensor

from cad.evaluation.metrics import binary_cross_entropy, iou_loss


def segmentation_losses(logits: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    """Binary cross-entropy and IoU loss of each image: logits and masks (B, 1, H, W) -> two of (B,).

    The loss of a step is the mean over the batch of their sum. Computed on logits in at least float32: sigmoid and
    logarithm together stay finite where the logarithm of a rounded probability would not.
    """
    logits = logits.float() if logits.dtype.itemsize < 4 else logits
    masks = masks.to(logits.dtype)
    return binary_cross_entropy(logits, masks), iou_loss(logits, masks)
