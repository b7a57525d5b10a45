import pytest
import torch

from cad.adapters.conv_adapter import ConvAdapter
from cad.adapters.high_resolution import added_to_upscaling, resized
from cad.encoders.sam import SAM_SIZES, build_random_sam

ROW = torch.tensor([0.0, 2.0, 4.0, 6.0])
MAP = ROW.expand(1, 1, 4, 4)


def test_maps_of_the_right_size_stay_as_they_are():
    assert resized(MAP, 4) is MAP


def test_maps_shrink_by_averaging_and_grow_bilinearly():
    assert resized(MAP, 2)[0, 0].tolist() == [[1.0, 5.0], [1.0, 5.0]]
    assert resized(MAP, 8)[0, 0, 0].tolist() == [0.0, 0.5, 1.5, 2.5, 3.5, 4.5, 5.5, 6.0]
    assert resized(MAP[:0], 8).shape == (0, 1, 8, 8) and resized(MAP[:0], 2).shape == (0, 1, 2, 2)


@pytest.fixture
def decoder():
    return build_random_sam(SAM_SIZES["vit_demo"], seed=1).mask_decoder


def test_maps_are_added_before_layer_norm_and_before_the_last_activation(decoder):
    torch.manual_seed(0)
    embedding, first, second = torch.randn(3, 64, 4, 4), torch.randn(1, 16, 8, 8), torch.randn(1, 8, 16, 16)
    step1, norm, activation1, step2, activation2 = decoder.output_upscaling
    with added_to_upscaling(decoder, (first, second)):
        found = decoder.output_upscaling(embedding)
    expected = activation2(step2(activation1(norm(step1(embedding) + first))) + second)
    assert torch.equal(found, expected)


def test_nothing_is_left_behind(decoder):
    embedding = torch.randn(1, 64, 4, 4)
    before = decoder.output_upscaling(embedding)
    with pytest.raises(RuntimeError), added_to_upscaling(decoder, (torch.ones(1, 16, 8, 8), torch.ones(1, 8, 9, 9))):
        decoder.output_upscaling(embedding)
    with added_to_upscaling(decoder, ()):
        assert torch.equal(decoder.output_upscaling(embedding), before)
    assert torch.equal(decoder.output_upscaling(embedding), before)


def adapter(high_resolution):
    torch.manual_seed(0)
    return ConvAdapter(channels=8, grid=4, high_resolution=high_resolution)


def test_weights_of_cad_load_as_a_path_that_adds_nothing():
    path, other = adapter(high_resolution=True), adapter(high_resolution=False)
    torch.nn.init.ones_(path.hires1.weight)
    torch.nn.init.ones_(other.conv_up.weight)
    state = other.state_dict()
    path.load_state_dict(state, strict=True)
    assert not path.hires1.weight.any() and not path.hires2.weight.any()
    assert set(state) == set(path.state_dict()) - {"hires1.weight", "hires2.weight"}
    assert torch.equal(path.conv_up.weight, other.conv_up.weight)


def test_but_not_the_other_way_round_and_not_by_half():
    path, other = adapter(high_resolution=True), adapter(high_resolution=False)
    with pytest.raises(RuntimeError, match=r"Unexpected key.*hires1.weight"):
        other.load_state_dict(path.state_dict(), strict=True)
    half = {name: value for name, value in path.state_dict().items() if name != "hires2.weight"}
    with pytest.raises(RuntimeError, match=r"Missing key.*hires2.weight"):
        path.load_state_dict(half, strict=True)
