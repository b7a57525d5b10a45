import math

import torch
from golden_values import assert_close, golden

from cad.training.losses import segmentation_losses, structure_loss


def test_equal_the_golden_values_and_accept_integer_masks():
    values = golden("losses_metrics")
    masks = values["target"].unsqueeze(1).to(torch.uint8)
    bce, iou = segmentation_losses(torch.logit(values["prob"]).unsqueeze(1), masks)
    assert_close(bce, values["bce"], 1e-9)
    assert_close(iou, values["iou_loss"], 1e-9)


def test_half_precision_logits_are_scored_in_float32():
    bce, iou = segmentation_losses(torch.zeros(1, 1, 4, 4, dtype=torch.bfloat16), torch.ones(1, 1, 4, 4))
    assert bce.dtype == iou.dtype == torch.float32


def test_the_structure_loss_of_a_flat_prediction_by_hand():
    """One pixel of foreground among 961, seen from everywhere in a 16x16 image, at probability 1/2."""
    masks = torch.zeros(1, 1, 16, 16, dtype=torch.uint8)
    masks[0, 0, 4, 7] = 1
    weight, foreground_weight = 1 + 5 / 961, 1 + 5 * (1 - 1 / 961)
    intersection, union = foreground_weight / 2, 255 * weight / 2 + foreground_weight
    expected = math.log(2) + 1 - (intersection + 1) / (union + 1)
    assert abs(structure_loss(torch.zeros(1, 1, 16, 16).double(), masks).item() - expected) < 1e-9


def test_the_structure_loss_counts_a_pixel_on_the_boundary_up_to_six_times():
    masks = torch.zeros(1, 1, 96, 96)
    masks[..., 48:] = 1
    logits = torch.where(masks > 0, 3.0, -3.0)
    at_the_edge, far_away = logits.clone(), logits.clone()
    at_the_edge[0, 0, 48, 48] = far_away[0, 0, 48, 80] = -3.0
    right, near, far = (structure_loss(one, masks).item() for one in (logits, at_the_edge, far_away))
    # Of 31 columns around column 48, 16 are foreground: it weighs 1 + 5 * 15 / 31 = 3.42, column 80 weighs 1. Taken
    # wrongly, each lowers the intersection and raises the cross-entropy in proportion to its weight, nearly.
    assert abs((near - right) / (far - right) - 3.42) < 0.02


def test_each_image_has_its_own_structure_loss_in_float32():
    masks = (torch.rand(3, 1, 40, 40, generator=torch.manual_seed(0)) > 0.5).to(torch.uint8)
    logits = torch.randn(3, 1, 40, 40, generator=torch.manual_seed(1)).bfloat16()
    together = structure_loss(logits, masks)
    assert together.dtype == torch.float32 and together.shape == (3,)
    assert torch.allclose(together, torch.cat([structure_loss(logits[i : i + 1], masks[i : i + 1]) for i in range(3)]))
    assert structure_loss(logits[:0], masks[:0]).shape == (0,)
