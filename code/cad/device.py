"""Which device a run uses, and how much of its memory it took."""

import os
import resource
import sys

import torch

from cad.errors import UserError


def pick_own_device(name: str, local_rank: int) -> torch.device:
    """The device of one of several processes: its own GPU, or the CPU.

    Args:
        local_rank: the number of this process on its machine.

    Raises:
        UserError: too few GPUs, or a device that several processes cannot train on.
    """
    if name not in ("auto", "cpu", "cuda"):
        raise UserError(f"--device {name}: several processes take --device auto, cuda or cpu")
    if name == "cpu" or not torch.cuda.is_available():
        return pick_device(name)
    if local_rank >= torch.cuda.device_count():
        raise UserError(f"process {local_rank + 1} of this machine has no GPU: it has {torch.cuda.device_count()}")
    device = torch.device("cuda", local_rank)
    torch.cuda.set_device(device)  # what other threads and libraries take by default
    return device


def pick_device(name: str) -> torch.device:
    """The device of that name; "auto" is the first of CUDA, Apple's MPS and the CPU that is there, and says so.

    Raises:
        UserError: an unknown name, or a device that is not there.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        if torch.backends.mps.is_available():
            return torch.device("mps")
        print("no GPU found: running on the CPU")
        return torch.device("cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"--device {name}: not available here ({reason}); try --device auto or cpu") from error
    return device


def describe_memory(device: torch.device) -> str:
    """The peak of this process: tensors on a CUDA device, else the resident set of the host."""
    if device.type == "cuda":
        return f"{torch.cuda.max_memory_allocated(device) / 2**20:.0f} MiB of CUDA tensors"
    unit = 1 if sys.platform == "darwin" else 1024  # Linux counts in KiB
    return f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20:.0f} MiB resident on the host"


def total_memory(device: torch.device) -> int:
    """Bytes of memory that a CUDA device has, or the host for any other."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
