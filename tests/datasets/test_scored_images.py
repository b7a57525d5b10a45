import numpy as np
import torch
from PIL import Image

from cad.datasets.pairs import find_pairs
from cad.datasets.scored_images import ScoredImages, collate_scored, resize_mask
from cad.datasets.views import ViewDataset


def test_at_the_image_size_it_is_the_unaugmented_view(pair_folders):
    pairs = find_pairs(*pair_folders)
    scored, views = ScoredImages(pairs, 32, 32), ViewDataset(pairs, 32, seed=0)
    for index in range(len(pairs)):
        assert torch.equal(scored[index]["image"], views[index, 0]["image"])
        assert torch.equal(scored[index]["mask"], views[index, 0]["mask"][0])


def test_masks_keep_their_own_size_and_batches_their_masks(pair_folders):
    Image.new("RGB", (10, 6)).save(pair_folders[0] / "photo_1.jpg")
    Image.new("L", (10, 6), 60).save(pair_folders[1] / "photo_1.png")
    scored = ScoredImages(find_pairs(*pair_folders), 16, None)
    batch = collate_scored([scored[0], scored[1]])
    assert batch["image"].shape == (2, 3, 16, 16)
    assert [mask.shape for mask in batch["mask"]] == [(32, 40), (6, 10)]
    assert batch["name"] == ["photo_0", "photo_1"] and batch["mask"][1].all()


def test_masks_are_resized_to_the_nearest_pixel():
    mask = np.array([[0, 1], [1, 1]], np.uint8)
    assert resize_mask(mask, 4).tolist() == [[0, 0, 1, 1]] * 2 + [[1, 1, 1, 1]] * 2
    assert resize_mask(mask, None) is mask
