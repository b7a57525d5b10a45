import cv2
import numpy as np
import pytest
from PIL import Image
from predicted import Bright

from cad.errors import UserError
from cad.prediction.predictor import PredictionSettings, Predictor


@pytest.fixture
def photograph():
    """Soft blobs, (150, 210, 3) uint8."""
    noise = np.random.default_rng(5).uniform(0, 255, (150, 210, 3)).astype(np.float32)
    soft = cv2.GaussianBlur(noise, (0, 0), 6)
    return np.clip((soft - soft.mean()) * 14 + 110, 0, 255).astype(np.uint8)


def test_a_mask_has_the_size_of_the_image_and_is_where_it_is_bright():
    image = np.zeros((40, 100, 3), np.uint8)
    image[:, 50:] = 255
    mask = Predictor(Bright(32)).predict(image)
    assert mask.dtype == bool and mask.shape == (40, 100)
    assert not mask[:, :45].any() and mask[:, 55:].all()


def test_a_path_a_list_and_a_batch_give_the_same_masks(photograph, tmp_path):
    predictor = Predictor(Bright(), batch_size=2)
    other = photograph[::-1, ::-1].copy()
    Image.fromarray(photograph).save(tmp_path / "photo.png")
    mask = predictor.predict(photograph)
    assert 0.2 < mask.mean() < 0.8
    assert np.array_equal(predictor.predict(str(tmp_path / "photo.png")), mask)
    listed = predictor.predict([tmp_path / "photo.png", other[:50], other])
    assert [one.shape for one in listed] == [(150, 210), (50, 210), (150, 210)] and np.array_equal(listed[0], mask)
    batch = predictor.predict(np.stack([photograph, other]))
    assert batch.shape == (2, 150, 210) and np.array_equal(batch[0], mask) and np.array_equal(batch[1], listed[2])
    assert predictor.predict([]) == []
    assert max(predictor.model.batches) == 2


def test_probabilities_are_those_that_the_threshold_cuts(photograph):
    probabilities = Predictor(Bright()).probabilities(photograph)
    assert probabilities.dtype == np.float32 and 0 <= probabilities.min() < 0.2 and 0.8 < probabilities.max() <= 1
    for threshold in (0.2, 0.5, 0.9):
        mask = Predictor(Bright(), PredictionSettings(threshold)).predict(photograph)
        assert np.array_equal(mask, probabilities > threshold)
    assert Predictor(Bright(), PredictionSettings(0)).predict(photograph).all()
    assert not Predictor(Bright(), PredictionSettings(1)).predict(photograph).any()


def test_an_image_of_one_tile_gives_the_result_of_the_whole(photograph):
    square = photograph[:128, :128]
    whole = Predictor(Bright()).probabilities(square)
    assert np.array_equal(Predictor(Bright(), PredictionSettings(tile=128)).probabilities(square), whole)
    assert np.array_equal(Predictor(Bright(), PredictionSettings(tile=500)).probabilities(square), whole)


def test_tiles_agree_with_the_whole_and_show_no_seam(photograph):
    """With a model that does the same everywhere; tiles of its own size need no resizing."""
    picture = np.pad(photograph, ((0, 60), (0, 0), (0, 0)), mode="reflect")  # a square: 210 pixels
    whole = Predictor(Bright(210)).probabilities(picture)
    blended = Predictor(Bright(64), PredictionSettings(tile=64, overlap=24)).probabilities(picture)
    assert np.abs(blended - whole).max() < 0.005
    steps = [np.abs(np.diff(one, axis=1)).max() for one in (whole, blended)]
    assert steps[1] < 1.2 * steps[0]
    hard = Predictor(Bright(64), PredictionSettings(tile=64, overlap=0)).probabilities(picture)
    assert np.abs(hard - whole).max() > 4 * np.abs(blended - whole).max()  # what blending removes


def test_a_flip_is_averaged_with_the_image(photograph):
    class Sided(Bright):
        def mask_logits(self, images):
            return super().mask_logits(images) + np.linspace(-4, 4, self.image_size, dtype=np.float32)

    plain = Predictor(Sided(), PredictionSettings(flip_average=True)).probabilities(photograph)
    assert np.allclose(plain, Predictor(Bright()).probabilities(photograph), atol=1e-5)


@pytest.mark.parametrize(
    ("image", "found"),
    [
        (np.zeros((4, 4, 3)), "float64 of shape (4, 4, 3)"),
        (np.zeros((4, 4), np.uint8), "uint8 of shape (4, 4)"),
        (np.zeros((4, 4, 4), np.uint8), "uint8 of shape (4, 4, 4)"),
        (np.zeros((0, 4, 3), np.uint8), "uint8 of shape (0, 4, 3)"),
        (np.zeros((2, 4, 4, 1), np.uint8), "uint8 of shape (2, 4, 4, 1)"),
        (Image.new("RGB", (4, 4)), "PIL.Image.Image"),
        (None, "builtins.NoneType"),
    ],
)
def test_what_is_no_image_is_named(image, found):
    with pytest.raises(UserError) as error:
        Predictor(Bright()).predict(image)
    assert str(error.value).endswith(f"found {found}") and "of uint8, a path, or a list of these" in str(error.value)


def test_values_that_are_not_finite_are_an_error(photograph):
    class Diverged(Bright):
        def mask_logits(self, images):
            return np.full((len(images), 1, 64, 64), np.nan, np.float32)

    with pytest.raises(UserError, match="not finite; its training has diverged"):
        Predictor(Diverged()).predict(photograph)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"threshold": 1.5}, "threshold 1.5: expected a probability from 0 to 1"),
        ({"tile": 0}, "tile 0: expected a side of at least 1 pixel"),
        ({"tile": 64, "overlap": 64}, "overlap 64: expected 0 or more and less than the tile, 64"),
        ({"overlap": 8}, "overlap 8: only tiles overlap"),
    ],
)
def test_wrong_settings_are_named(settings, message):
    with pytest.raises(UserError, match=message):
        PredictionSettings(**settings)


def test_tiles_overlap_by_an_eighth_unless_told_otherwise():
    assert PredictionSettings(tile=1024).overlap == 128 and PredictionSettings(tile=64, overlap=0).overlap == 0
