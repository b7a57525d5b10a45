import errno

import numpy as np
import pytest
import torch

from cad.datasets.pairs import find_pairs
from cad.datasets.views import ViewDataset
from cad.encoders.feature_cache import CACHE_DTYPES, CachedViews, EmbeddingCache, MissingEmbeddings, encoder_input
from cad.errors import UserError

SHAPE = (3, 4, 4)
INPUT = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)


def cache_in(folder, dtype="fp32", encoder="sha", precision="fp32"):
    return EmbeddingCache(folder, SHAPE, dtype, encoder, precision)


def same_size(image):
    return image


@pytest.mark.parametrize("dtype", CACHE_DTYPES)
def test_what_is_stored_comes_back_in_its_type(tmp_path, dtype):
    cache = cache_in(tmp_path, dtype)
    embedding = torch.randn(SHAPE, generator=torch.Generator().manual_seed(0))
    cache.store(cache.key(INPUT), embedding)
    found = cache.load(cache.key(INPUT))
    assert found.dtype == CACHE_DTYPES[dtype]
    assert torch.equal(found, embedding.to(CACHE_DTYPES[dtype]))
    (entry,) = tmp_path.rglob("*.embedding")
    assert entry.stat().st_size == cache.entry_bytes


def test_the_key_follows_from_everything_that_the_embedding_follows_from(tmp_path):
    changed = INPUT.copy()
    changed[0, 0, 0] += 1
    keys = [
        cache_in(tmp_path).key(INPUT),
        cache_in(tmp_path).key(changed),
        cache_in(tmp_path).key(INPUT.reshape(2, 8, 3)),
        cache_in(tmp_path, encoder="other").key(INPUT),
        cache_in(tmp_path, precision="bf16").key(INPUT),
        cache_in(tmp_path, dtype="fp16").key(INPUT),
    ]
    assert len(set(keys)) == len(keys)
    assert cache_in(tmp_path / "elsewhere").key(INPUT.copy()) == keys[0]


def test_a_damaged_entry_counts_as_missing(tmp_path):
    cache = cache_in(tmp_path)
    key = cache.key(INPUT)
    assert cache.load(key) is None
    cache.store(key, torch.ones(SHAPE))
    (entry,) = tmp_path.rglob("*.embedding")
    whole = entry.read_bytes()
    flipped = bytearray(whole)
    flipped[40] ^= 1
    for damaged in (b"", whole[:-1], whole + b"x", bytes(flipped)):
        entry.write_bytes(damaged)
        assert cache.load(key) is None
    cache.store(key, torch.ones(SHAPE))
    assert torch.equal(cache.load(key), torch.ones(SHAPE))


def test_a_full_disk_is_one_line_and_leaves_a_usable_cache(tmp_path, monkeypatch):
    cache = cache_in(tmp_path)
    first, second = cache.key(INPUT), cache.key(INPUT + 1)
    cache.store(first, torch.ones(SHAPE))

    def full(self, target):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("pathlib.Path.replace", full)
    with pytest.raises(UserError, match="No space left on device"):
        cache.store(second, torch.ones(SHAPE))
    assert torch.equal(cache.load(first), torch.ones(SHAPE))
    assert cache.load(second) is None
    assert len([file for file in tmp_path.rglob("*") if file.is_file()]) == 1


def test_a_folder_that_cannot_be_made_names_the_flag(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"--cache_dir .*file: cannot be written"):
        cache_in(tmp_path / "file").store("ab12", torch.ones(SHAPE))


def test_only_missing_embeddings_have_an_encoder_input(tmp_path, pair_folders):
    views = ViewDataset(find_pairs(*pair_folders), image_size=4, seed=21)
    cache = cache_in(tmp_path / "cache")
    missing = MissingEmbeddings(views, [(0, 0), (1, 0), (2, 0)], cache, same_size)
    items = [missing[position] for position in range(3)]
    assert torch.equal(items[1]["encoder_input"], views[(1, 0)]["image"])
    cache.store(items[1]["key"], torch.ones(SHAPE))
    assert [missing[position]["encoder_input"] is None for position in range(3)] == [False, True, False]


def test_cached_views_carry_their_embedding_and_notice_a_changed_image(tmp_path, pair_folders):
    views = ViewDataset(find_pairs(*pair_folders), image_size=4, seed=21)
    cache = cache_in(tmp_path / "cache")
    cached = CachedViews(views, cache, same_size)
    key = cache.key(encoder_input(views[(2, 1)]["image"], same_size))
    cache.store(key, torch.full(SHAPE, 7.0))
    item = cached[(2, 1)]
    assert torch.equal(item["embedding"], torch.full(SHAPE, 7.0))
    assert torch.equal(item["image"], views[(2, 1)]["image"])
    (pair_folders[0] / "photo_2.jpg").write_bytes((pair_folders[0] / "photo_1.jpg").read_bytes())
    with pytest.raises(UserError, match=r"photo_2.jpg: its embedding is no longer in"):
        cached[(2, 1)]
