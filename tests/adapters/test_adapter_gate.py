import pytest
import torch

from cad.adapters.adapter_gate import AdapterGate

EMBEDDINGS = torch.tensor([[[[0.0, 2.0]], [[4.0, 6.0]]], [[[0.0, 1.0]], [[2.0, 3.0]]]]).double()  # (2, 2, 1, 2)
CORRECTION = torch.full((2, 2, 1, 2), 0.5).double()


@pytest.mark.parametrize("kind", ["fixed", "scalar", "channel"])
def test_starts_as_the_published_scale(kind):
    found = AdapterGate(2, kind, 0.1).double()(EMBEDDINGS, CORRECTION)
    # A trained number is a float32.
    assert torch.allclose(found, EMBEDDINGS + 0.1 * CORRECTION, rtol=0, atol=0 if kind == "fixed" else 1e-8)


@pytest.mark.parametrize(
    ("kind", "gradient"), [("fixed", None), ("relative", None), ("scalar", [4.0]), ("channel", [2.0, 2.0])]
)
def test_trains_one_number_or_one_a_channel(kind, gradient):
    gate = AdapterGate(2, kind, 0.1).double()
    assert sum(parameter.numel() for parameter in gate.parameters()) == len(gradient or [])
    if gradient is not None:
        gate(EMBEDDINGS, CORRECTION).sum().backward()  # the sum of the correction
        assert gate.weight.grad.flatten().tolist() == gradient


def test_a_relative_scale_counts_in_standard_deviations_of_each_embedding():
    found = AdapterGate(2, "relative", 0.2)(EMBEDDINGS, CORRECTION) - EMBEDDINGS
    # Of 0, 2, 4, 6 and of 0, 1, 2, 3, with n - 1.
    expected = torch.tensor([(20 / 3) ** 0.5, (5 / 3) ** 0.5]).double() * 0.2 * 0.5
    assert torch.allclose(found, expected[:, None, None, None].expand_as(found))
