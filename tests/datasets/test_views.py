import cv2
import numpy as np
import torch

from cad.datasets.pairs import find_pairs
from cad.datasets.views import ViewDataset, ViewSampler, augment, resize_pair, view_generator


def test_resizing_is_bilinear_for_the_image_and_nearest_for_the_mask():
    image = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    mask = np.array([[0, 0, 1, 1]] * 4, np.uint8)
    resized_image, resized_mask = resize_pair(image, mask, 8)
    assert np.array_equal(resized_image, cv2.resize(image, (8, 8), interpolation=cv2.INTER_LINEAR))
    assert resized_mask.tolist() == [[0] * 4 + [1] * 4] * 8


def test_a_view_is_a_pure_function_of_seed_name_and_number(pair_folders):
    dataset = ViewDataset(find_pairs(*pair_folders), image_size=32, seed=21)
    again = ViewDataset(find_pairs(*pair_folders), image_size=32, seed=21)
    for view in (3, 0, 1):
        for key in ("image", "mask"):
            assert torch.equal(dataset[(2, view)][key], again[(2, view)][key])
    views = [dataset[(2, view)]["image"] for view in range(12)]
    assert any(not torch.equal(views[0], view) for view in views)
    other_seed = ViewDataset(dataset.pairs, image_size=32, seed=22)
    assert any(not torch.equal(other_seed[(2, v)]["image"], views[v]) for v in range(12))


def test_view_0_is_the_image_as_it_is(pair_folders):
    dataset = ViewDataset(find_pairs(*pair_folders), image_size=32, seed=21)
    item = dataset[(0, 0)]
    assert item["image"].shape == (3, 32, 32) and item["image"].dtype == torch.uint8
    assert set(item["mask"].unique().tolist()) == {0, 1}
    assert item["name"] == "photo_0"
    assert torch.equal(item["image"], ViewDataset(dataset.pairs, 32, seed=99)[(0, 0)]["image"])


def test_half_of_the_views_are_augmented_and_mask_follows_image():
    # A disc of brightness 200 on black: wherever the image is bright, the mask must be foreground.
    rows, columns = torch.meshgrid(torch.arange(64), torch.arange(64), indexing="ij")
    mask = ((rows - 20) ** 2 + (columns - 26) ** 2 < 100).to(torch.uint8).unsqueeze(0)
    image = mask.expand(3, -1, -1) * 200
    changed = 0
    for view in range(200):
        moved_image, moved_mask = augment(image, mask, view_generator("disc", 21, view))
        assert moved_image.dtype == moved_mask.dtype == torch.uint8
        disagreement = ((moved_image[0] > 100) != moved_mask[0].bool()).sum().item()
        assert disagreement <= 12, view  # rounding along the outline
        changed += not torch.equal(moved_image, image)
    assert 70 < changed < 115


def test_borders_are_reflections_not_black():
    image = torch.full((3, 64, 64), 180, dtype=torch.uint8)
    mask = torch.ones(1, 64, 64, dtype=torch.uint8)
    for view in range(40):
        moved_image, moved_mask = augment(image, mask, view_generator("flat", 0, view))
        assert moved_image.min() >= 179 and moved_mask.min() == 1


def test_training_order_is_shuffled_by_seed_and_epoch():
    sampler = ViewSampler(10, seed=21, shuffle=True, views=4)
    sampler.epoch = 3
    first = list(sampler)
    assert sorted(index for index, _ in first) == list(range(10))
    assert {view for _, view in first} == {3}
    assert list(sampler) == first
    sampler.epoch = 4
    assert [index for index, _ in sampler] != [index for index, _ in first]


def test_evaluation_keeps_the_order_and_shows_view_0():
    sampler = ViewSampler(3, seed=21, shuffle=False)
    assert list(sampler) == [(0, 0), (1, 0), (2, 0)]
    assert sampler.views_shown(epochs=5) == [0]


def test_epochs_take_turns_with_the_views():
    sampler = ViewSampler(2, seed=21, shuffle=True, views=3)
    shown = []
    for sampler.epoch in range(1, 8):
        shown.append(next(view for _, view in sampler))
    assert shown == [1, 2, 3, 1, 2, 3, 1]
    assert sampler.views_shown(epochs=7) == [1, 2, 3] and sampler.views_shown(epochs=2) == [1, 2]
    plain = ViewSampler(2, seed=21, shuffle=True, views=0)
    plain.epoch = 5
    assert {view for _, view in plain} == {0} and plain.views_shown(epochs=5) == [0]
