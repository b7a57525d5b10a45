import numpy as np
from conftest import write_pairs

from cad.datasets.pairs import find_pairs
from cad.evaluation.kept_maps import EvaluationPictures, KeptMaps, map_path, write_picture


def test_image_truth_and_prediction_have_the_metric_size(tmp_path, pair_folders):
    maps = KeptMaps(tmp_path / "eval", save_masks=False)
    maps.start("cad")
    predicted = np.arange(16 * 16, dtype=np.uint8).reshape(16, 16)
    write_picture(maps.paths("cad", "photo_0")[0], predicted)
    pictures = EvaluationPictures(tmp_path / "eval", find_pairs(*pair_folders), metric_size=16)
    assert pictures.image("photo_0").shape == (16, 16, 3) and pictures.image("photo_0").dtype == np.uint8
    assert pictures.truth("photo_0").shape == (16, 16) and set(np.unique(pictures.truth("photo_0"))) == {0, 1}
    assert np.array_equal(pictures.probability("cad", "photo_0"), predicted)


def test_at_the_original_size_the_long_side_is_at_most_512(tmp_path):
    pairs = find_pairs(*write_pairs(tmp_path, count=1, size=(1024, 300)))
    map_path(tmp_path, "cad", "photo_0").parent.mkdir(parents=True)
    write_picture(map_path(tmp_path, "cad", "photo_0"), np.full((300, 1024), 200, np.uint8))
    pictures = EvaluationPictures(tmp_path, pairs, metric_size=None)
    assert pictures.image("photo_0").shape == (150, 512, 3)
    assert pictures.truth("photo_0").shape == pictures.probability("cad", "photo_0").shape == (150, 512)


def test_maps_stay_only_if_they_are_to_be_kept(tmp_path):
    for save_masks in (False, True):
        maps = KeptMaps(tmp_path / str(save_masks), save_masks)
        maps.start("cad")
        probability, mask = maps.paths("cad", "a")
        assert (mask is not None) == save_masks
        write_picture(probability, np.zeros((2, 2), np.uint8))
        maps.finish()
        assert probability.exists() == save_masks
