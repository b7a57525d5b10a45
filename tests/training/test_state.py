import pytest
import torch

from cad.errors import UserError
from cad.training.state import Best, Progress, cosine


def test_the_learning_rate_is_a_cosine_over_the_epochs():
    # 2e-4 * (1 + cos(pi * k / 4)) / 2 for k = 0, 1, 2, 3
    assert [cosine(2e-4, epoch, 4) for epoch in (1, 2, 3, 4)] == pytest.approx(
        [2e-4, 1.70711e-4, 1e-4, 0.29289e-4], rel=1e-4
    )


def test_the_learning_rate_is_pytorchs_schedule():
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=3e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=7)
    for epoch in range(1, 8):
        assert cosine(3e-4, epoch, 7) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-12)
        optimizer.step()
        schedule.step()


def test_best_is_the_highest_validation_iou_or_the_last_epoch():
    best = Best(1, {"iou": 0.5})
    assert best.is_beaten_by({"iou": 0.6}, validated=True)
    assert not best.is_beaten_by({"iou": 0.5}, validated=True)
    assert best.is_beaten_by({"iou": 0.1}, validated=False)
    assert Best().is_beaten_by({"iou": 0.0}, validated=True)


def test_means_are_over_the_images_that_were_scored():
    progress = Progress()
    progress.add_scores([[1.0, 2.0, 0.5, 0.25], [3.0, 0.0, 0.5, 0.25]], images=3)
    progress.images = 5  # two more were in a step that was left out
    assert progress.means() == pytest.approx({"bce": 4 / 3, "iou_loss": 2 / 3, "dice": 1 / 3, "iou": 0.5 / 3})
    assert progress.loss() == pytest.approx(2.0)
    progress.next_epoch()
    assert (progress.epoch, progress.images, progress.loss()) == (2, 0, 0.0)
    with pytest.raises(UserError, match="epoch 2: every step was left out"):
        progress.means()
