import numpy as np
import pytest

from cad.prediction.overlay import OUTLINE, OUTSIDE_BRIGHTNESS, TINT, TINT_SHARE, draw_overlay, reduce_picture


def test_inside_is_tinted_outside_darker_and_the_outline_bright():
    picture = np.full((80, 120, 3), 100, np.uint8)
    mask = np.zeros((80, 120), np.uint8)
    mask[20:60, 30:90] = 255
    drawn = draw_overlay(picture, mask)
    inside = 100 * (1 - TINT_SHARE) + np.array(TINT) * TINT_SHARE
    assert np.abs(drawn[40, 60] - inside).max() <= 1
    assert np.abs(drawn[2, 2] - 100 * OUTSIDE_BRIGHTNESS).max() <= 1
    on_outline = drawn[40, 28:33].max(axis=0)
    assert (on_outline > 0.65 * np.array(OUTLINE)).all() and on_outline.min() > inside.min() + 90


@pytest.mark.parametrize("value", [0, 255])
def test_a_mask_of_one_kind_has_no_outline(value):
    picture = np.full((30, 40, 3), 100, np.uint8)
    drawn = draw_overlay(picture, np.full((60, 80), value, np.uint8))
    assert drawn.shape == picture.shape and (drawn == drawn[0, 0]).all()
    assert (drawn[0, 0].tolist() == [100, 100, 100]) == (value == 0)


def test_pictures_are_reduced_to_what_can_be_looked_at():
    assert reduce_picture(np.zeros((3000, 6000, 3), np.uint8)).shape == (1024, 2048, 3)
    small = np.zeros((30, 60, 3), np.uint8)
    assert reduce_picture(small) is small
