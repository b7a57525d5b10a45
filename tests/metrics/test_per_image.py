import torch
from golden_values import assert_close, golden

from cad.metrics.per_image import binary_cross_entropy, dice, evaluate, iou, iou_loss, mean_metrics, overlap


def maps(name):
    return golden("losses_metrics")[name].unsqueeze(1)


def test_losses_equal_the_golden_values():
    values = golden("losses_metrics")
    logits = torch.logit(maps("prob"))
    assert_close(binary_cross_entropy(logits, maps("target")), values["bce"], 1e-9)
    assert_close(iou_loss(logits, maps("target")), values["iou_loss"], 1e-9)


def test_overlap_equals_the_golden_values():
    values = golden("losses_metrics")
    assert_close(dice(maps("hard"), maps("target")), values["dice"], 1e-9)
    assert_close(iou(maps("hard"), maps("target")), values["iou"], 1e-9)


def test_the_threshold_is_a_logit_above_zero():
    logits = torch.tensor([-1.0, 0.0, 1e-6, 5.0]).view(1, 1, 2, 2)
    masks = torch.tensor([0.0, 0.0, 1.0, 1.0]).view(1, 1, 2, 2)
    assert [round(value.item(), 6) for value in overlap(logits, masks)] == [1.0, 1.0]


def test_losses_stay_finite_on_extreme_logits():
    logits = torch.tensor([1e4, -1e4, 1e4, -1e4]).view(1, 1, 2, 2).requires_grad_()
    masks = torch.tensor([0.0, 1.0, 1.0, 0.0]).view(1, 1, 2, 2)
    loss = binary_cross_entropy(logits, masks) + iou_loss(logits, masks)
    loss.sum().backward()
    assert torch.isfinite(loss).all() and torch.isfinite(logits.grad).all()


class Constant(torch.nn.Module):
    """Predicts foreground in the left half of every image."""

    def forward(self, images, embeddings=None):
        logits = torch.full((len(images), 1, *images.shape[-2:]), -20.0)
        logits[..., : images.shape[-1] // 2] = 20.0
        return logits


def test_evaluate_gives_one_value_an_image_whatever_the_batches():
    left = torch.zeros(1, 4, 4, dtype=torch.uint8)
    left[..., :2] = 1
    masks = torch.stack([left, torch.zeros_like(left), torch.ones_like(left)])
    images = torch.zeros(3, 3, 4, 4, dtype=torch.uint8)
    for size in (1, 2, 3):
        batches = [{"image": images[i : i + size], "mask": masks[i : i + size]} for i in range(0, 3, size)]
        scores = evaluate(Constant(), batches, torch.device("cpu"))
        assert [round(value, 3) for value in scores["iou"]] == [1.0, 0.0, 0.5]
        assert round(mean_metrics(scores)["iou"], 3) == 0.5
