"""The training losses. Source of the original one: arXiv 2409.15889, section 4; docs/METHOD.md."""

import torch
import torch.nn.functional as F
from torch import Tensor

from cad.metrics.per_image import binary_cross_entropy, iou_loss


def segmentation_losses(logits: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    """Binary cross-entropy and IoU loss of each image: logits and masks (B, 1, H, W) -> two of (B,).

    The loss of a step is the mean over the batch of their sum. Computed on logits in at least float32: sigmoid and
    logarithm together stay finite where the logarithm of a rounded probability would not.
    """
    logits, masks = _in_float(logits, masks)
    return binary_cross_entropy(logits, masks), iou_loss(logits, masks)


def structure_loss(logits: Tensor, masks: Tensor) -> Tensor:
    """Cross-entropy plus IoU loss of each image, both weighted towards the mask's boundary: (B, 1, H, W) twice -> (B,).

    A pixel weighs 1 + 5 |share of foreground in the 31x31 pixels around it - mask|, where outside the image is none:
    1 far from a boundary, about 3.5 on a straight one.

    Source: Wei et al., "F3Net: Fusion, Feedback and Focus for Salient Object Detection", arXiv 1911.11445, section 3.4,
    with the 1 that its code adds to intersection and union. Its code's cross-entropy is the mean over the batch of
    pixels that all weigh the same, by a misnamed argument; here each pixel has its weight, as in the paper.
    """
    logits, masks = _in_float(logits, masks)
    weights = 1 + 5 * (F.avg_pool2d(masks, kernel_size=31, stride=1, padding=15) - masks).abs()

    def total(values: Tensor) -> Tensor:
        return (weights * values).flatten(1).sum(dim=1)

    cross_entropy = F.binary_cross_entropy_with_logits(logits, masks, reduction="none")
    probs = torch.sigmoid(logits)
    intersection, union = total(probs * masks), total(probs + masks - probs * masks)
    return total(cross_entropy) / weights.flatten(1).sum(dim=1) + 1 - (intersection + 1) / (union + 1)


def _in_float(logits: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    logits = logits.float() if logits.dtype.itemsize < 4 else logits
    return logits, masks.to(logits.dtype)
