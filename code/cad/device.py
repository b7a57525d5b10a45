"""Which device a run uses, and how much of its memory it took."""

import os
import resource
import sys

import torch

from cad.errors import UserError


def pick_device(name: str, local_rank: int = 0) -> torch.device:
    """The device of that name; "auto" is the first of CUDA, Apple's MPS and the CPU that is there, and says so.

    Args:
        local_rank: the number of this process on its machine: which CUDA device "auto" and "cuda" mean.

    Raises:
        UserError: an unknown name, or a device that is not there.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda", local_rank)
        if torch.backends.mps.is_available():
            return torch.device("mps")
        print("no GPU found: running on the CPU")
        return torch.device("cpu")
    try:
        device = torch.device(name)
        if device.type == "cuda" and device.index is None:
            device = torch.device("cuda", local_rank)
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
