import pytest
import torch

from cad.device import describe_memory, pick_device
from cad.errors import UserError


def test_auto_falls_back_to_the_cpu_and_says_so(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert pick_device("auto") == torch.device("cpu")
    assert "running on the CPU" in capsys.readouterr().out


def test_a_wrong_or_absent_device_is_named():
    with pytest.raises(UserError, match="--device gpu: not available here"):
        pick_device("gpu")
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match="--device cuda:3: not available here"):
            pick_device("cuda:3")


def test_host_memory_is_said_in_mib():
    assert 50 < int(describe_memory(torch.device("cpu")).split()[0]) < 100_000
