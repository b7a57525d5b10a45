import pytest
import torch
from golden_values import assert_close, golden

from cad.adapters.high_frequency import high_frequency


@pytest.mark.parametrize("shape", ["square", "wide"])
@pytest.mark.parametrize("tau", [0.25, 0.5])
def test_equals_the_golden_values(shape, tau):
    values = golden("high_frequency")
    assert_close(high_frequency(values[f"{shape}.input"], tau), values[f"{shape}.output_tau_{tau}"], 1e-9)


def test_a_flat_image_has_no_high_frequencies():
    assert high_frequency(torch.full((1, 3, 16, 16), 200.0)).abs().max() < 1e-4
