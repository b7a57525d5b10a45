import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from cad.training.memory.live_storages import LiveStorages

KIB = 1024


@pytest.fixture(params=["real", "fake"])
def mode(request):
    """Tensors are computed, or only described."""
    with FakeTensorMode() if request.param == "fake" else torch.no_grad():
        yield


def kibibyte() -> torch.Tensor:
    return torch.zeros(256, dtype=torch.float32)


def test_counts_what_is_alive(mode):
    with LiveStorages() as storages:
        first = kibibyte()
        second = first + 1
        assert (storages.current_bytes, storages.peak_bytes) == (2 * KIB, 2 * KIB)
        del first
        assert (storages.current_bytes, storages.peak_bytes) == (KIB, 2 * KIB)
        third = second.double()
        assert (storages.current_bytes, storages.peak_bytes) == (3 * KIB, 3 * KIB)
    del second, third
    assert (storages.current_bytes, storages.peak_bytes) == (0, 3 * KIB)


def test_views_and_in_place_results_share_a_storage(mode):
    with LiveStorages() as storages:
        first = kibibyte()
        view = first.view(16, 16)[3:]
        first.add_(1)
        del first
        assert storages.current_bytes == KIB
        del view
        assert storages.current_bytes == 0


def test_temporaries_reach_the_peak_alone(mode):
    with LiveStorages() as storages:
        result = (kibibyte() + 1) * 2
        assert result.shape == (256,)
        assert (storages.current_bytes, storages.peak_bytes) == (KIB, 2 * KIB)


def test_what_was_there_before_does_not_count(mode):
    before = kibibyte()
    with LiveStorages() as storages:
        before.add_(1)
        view = before[:16]
        assert storages.current_bytes == 0
        assert (view + 1).numel() == 16
        assert storages.peak_bytes == 64


def test_tensors_made_from_values_count():
    with LiveStorages() as storages:
        values = torch.tensor([1.0, 2.0])
        assert storages.current_bytes == values.nbytes == 8


def test_backward_frees_what_forward_kept():
    weight = torch.ones(256, requires_grad=True)
    with LiveStorages() as storages:
        loss = weight.exp().square().sum()
        # exp keeps its result and square its input, the same tensor; the square itself is gone, the sum has 4 bytes.
        assert storages.current_bytes == KIB + 4
        loss.backward()
        assert storages.current_bytes == KIB + 4  # the gradient, in place of what was kept
