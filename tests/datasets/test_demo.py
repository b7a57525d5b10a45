import numpy as np
import pytest

from cad.datasets.demo import DEMO_TASKS, prepare_demo
from cad.datasets.pairs import check_pairs, find_pairs, read_image, read_mask
from cad.errors import UserError

SMALL = {"train": 3, "test": 2}


@pytest.mark.parametrize("task", DEMO_TASKS)
def test_the_demo_is_ordinary_folders_of_sound_pairs(tmp_path, task):
    folder = prepare_demo(tmp_path, task, counts=SMALL)
    for split, count in SMALL.items():
        pairs = find_pairs(folder / split / "image", folder / split / "mask")
        assert len(pairs) == count
        check_pairs(pairs, progress=False)
        for pair in pairs:
            assert read_image(pair.image).shape == (256, 256, 3)
            assert 0.03 < read_mask(pair.mask).mean() < 0.4


def test_it_is_seeded_and_written_once(tmp_path):
    first = prepare_demo(tmp_path / "a", "shadow", seed=1, counts=SMALL) / "train" / "image" / "shadow_000.jpg"
    again = prepare_demo(tmp_path / "b", "shadow", seed=1, counts=SMALL) / "train" / "image" / "shadow_000.jpg"
    other = prepare_demo(tmp_path / "c", "shadow", seed=2, counts=SMALL) / "train" / "image" / "shadow_000.jpg"
    assert first.read_bytes() == again.read_bytes() != other.read_bytes()
    written = first.stat().st_mtime_ns
    prepare_demo(tmp_path / "a", "shadow", seed=1, counts=SMALL)
    assert first.stat().st_mtime_ns == written


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"file: the demo cannot be written there"):
        prepare_demo(tmp_path / "file", "shadow", counts=SMALL)


def test_a_shadow_is_darker_than_its_surroundings(tmp_path):
    folder = prepare_demo(tmp_path, "shadow", counts=SMALL)
    for pair in find_pairs(folder / "train" / "image", folder / "train" / "mask"):
        image, mask = read_image(pair.image).mean(axis=2), read_mask(pair.mask).astype(bool)
        assert image[mask].mean() < 0.75 * image[~mask].mean()


def test_camouflage_has_the_brightness_of_its_surroundings(tmp_path):
    folder = prepare_demo(tmp_path, "camouflage", counts={"train": 6, "test": 1})
    for pair in find_pairs(folder / "train" / "image", folder / "train" / "mask"):
        image, mask = read_image(pair.image).mean(axis=2), read_mask(pair.mask).astype(bool)
        assert np.abs(image[mask].mean() - image[~mask].mean()) < 0.25 * image.mean()
