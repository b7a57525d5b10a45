import pytest
import torch
from golden_values import assert_close, golden, gradient_weights, under

from cad.adapters.conv_adapter import ConvAdapter
from cad.adapters.conv_block import adapter_input, divide_by_peak


@pytest.mark.parametrize("execution", ["lean", "plain"])
@pytest.mark.parametrize("size", ["s128", "s96"])
def test_equals_the_golden_values(size, execution):
    values = golden("conv_adapter")
    adapter = ConvAdapter(channels=8, grid=64, execution=execution).double()
    adapter.load_state_dict(under(values, "state"), strict=True)

    output = adapter.train()(values[f"{size}.input"])
    assert_close(output, values[f"{size}.train.output"], 1e-9)
    (output * gradient_weights(output)).sum().backward()
    for name, expected in under(values, f"{size}.train.grad").items():
        if expected.norm() > 1e-6:
            assert_close(adapter.get_parameter(name).grad, expected, 1e-9, name)
    for name, expected in under(values, f"{size}.after_train").items():
        assert_close(adapter.get_buffer(name), expected, 1e-9, name)
    with torch.no_grad():
        assert_close(adapter.eval()(values[f"{size}.input"]), values[f"{size}.eval.output"], 1e-9)


def test_refuses_an_unknown_execution():
    with pytest.raises(ValueError, match="'fast' is unknown: use one of lean, plain"):
        ConvAdapter(channels=8, grid=4, execution="fast")


def test_has_the_published_number_of_parameters():
    assert sum(p.numel() for p in ConvAdapter(channels=256, grid=64).parameters()) == 1_773_568


def test_starts_from_zero_biases_and_unit_batch_norm():
    block = ConvAdapter(channels=8, grid=4).conv_block2
    assert block.conv.bias.abs().max() == 0
    assert (block.bn.weight == 1).all() and (block.bn.bias == 0).all()
    # Kaiming normal, fan-out: the standard deviation is sqrt(2 / (8 * 9)) = 0.167
    assert 0.12 < block.conv.weight.std() < 0.22


def test_the_peak_of_every_channel_becomes_one():
    inputs = torch.rand(2, 6, 8, 8) * 255
    assert torch.allclose(divide_by_peak(inputs).amax(dim=(-2, -1)), torch.ones(2, 6), atol=1e-6)
    assert divide_by_peak(torch.zeros(1, 6, 8, 8)).abs().max() == 0


def test_the_input_is_the_image_and_its_high_frequencies():
    images = torch.rand(1, 3, 16, 16) * 255
    inputs = adapter_input(images)
    assert torch.equal(inputs[:, :3], images)
    assert inputs[:, 3:].min() >= 0
