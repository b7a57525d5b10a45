import pytest
import torch

from cad.device import describe_memory, pick_device, pick_own_device
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


def test_each_of_several_processes_has_its_own_gpu(monkeypatch):
    chosen = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    assert [pick_own_device(name, rank) for name, rank in (("auto", 0), ("cuda", 1))] == [
        torch.device("cuda", 0),
        torch.device("cuda", 1),
    ]
    assert chosen == [torch.device("cuda", 0), torch.device("cuda", 1)]
    with pytest.raises(UserError, match="process 3 of this machine has no GPU: it has 2"):
        pick_own_device("auto", 2)
    for name in ("cuda:0", "mps"):
        with pytest.raises(UserError, match=f"--device {name}: several processes take --device auto, cuda or cpu"):
            pick_own_device(name, 0)
    assert pick_own_device("cpu", 1) == torch.device("cpu")
