"""Several processes that train one model, through torch.distributed: who is who, and the sums that they share.

`torchrun` starts the processes and tells each its number in the environment. Every process holds the same weights and
sees its share of each batch; what has to be summed over a batch is summed over processes here. Started alone, a process
is the first of one, and every function here returns what it is given.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from cad.errors import UserError

T = TypeVar("T")
# One process may check files or encode images for hours while the others wait. A process that dies ends all of them
# without this: torchrun sees it.
TIMEOUT = timedelta(days=1)


def processes() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """The number of this process, from 0."""
    return dist.get_rank() if processes() > 1 else 0


def is_first() -> bool:
    """Whether this is the process that prints, logs and saves."""
    return rank() == 0


def started_by_torchrun() -> bool:
    """Whether this process is one of several, or the one, that torchrun started."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def local_rank() -> int:
    """The number of this process on its machine, which is that of its GPU."""
    return int(os.environ.get("LOCAL_RANK", "0"))


@contextmanager
def process_group() -> Iterator[None]:
    """Join the processes that torchrun started, with NCCL for CUDA tensors and gloo for others; alone it does nothing.

    All but the first print nothing on standard output.
    """
    if not started_by_torchrun():
        yield
        return
    dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo", timeout=TIMEOUT)
    stdout = sys.stdout
    try:
        if is_first():
            yield
        else:
            with Path(os.devnull).open("w") as sys.stdout:
                yield
        dist.destroy_process_group()  # after an error it might wait for processes that wait for this one
    except RuntimeError as error:
        if "peer" not in str(error):
            raise
        raise UserError("another process ended; its error is above or below") from error
    finally:
        sys.stdout = stdout


def sum_over_processes(values: Tensor) -> Tensor:
    """The sum of a tensor over all processes, in place."""
    if processes() > 1:
        dist.all_reduce(values)
    return values


def sum_gradients(parameters: list[nn.Parameter]) -> None:
    """Replace the gradient of each parameter by its sum over all processes; one that is missing counts as 0."""
    if processes() > 1:
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        flat = sum_over_processes(torch.cat([gradient.flatten() for gradient in gradients]))
        for parameter, total in zip(parameters, flat.split([p.numel() for p in parameters]), strict=True):
            parameter.grad = total.view_as(parameter)


def gather(value: T) -> list[T]:
    """The plain values of all processes, in the order of their ranks."""
    if processes() == 1:
        return [value]
    values: list[T | None] = [None] * processes()
    dist.all_gather_object(values, value)
    return values  # type: ignore[return-value]  # all of them are there by now


def from_first(value: T) -> T:
    """The first process's plain value, for all; the others wait for it."""
    if processes() == 1:
        return value
    values = [value]
    dist.broadcast_object_list(values, src=0)
    return values[0]
