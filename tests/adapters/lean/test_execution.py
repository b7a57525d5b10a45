import copy

import pytest
import torch
from golden_values import assert_close, gradient_weights
from torch._subclasses.fake_tensor import FakeTensorMode

from cad.adapters.conv_adapter import ConvAdapter
from cad.adapters.lean import batch_norm as lean_batch_norm
from cad.adapters.lean.batch_norm import output_moments, row_bands
from cad.training.memory.live_storages import LiveStorages

MIB = 2**20
# A convolution's bias before BatchNorm moves nothing: its gradient is zero, in the plain execution plus rounding.
REMOVED_BY_BATCH_NORM = tuple(f"conv_block{i}.conv.bias" for i in (1, 2, 3))


@pytest.fixture(autouse=True)
def small_bands(monkeypatch):
    """Bands of a few rows, so that small images have several of them, the last one lower than the others."""
    monkeypatch.setattr(lean_batch_norm, "BAND_ELEMENTS", 600)


def plain_and_lean(channels=5, grid=4, dtype=torch.float64, seed=0):
    """The same adapter twice, with biases and BatchNorm away from their initial values."""
    torch.manual_seed(seed)
    plain = ConvAdapter(channels, grid, execution="plain").to(dtype)
    with torch.no_grad():
        for name, value in [*plain.named_parameters(), *plain.named_buffers()]:
            if "bn" in name or name.endswith("bias"):
                value += (0.3 * torch.rand(value.shape)).to(value.dtype)
    lean = copy.deepcopy(plain)
    lean.execution = "lean"
    return plain, lean


def with_high_resolution(channels=16, grid=4, dtype=torch.float64):
    """Such a pair with a high-resolution path, which no longer adds nothing."""
    torch.manual_seed(0)
    plain = ConvAdapter(channels, grid, execution="plain", high_resolution=True).to(dtype)
    for projection in plain.projections():
        torch.nn.init.normal_(projection.weight, std=0.3)
    lean = copy.deepcopy(plain)
    lean.execution = "lean"
    return plain, lean


def random_inputs(batch, height, width=None, dtype=torch.float64):
    return torch.rand(batch, 6, height, width or height, generator=torch.manual_seed(1), dtype=dtype) * 255


def run(adapter, inputs):
    """The output, the gradients of all parameters, and the buffers after it."""
    output = adapter(inputs)
    (output * gradient_weights(output).to(output)).sum().backward()
    return output.detach(), {name: p.grad for name, p in adapter.named_parameters()}, dict(adapter.named_buffers())


def assert_equal_runs(plain, lean, inputs, tolerance, gradient_tolerance=None):
    plain_output, plain_grads, plain_buffers = run(plain, inputs)
    lean_output, lean_grads, lean_buffers = run(lean, inputs)
    assert lean_output.dtype == plain_output.dtype and lean_output.is_contiguous()
    assert_close(lean_output, plain_output, tolerance, "output")
    largest = max(grad.abs().max().item() for grad in plain_grads.values())
    for name, expected in plain_grads.items():
        assert lean_grads[name].dtype == expected.dtype
        if lean.get_submodule(name.split(".")[0]).training and name in REMOVED_BY_BATCH_NORM:
            assert lean_grads[name].abs().max() <= 1e-12 * largest, name
        else:
            assert_close(lean_grads[name], expected, gradient_tolerance or tolerance, name)
    for name, expected in plain_buffers.items():
        assert_close(lean_buffers[name], expected, tolerance, name)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("batch", "height", "width"), [(2, 24, 24), (1, 40, 40), (3, 96, 96), (1, 8, 8), (2, 32, 56)])
def test_equals_the_plain_execution(batch, height, width, training):
    plain, lean = plain_and_lean()
    assert_equal_runs(plain.train(training), lean.train(training), random_inputs(batch, height, width), 1e-9)


@pytest.mark.parametrize(("channels", "grid"), [(1, 4), (2, 1), (13, 7), (8, 64)])
def test_equals_it_for_any_channels_and_grid(channels, grid):
    plain, lean = plain_and_lean(channels, grid)
    assert_equal_runs(plain, lean, random_inputs(2, 40), 1e-9)


def test_equals_it_with_flat_channels_and_black_images():
    inputs = random_inputs(3, 48)
    inputs[0, 1], inputs[1], inputs[2, 3:] = 255.0, 0.0, 0.0
    assert_equal_runs(*plain_and_lean(), inputs, 1e-9)


def test_equals_it_in_float32():
    plain, lean = plain_and_lean(16, dtype=torch.float32)
    assert_equal_runs(plain, lean, random_inputs(2, 64, dtype=torch.float32), 1e-4, gradient_tolerance=1e-3)


def run_with_maps(adapter, inputs, used=(0, 1, 2)):
    """The outputs, and the gradients of all parameters; `used` are the outputs that the loss depends on."""
    correction, maps = adapter.corrections(inputs)
    outputs = [correction, *maps]
    sum((outputs[i] * gradient_weights(outputs[i]).to(outputs[i])).sum() for i in used).backward()
    return outputs, {name: p.grad for name, p in adapter.named_parameters()}


# Of 32 pixels the maps have 16 and 8 a side, as the decoder's steps with a grid of 4; of others they are resized.
@pytest.mark.parametrize(("batch", "height", "width"), [(2, 32, 32), (3, 96, 96), (2, 16, 16), (1, 24, 40)])
@pytest.mark.parametrize("training", [True, False])
def test_the_high_resolution_path_equals_the_plain_execution(batch, height, width, training):
    plain, lean = (adapter.train(training) for adapter in with_high_resolution())
    inputs = random_inputs(batch, height, width)
    expected, expected_grads = run_with_maps(plain, inputs)
    found, grads = run_with_maps(lean, inputs)
    assert [one.shape[1:] for one in found] == [(16, 4, 4), (4, 8, 8), (2, 16, 16)]
    for one, other in zip(found, expected, strict=True):
        assert other.std() > 0.01
        assert_close(one, other, 1e-9)
    for name, gradient in expected_grads.items():
        if not training or name not in REMOVED_BY_BATCH_NORM:
            assert_close(grads[name], gradient, 1e-9, name)


@pytest.mark.parametrize("used", [(0,), (1,), (2,)])
def test_each_output_alone_carries_its_gradient(used):
    plain, lean = with_high_resolution()
    inputs = random_inputs(2, 32)
    _, expected = run_with_maps(plain, inputs, used)
    _, found = run_with_maps(lean, inputs, used)
    largest = max(gradient.abs().max() for gradient in expected.values() if gradient is not None)
    for name, gradient in found.items():
        # The lean execution gives zeros where the plain one knows that nothing depends on a parameter.
        other = torch.zeros_like(gradient) if expected[name] is None else expected[name]
        assert (gradient - other).abs().max() <= 1e-9 * largest, name


def test_the_path_works_without_an_image_and_in_autocast():
    _, lean = with_high_resolution()
    outputs, grads = run_with_maps(lean.eval(), random_inputs(0, 32))
    assert [one.shape for one in outputs] == [(0, 16, 4, 4), (0, 4, 8, 8), (0, 2, 16, 16)]
    assert not any(gradient.any() for gradient in grads.values())
    plain, lean = with_high_resolution(dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found, _ = run_with_maps(lean, random_inputs(2, 32, dtype=torch.float32))
    expected, _ = run_with_maps(plain, random_inputs(2, 32, dtype=torch.float32))
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == torch.bfloat16
        assert (one - other).norm() < 0.03 * other.norm()


@pytest.mark.usefixtures("bands_of_64_kib")
def test_the_path_keeps_its_maps_alone():
    """What the maps take, 2 x 32 x (64 x 64 / 8 + 32 x 32 / 4) x 4 bytes, and nothing of the features' size."""
    maps = 2 * 32 * (64 * 64 // 8 + 32 * 32 // 4) * 4
    kept = []
    for high_resolution in (False, True):
        adapter = ConvAdapter(channels=32, grid=16, high_resolution=high_resolution)
        with LiveStorages() as storages:
            corrections = adapter.corrections(torch.zeros(2, 6, 128, 128))
            kept.append((storages.current_bytes, storages.largest_bytes))
        del corrections
    assert kept[1][0] - kept[0][0] == maps
    assert kept[1][1] == kept[0][1]


def test_follows_momentum_and_the_mode_of_each_batch_norm():
    plain, lean = plain_and_lean()
    for adapter in (plain, lean):
        adapter.conv_block1.bn.momentum = 0.4
        adapter.conv_block2.bn.momentum = None  # the average of all batches
        adapter.conv_block3.eval()
    for seed in (1, 2):
        inputs = random_inputs(2, 32) / seed
        assert_equal_runs(plain, lean, inputs.sqrt(), 1e-9)
    assert lean.conv_block2.bn.num_batches_tracked == 2
    assert lean.conv_block3.bn.num_batches_tracked == 0


@pytest.mark.parametrize("autocast", [True, False])
def test_bf16_is_as_close_to_float64_as_the_plain_execution(autocast):
    exact, lean = plain_and_lean(16)
    plain = copy.deepcopy(exact)
    inputs = random_inputs(2, 64)
    expected, expected_grads, _ = run(exact, inputs)

    def errors(adapter):
        adapter = adapter.to(torch.float32 if autocast else torch.bfloat16)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            output, grads, _ = run(adapter, inputs.to(adapter.conv_up.weight.dtype))
        assert output.dtype == torch.bfloat16
        names = [name for name in grads if name.endswith("weight")]
        assert all(grads[name].dtype == adapter.conv_up.weight.dtype for name in names)
        distances = [(grads[n] - expected_grads[n]).norm() / expected_grads[n].norm() for n in names]
        return torch.stack([(output - expected).norm() / expected.norm(), *distances])

    lean_errors = errors(lean)
    assert lean_errors[0] < 0.02 and lean_errors.max() < 0.15
    assert (lean_errors <= 2 * errors(plain)).all()


def test_frozen_parameters_get_no_gradient():
    plain, lean = plain_and_lean()
    for adapter in (plain, lean):
        for name in ("conv_up.weight", "conv_block2.conv.weight", "conv_block3.bn.bias"):
            adapter.get_parameter(name).requires_grad_(False)
    _, plain_grads, _ = run(plain, random_inputs(1, 24))
    _, lean_grads, _ = run(lean, random_inputs(1, 24))
    for name, expected in plain_grads.items():
        if expected is None:
            assert lean_grads[name] is None, name
        elif name not in REMOVED_BY_BATCH_NORM:
            assert_close(lean_grads[name], expected, 1e-9, name)
    assert not lean.requires_grad_(False)(random_inputs(1, 24)).requires_grad


def test_without_gradients_nothing_is_kept():
    _, lean = plain_and_lean(dtype=torch.float32)
    inputs = random_inputs(1, 64, dtype=torch.float32)
    with LiveStorages() as storages, torch.no_grad():
        output = lean(inputs)
        assert storages.current_bytes == output.nbytes


def test_a_second_backward_is_refused_instead_of_wrong():
    _, lean = plain_and_lean()
    output = lean(random_inputs(1, 24)).sum()
    output.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        output.backward()


def test_refuses_what_it_cannot_do():
    _, lean = plain_and_lean()
    with pytest.raises(ValueError, match="inputs of 20x24 pixels: the lean execution needs multiples of 8"):
        lean(random_inputs(1, 20, 24))
    with pytest.raises(ValueError, match="inputs require a gradient"):
        lean(random_inputs(1, 24).requires_grad_())


@pytest.fixture
def bands_of_64_kib(small_bands, monkeypatch):
    monkeypatch.setattr(lean_batch_norm, "BAND_ELEMENTS", 2**14)


def peaks(execution, fake):
    """Peak and held MiB of one step at 32 channels, batch 2, 128 pixels."""
    with FakeTensorMode() if fake else torch.enable_grad():
        adapter = ConvAdapter(channels=32, grid=16, execution=execution)
        inputs = torch.rand(2, 6, 128, 128)
        with LiveStorages() as storages:
            output = adapter(inputs)
            held = storages.current_bytes
            output.sum().backward()
    return storages.peak_bytes / MIB, held / MIB


@pytest.mark.usefixtures("bands_of_64_kib")
def test_keeps_and_needs_a_fraction_of_the_plain_execution():
    lean_peak, lean_held = peaks("lean", fake=False)
    plain_peak, plain_held = peaks("plain", fake=False)
    # Block 2's convolution and block 2's result: 2 x 32 x (64 x 64 + 32 x 32) x 4 bytes = 1.25 MiB.
    assert 1.25 < lean_held < 1.5
    assert lean_held < plain_held / 12
    assert lean_peak < plain_peak / 5


@pytest.mark.usefixtures("bands_of_64_kib")
@pytest.mark.parametrize("execution", ["lean", "plain"])
def test_fake_tensors_predict_the_peak(execution):
    fake, real = peaks(execution, fake=True), peaks(execution, fake=False)
    assert fake == pytest.approx(real, rel=0.02)


def test_bands_cover_all_rows_in_even_numbers():
    assert list(row_bands(20, 100)) == [(0, 6), (6, 12), (12, 18), (18, 20)]
    assert list(row_bands(4, 10_000)) == [(0, 2), (2, 4)]
    assert list(row_bands(4, 1)) == [(0, 4)]


def test_variance_keeps_its_digits_far_from_zero():
    outputs = [1e4 + torch.rand(16, 16, 3, generator=torch.manual_seed(0)) for _ in range(2)]
    expected = torch.stack(outputs).double().var(dim=(0, 1, 2), correction=0)
    assert torch.allclose(output_moments(outputs, 3, torch.float32, torch.device("cpu")).spread, expected, rtol=1e-6)
