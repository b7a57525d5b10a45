"""Counting the memory of tensors, on any device and without one."""

import weakref
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary

# torch.tensor and torch.as_tensor make their storage before the dispatcher hears of it, and hand it over here.
HANDED_OVER = (torch.ops.aten.lift_fresh.default, torch.ops.aten.lift.default)


class LiveStorages(TorchDispatchMode):
    """Count the bytes of tensor storages that are made while this mode is active.

    A storage counts once, however many views share it, from the operator that makes it until it is freed. Storages from
    before do not count, nor do temporaries inside an operator's kernel. Inside FakeTensorMode nothing is computed or
    allocated, and the numbers are the same.

        with LiveStorages() as storages:
            loss = model(images).sum()
            held = storages.current_bytes
            loss.backward()
        print(storages.peak_bytes)

    Attributes:
        current_bytes: bytes alive now.
        peak_bytes: most bytes alive at once so far.
        largest_bytes: size of the largest storage made so far.
    """

    def __init__(self) -> None:
        super().__init__()
        self.current_bytes = 0
        self.peak_bytes = 0
        self.largest_bytes = 0
        self._counted = WeakIdKeyDictionary()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        new = [storage for storage in _storages(result) if storage not in self._counted]
        if new:  # looking through the arguments takes long, and most results are views of what is counted already
            before = set() if func in HANDED_OVER else {id(storage) for storage in _storages((args, kwargs))}
            for storage in new:
                if id(storage) not in before and storage not in self._counted:
                    self._count(storage)
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        size = storage.nbytes()
        self._counted[storage] = size
        self.current_bytes += size
        self.peak_bytes = max(self.peak_bytes, self.current_bytes)
        self.largest_bytes = max(self.largest_bytes, size)
        weakref.finalize(storage, self._free, size)

    def _free(self, size: int) -> None:
        self.current_bytes -= size


def _storages(values: Any) -> list[torch.UntypedStorage]:
    return [leaf.untyped_storage() for leaf in tree_leaves(values) if isinstance(leaf, Tensor)]
