import cv2
import numpy as np
import pytest
import segment_anything
import torch
from trained import random_images, trained_file, trained_segmenter

import cad
from cad.errors import MissingPathError, UserError
from cad.prediction.sam_predictor import AdaptedPredictor

METHODS = ["cad", "sam_adapter", "decoder"]


@pytest.mark.parametrize(
    ("method", "design"), [*((method, {}) for method in METHODS), ("cad", {"adapter": "cad_hires"})]
)
@pytest.mark.parametrize("image_size", [64, 256])
def test_a_box_over_the_whole_image_gives_exactly_the_segmenters_logits(method, design, image_size):
    segmenter, _ = trained_segmenter(method, image_size, **design)
    predictor = AdaptedPredictor(segmenter, image_size)
    assert isinstance(predictor, segment_anything.SamPredictor)
    image = random_images(1, image_size)[0]
    predictor.set_image(image)
    box = np.array([0, 0, image_size, image_size])
    logits, _, _ = predictor.predict(box=box, multimask_output=False, return_logits=True)
    with torch.no_grad():
        expected = segmenter(torch.from_numpy(image).permute(2, 0, 1)[None])[0].numpy()
    assert expected.std() > 0.02
    assert np.array_equal(logits, expected)


def test_prompts_and_masks_are_in_the_pixels_of_an_image_that_is_not_square():
    segmenter, _ = trained_segmenter("cad", 64)
    predictor = AdaptedPredictor(segmenter, 64)
    image = random_images(1, 120)[0][:40]  # 40 x 120
    predictor.set_image(image[..., ::-1], "BGR")
    assert predictor.transform.apply_coords(np.array([[60.0, 10.0]]), predictor.original_size).tolist() == [[128, 64]]
    logits, _, low_res = predictor.predict(box=np.array([0, 0, 120, 40]), multimask_output=False, return_logits=True)
    assert logits.shape == (1, 40, 120)
    square = torch.from_numpy(cv2.resize(image, (64, 64), interpolation=cv2.INTER_LINEAR)).permute(2, 0, 1)[None]
    with torch.no_grad():
        expected = segmenter(square)[0, 0]
    assert np.abs(low_res[0] - expected.numpy()).max() < 1e-6  # 64 = 4 G: low-resolution logits are as large
    masks, _, _ = predictor.predict(box=np.array([0, 0, 120, 40]), multimask_output=False)
    assert np.array_equal(masks, logits > 0)


def test_a_point_and_a_mask_change_the_prediction():
    segmenter, _ = trained_segmenter("cad", 64)
    predictor = AdaptedPredictor(segmenter, 64)
    predictor.set_image(random_images(1, 64)[0])
    box = np.array([0, 0, 64, 64])
    whole, _, low_res = predictor.predict(box=box, multimask_output=False, return_logits=True)
    for prompt in (
        {"point_coords": np.array([[20.0, 30.0]]), "point_labels": np.array([1])},
        {"mask_input": 10 * low_res},
        {"box": np.array([10, 10, 30, 30])},
    ):
        logits, _, _ = predictor.predict(**{"box": box} | prompt, multimask_output=False, return_logits=True)
        assert np.abs(logits - whole).max() > 1e-3


@pytest.mark.parametrize("image_size", [64, 256])
def test_the_encoder_behind_sams_own_interface(image_size):
    segmenter, _ = trained_segmenter("cad", image_size)
    predictor = AdaptedPredictor(segmenter, image_size)
    predictor.set_image(random_images(1, 256)[0])
    expected = predictor.get_image_embedding()
    plain = segment_anything.SamPredictor(predictor.model)  # as the generator makes it
    plain.set_image(random_images(1, 256)[0])
    found = plain.get_image_embedding()
    if image_size == 256:
        assert (found - expected).abs().max() < 1e-5 * expected.abs().max()
    else:
        # It keeps the pixels that training at 64 pixels never sees, so that noise makes another embedding.
        assert found.shape == expected.shape and (found - expected).abs().max() > 0.1
    plain.set_image(random_images(1, 256)[0][:100])
    masks, _, _ = plain.predict(box=np.array([0, 0, 256, 100]), multimask_output=False)
    assert masks.shape == (1, 100, 256)


def test_masks_of_everything():
    segmenter, _ = trained_segmenter("cad", 256)
    predictor = AdaptedPredictor(segmenter, 256)
    image = random_images(1, 96)[0][:64]
    generator = segment_anything.SamAutomaticMaskGenerator(
        predictor.model, points_per_side=2, pred_iou_thresh=-10, stability_score_thresh=0, box_nms_thresh=1.0
    )
    padded = generator.generate(image)
    generator.predictor = predictor
    squashed = generator.generate(image)
    for records in (padded, squashed):
        assert records and all(record["segmentation"].shape == (64, 96) for record in records)


def test_the_high_resolution_path_serves_every_prompt_but_not_sams_own_predictor():
    segmenter, _ = trained_segmenter("cad", 64, adapter="cad_hires")
    predictor = AdaptedPredictor(segmenter, 64)
    predictor.set_image(random_images(1, 64)[0])
    boxes = torch.tensor([[0.0, 0.0, 256.0, 256.0], [20.0, 30.0, 90.0, 200.0]])  # in pixels of the encoder's input
    together, _, _ = predictor.predict_torch(None, None, boxes, multimask_output=False, return_logits=True)
    alone = [predictor.predict_torch(None, None, box[None], None, False, return_logits=True)[0] for box in boxes]
    assert (together - torch.cat(alone)).abs().max() < 1e-5
    generator = segment_anything.SamAutomaticMaskGenerator(
        predictor.model, points_per_side=2, pred_iou_thresh=-10, stability_score_thresh=0, box_nms_thresh=1.0
    )
    with pytest.raises(UserError, match=r"use the predictor of cad.sam_predictor .*generator.predictor = predictor"):
        generator.generate(random_images(1, 64)[0])
    generator.predictor = predictor
    assert generator.generate(random_images(1, 64)[0])


def test_from_a_file(tmp_path):
    trained_file(tmp_path / "w.pth", "cad", 64)
    predictor = cad.sam_predictor(str(tmp_path / "w.pth"), device="cpu")
    assert isinstance(predictor, segment_anything.SamPredictor)
    with pytest.raises(ValueError, match="image_format 'HSV': expected RGB or BGR"):
        predictor.set_image(random_images(1, 64)[0], "HSV")
    with pytest.raises(ValueError, match=r"expected \(H, W, 3\) uint8, found \(64, 64\) uint8"):
        predictor.set_image(random_images(1, 64)[0, :, :, 0])
    with pytest.raises(MissingPathError, match="no such checkpoint file"):
        cad.sam_predictor(tmp_path / "nothing.pth")
