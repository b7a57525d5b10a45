"""Frozen image embeddings on disk, so that each view of an image goes through SAM's encoder once.

The key of an embedding is a hash of everything it follows from: the encoder's input bytes, the encoder's weights, the
precision it ran in and the type it is kept in. A changed image, checkpoint or flag has another key, so that nothing is
ever served stale. Entries are checksummed: a damaged one counts as missing and is made again.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from cad.datasets.views import ViewDataset
from cad.errors import UserError
from cad.files import write_atomically

CACHE_DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}
_VERSION = "1"  # part of every key; raise it when the meaning of an embedding changes
_CHECKSUM_BYTES = 16


@dataclass(frozen=True)
class EmbeddingCache:
    """A folder of embeddings.

    Args:
        folder: may be shared between runs and grow over time.
        shape: (C, G, G) of one embedding.
        dtype: a key of `CACHE_DTYPES`, the type kept on disk.
        encoder: what identifies the encoder's weights, such as their SHA-256.
        precision: what the encoder runs in, such as "fp32".
    """

    folder: Path
    shape: tuple[int, int, int]
    dtype: str
    encoder: str
    precision: str

    @property
    def entry_bytes(self) -> int:
        """Size of one entry on disk."""
        return int(np.prod(self.shape)) * CACHE_DTYPES[self.dtype].itemsize + _CHECKSUM_BYTES

    def key(self, encoder_input: np.ndarray) -> str:
        """The name of the embedding of an encoder input (E, E, 3) uint8."""
        digest = hashlib.blake2b(digest_size=20)
        digest.update(f"{_VERSION} {self.encoder} {self.precision} {self.dtype} {encoder_input.shape}".encode())
        digest.update(np.ascontiguousarray(encoder_input).data)
        return digest.hexdigest()

    def load(self, key: str) -> Tensor | None:
        """The embedding (C, G, G), or None where it is missing or damaged."""
        try:
            content = bytearray(self._path(key).read_bytes())
        except FileNotFoundError:
            return None
        except OSError as error:
            raise UserError(f"{self._path(key)}: cannot be read: {error.strerror}") from error
        if (
            len(content) != self.entry_bytes
            or _checksum(memoryview(content)[_CHECKSUM_BYTES:]) != content[:_CHECKSUM_BYTES]
        ):
            return None
        embedding = torch.frombuffer(content, dtype=torch.uint8, offset=_CHECKSUM_BYTES)
        return embedding.view(CACHE_DTYPES[self.dtype]).view(self.shape)

    def store(self, key: str, embedding: Tensor) -> None:
        """Keep an embedding (C, G, G); other processes see it whole or not at all.

        Raises:
            UserError: the disk is full, or the folder cannot be written. What was stored before stays usable.
        """
        kept = embedding.detach().to("cpu", CACHE_DTYPES[self.dtype]).contiguous()
        payload = kept.view(-1).view(torch.uint8).numpy().data
        path = self._path(key)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"--cache_dir {self.folder}: cannot be written: {error.strerror}") from error

        def write(file: Any) -> None:
            file.write(_checksum(payload))
            file.write(payload)

        write_atomically(path, write, durable=False)  # it can be made again, and the checksum tells

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.embedding"


def _checksum(payload: Any) -> bytes:
    return hashlib.blake2b(payload, digest_size=_CHECKSUM_BYTES).digest()


class CachedViews(Dataset[dict[str, Any]]):
    """Views with their embeddings: what `ViewDataset` gives, and "embedding" (C, G, G) from the cache.

    Args:
        resize: image (S, S, 3) uint8 -> encoder input (E, E, 3) uint8.
    """

    def __init__(self, views: ViewDataset, cache: EmbeddingCache, resize: Callable[[np.ndarray], np.ndarray]) -> None:
        self.views, self.cache, self.resize = views, cache, resize

    def __len__(self) -> int:
        return len(self.views)

    def __getitem__(self, index_and_view: tuple[int, int]) -> dict[str, Any]:
        view = self.views[index_and_view]
        embedding = self.cache.load(self.cache.key(encoder_input(view["image"], self.resize)))
        if embedding is None:
            raise UserError(
                f"{self.views.pairs[index_and_view[0]].image}: its embedding is no longer in {self.cache.folder}; the "
                "image or the cache changed during the run; start again"
            )
        return view | {"embedding": embedding}


class MissingEmbeddings(Dataset[dict[str, Any]]):
    """For each requested view its key, and the encoder's input where the cache has no sound embedding for it.

    Gives {"key": str, "encoder_input": (3, E, E) uint8 or None}.
    """

    def __init__(
        self,
        views: ViewDataset,
        requests: list[tuple[int, int]],
        cache: EmbeddingCache,
        resize: Callable[[np.ndarray], np.ndarray],
    ) -> None:
        self.views, self.requests, self.cache, self.resize = views, requests, cache, resize

    def __len__(self) -> int:
        return len(self.requests)

    def __getitem__(self, position: int) -> dict[str, Any]:
        array = encoder_input(self.views[self.requests[position]]["image"], self.resize)
        key = self.cache.key(array)
        found = self.cache.load(key) is not None
        return {"key": key, "encoder_input": None if found else torch.from_numpy(array.copy()).permute(2, 0, 1)}


def encoder_input(image: Tensor, resize: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Image (3, S, S) uint8 -> what the encoder sees, (E, E, 3) uint8."""
    return resize(image.permute(1, 2, 0).contiguous().numpy())
