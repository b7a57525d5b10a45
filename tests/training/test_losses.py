import torch
from golden_values import assert_close, golden

from cad.training.losses import segmentation_losses


def test_equal_the_golden_values_and_accept_integer_masks():
    values = golden("losses_metrics")
    masks = values["target"].unsqueeze(1).to(torch.uint8)
    bce, iou = segmentation_losses(torch.logit(values["prob"]).unsqueeze(1), masks)
    assert_close(bce, values["bce"], 1e-9)
    assert_close(iou, values["iou_loss"], 1e-9)


def test_half_precision_logits_are_scored_in_float32():
    bce, iou = segmentation_losses(torch.zeros(1, 1, 4, 4, dtype=torch.bfloat16), torch.ones(1, 1, 4, 4))
    assert bce.dtype == iou.dtype == torch.float32
