import numpy as np
import pytest
import torch
import torch.nn.functional as F

from cad.prediction.tiles import add_tile, lay_tiles, spans, upsample


@pytest.mark.parametrize(("length", "side", "overlap"), [(100, 100, 30), (101, 100, 30), (100, 32, 8), (100, 32, 31)])
def test_spans_cover_an_axis_and_their_weights_sum_to_one(length, side, overlap):
    tiles = spans(length, side, overlap)
    total = np.zeros(length)
    for tile in tiles:
        assert len(tile.weights) == side and (tile.weights > 0).all()
        total[tile.pixels] += tile.weights
    assert np.allclose(total, 1, atol=1e-6)
    ends = [tile.start + side for tile in tiles]
    assert tiles[0].start == 0 and ends[-1] == length
    assert all(end - after.start >= overlap for end, after in zip(ends, tiles[1:], strict=False))


def test_as_few_tiles_as_cover_the_axis():
    assert [tile.start for tile in spans(100, 40, 10)] == [0, 30, 60]
    assert [tile.start for tile in spans(101, 40, 10)] == [0, 20, 41, 61]


def test_weights_rise_in_the_overlap_only():
    first, last = spans(24, 16, 8)
    ramp = (np.arange(8) + 0.5) / 8
    assert np.allclose(first.weights, [*np.ones(8), *ramp[::-1]]) and np.allclose(last.weights, [*ramp, *np.ones(8)])


def test_without_overlap_tiles_share_nothing():
    assert all((tile.weights == 1).all() for tile in spans(64, 16, 0))


def test_a_tile_is_never_larger_than_the_image():
    (tile,) = lay_tiles(30, 50, 64, 8)
    assert (len(tile.rows.weights), len(tile.columns.weights)) == (30, 50)
    assert len(lay_tiles(30, 100, 64, 8)) == 2 and len(lay_tiles(3000, 100, None, 0)) == 1


def test_upsampling_is_that_of_an_evaluation():
    logits = np.random.default_rng(0).normal(size=(16, 16)).astype(np.float32)
    expected = F.interpolate(torch.from_numpy(logits)[None, None], (37, 20), mode="bilinear", align_corners=False)
    assert np.array_equal(upsample(logits, 37, 20), expected[0, 0].numpy())
    assert upsample(logits, 16, 16) is logits


def test_tiles_of_a_constant_give_the_constant():
    canvas = np.zeros((70, 90), np.float32)
    for tile in lay_tiles(70, 90, 32, 12):
        add_tile(canvas, tile, np.full((16, 16), 2.5, np.float32))
    assert np.allclose(canvas, 2.5, atol=1e-5)
