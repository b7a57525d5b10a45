import pytest
import torch
import torch.nn.functional as F
from golden_values import assert_close, golden, under
from torch import nn

from cad.adapters.adapter_design import GATES, AdapterDesign
from cad.encoders.sam import SAM_SIZES, Sam, SamSize, build_random_sam
from cad.metrics.per_image import overlap
from cad.segmenter import Segmenter, count_parameters
from cad.training.losses import segmentation_losses

TINY = SamSize(
    embed_dim=48,
    depth=2,
    num_heads=4,
    global_attn_indexes=(1,),
    mlp_ratio=2,
    channels=32,
    mask_in_chans=4,
    decoder_mlp_dim=64,
    decoder_heads=4,
    iou_head_hidden_dim=32,
)


@pytest.fixture
def golden_cad():
    values = golden("cad_end_to_end")
    state = under(values, "state")
    sam = Sam(TINY)
    sam.load_state_dict({name: value for name, value in state.items() if not name.startswith("conv_adapter.")})
    segmenter = Segmenter(sam, "cad")
    segmenter.load_state_dict(state, strict=True)
    return segmenter, values


def test_equals_the_golden_values_end_to_end(golden_cad):
    segmenter, values = golden_cad
    images, masks = values["images"], values["masks"].unsqueeze(1)
    segmenter.eval()
    with torch.no_grad():
        embeddings = segmenter.encode(images)
        assert_close(embeddings, values["eval.image_embedding"], 1e-4)
        probs = torch.sigmoid(segmenter(images))[:, 0, ::4, ::4]
        assert_close(probs, values["eval.prob"], 1e-4)

    segmenter.train()
    trained = [parameter for parameter in segmenter.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=2e-4)
    for step, expected_row in enumerate(values["train.bce_iou_dice_iou_per_image"]):
        logits = segmenter(images)
        bce, iou_loss = segmentation_losses(logits, masks)
        row = torch.stack([bce, iou_loss, *overlap(logits.detach(), masks.float())], dim=1).flatten()
        assert_close(row, expected_row, 1e-4, f"step {step}")
        optimizer.zero_grad()
        (bce + iou_loss).mean().backward()
        if step == 0:
            check_gradient_norms(segmenter, under(values, "step0.grad_norm"))
        optimizer.step()
    for name, expected in under(values, "after4").items():
        if name != "conv_adapter.conv_block3.conv.bias":  # noise: see golden/README.md
            assert_close(segmenter.get_parameter(name), expected, 1e-4, name)


def check_gradient_norms(segmenter, expected_norms):
    compared = 0
    for name, expected in expected_norms.items():
        gradient = segmenter.get_parameter(name).grad
        found = torch.zeros(1) if gradient is None else gradient.norm().reshape(1)
        if expected.item() > 1e-6:
            assert_close(found, expected, 1e-4, name)
            compared += 1
        else:
            assert found.item() < 1e-6, name
    assert compared > 60


@pytest.mark.parametrize(
    ("method", "trainable"), [("cad", 5_280_000), ("sam_adapter", 3_907_000)], ids=["cad", "sam_adapter"]
)
def test_vit_b_trains_the_published_number_of_parameters(method, trainable):
    with torch.device("meta"):
        sam = Sam(SAM_SIZES["vit_b"])
    segmenter = Segmenter.__new__(Segmenter)
    with pytest.MonkeyPatch.context() as patch, torch.device("meta"):
        patch.setattr(Segmenter, "_embed_prompt", lambda self: None)
        segmenter.__init__(sam, method)
    assert abs(count_parameters(segmenter)[0] - trainable) < 500


@pytest.fixture(params=["cad", "sam_adapter"])
def demo_segmenter(request):
    torch.manual_seed(0)
    return Segmenter(build_random_sam(SAM_SIZES["vit_demo"], seed=1), request.param)


def test_only_the_trained_parameters_get_gradients_and_all_of_them(demo_segmenter):
    demo_segmenter.train()
    images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    demo_segmenter(images).square().mean().backward()
    for name, parameter in demo_segmenter.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name
        assert parameter.requires_grad == (name in demo_segmenter.trained_state()), name


def test_steps_leave_the_frozen_parts_alone(demo_segmenter):
    before = {name: value.clone() for name, value in demo_segmenter.state_dict().items()}
    demo_segmenter.train()
    trained = [parameter for parameter in demo_segmenter.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-2)
    images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    demo_segmenter(images).square().mean().backward()
    optimizer.step()
    trained_names = set(demo_segmenter.trained_state())
    for name, value in demo_segmenter.state_dict().items():
        if name.startswith("conv_adapter.conv_block") and name.endswith(".conv.bias"):
            continue  # BatchNorm removes these biases: their gradient is zero, and they start at zero
        assert torch.equal(value, before[name]) == (name not in trained_names), name


def test_the_encoder_stays_in_eval_mode_and_cad_takes_no_gradient_from_it(demo_segmenter):
    demo_segmenter.train()
    assert not any(module.training for module in demo_segmenter.image_encoder.modules())
    embeddings = demo_segmenter.encode(torch.zeros(1, 3, 64, 64, dtype=torch.uint8))
    assert embeddings.requires_grad == (demo_segmenter.method == "sam_adapter")
    assert demo_segmenter.encoder_is_frozen == (demo_segmenter.method == "cad")


def test_a_batch_gives_what_its_images_give_alone(demo_segmenter):
    demo_segmenter.eval()
    images = torch.randint(0, 256, (3, 3, 64, 64), dtype=torch.uint8)
    with torch.no_grad():
        together = demo_segmenter(images)
        alone = torch.cat([demo_segmenter(image.unsqueeze(0)) for image in images])
    assert together.shape == (3, 1, 64, 64)
    assert_close(together, alone, 1e-5)


def test_embeddings_given_equal_embeddings_made(demo_segmenter):
    demo_segmenter.eval()
    images = torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8)
    with torch.no_grad():
        assert torch.equal(demo_segmenter(images, demo_segmenter.encode(images)), demo_segmenter(images))


class Blurred(nn.Module):
    """An encoder that is not SAM's: every channel of the image blurred, times a weight."""

    img_size, grid, pixel_mean, pixel_std = 48, 6, (1.0, 2.0, 3.0), (2.0, 2.0, 4.0)

    def __init__(self, channels):
        super().__init__()
        self.channels = channels
        self.weights = nn.Parameter(torch.arange(1.0, channels + 1)[:, None, None])

    def forward(self, images):
        blurred = F.avg_pool2d(images, 8)
        return torch.cat([blurred] * (self.channels // 3 + 1), dim=1)[:, : self.channels] * self.weights


@pytest.mark.parametrize("channels", [5, TINY.channels])
def test_any_module_that_states_size_grid_and_channels_is_an_encoder(channels):
    torch.manual_seed(0)
    segmenter = Segmenter(Sam(TINY, Blurred(channels)), "cad", design=AdapterDesign("cad_hires"))
    assert (segmenter.projection is None) == (channels == TINY.channels)
    images = torch.full((1, 3, 64, 64), 9, dtype=torch.uint8)
    embedding = segmenter.encode(images)  # (9 - mean) / std, times 1, 2, 3, ...
    expected = torch.tensor([4.0, 3.5, 1.5] * (channels // 3 + 1))[:channels] * torch.arange(1.0, channels + 1)
    assert torch.equal(embedding, expected[None, :, None, None].expand(1, channels, 6, 6))
    logits = segmenter(images)
    assert logits.shape == (1, 1, 64, 64)
    logits.sum().backward()
    assert segmenter.image_encoder.weights.grad is None
    for parameter in segmenter.projection.parameters() if channels == 5 else ():
        assert parameter.grad.abs().sum() > 0


def test_an_unknown_method_is_named():
    with pytest.raises(ValueError, match="'lora': expected one of cad, sam_adapter"):
        Segmenter(build_random_sam(SAM_SIZES["vit_demo"], seed=1), "lora")


def cad_and_high_resolution():
    """CAD and, with the same weights, the high-resolution path at its start."""
    segmenters = []
    for design in (AdapterDesign(), AdapterDesign("cad_hires")):
        torch.manual_seed(0)
        segmenters.append(Segmenter(build_random_sam(SAM_SIZES["vit_demo"], seed=1), "cad", design=design))
    return segmenters


IMAGES = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("training", [True, False])
def test_the_high_resolution_path_starts_as_cad_to_the_bit(training):
    cad, with_path = (segmenter.train(training) for segmenter in cad_and_high_resolution())
    assert torch.equal(cad(IMAGES), with_path(IMAGES))
    names = set(with_path.trained_state()) - set(cad.trained_state())
    assert names == {"conv_adapter.hires1.weight", "conv_adapter.hires2.weight"}


def test_the_high_resolution_path_gets_gradients_image_by_image_as_all_at_once():
    _, segmenter = cad_and_high_resolution()
    for projection in segmenter.conv_adapter.projections():
        torch.nn.init.normal_(projection.weight, std=0.2, generator=torch.manual_seed(2))
    segmenter = segmenter.double().train()
    gradients = []
    for segmenter.checkpoint_decoder in (True, False):
        segmenter.zero_grad()
        segmenter(IMAGES).square().mean().backward()
        gradients.append({name: p.grad for name, p in segmenter.named_parameters() if p.requires_grad})
    assert gradients[0]["conv_adapter.hires1.weight"].norm() > 0 < gradients[0]["conv_adapter.hires2.weight"].norm()
    largest = max(gradient.abs().max() for gradient in gradients[1].values())
    for name, gradient in gradients[1].items():
        assert (gradients[0][name] - gradient).abs().max() < 1e-9 * largest, name


def test_with_the_high_resolution_path_a_batch_gives_what_its_images_give_alone():
    _, segmenter = cad_and_high_resolution()
    before = segmenter.eval()(IMAGES)
    for projection in segmenter.conv_adapter.projections():
        torch.nn.init.normal_(projection.weight, std=0.2, generator=torch.manual_seed(2))
    with torch.no_grad():
        together = segmenter(IMAGES)
        alone = torch.cat([segmenter(image.unsqueeze(0)) for image in IMAGES])
    assert (together - before).abs().max() > 0.01
    assert_close(together, alone, 1e-5)


def test_weights_of_cad_load_into_the_high_resolution_path_and_not_back():
    cad, with_path = cad_and_high_resolution()
    with torch.no_grad():
        for parameter in cad.conv_adapter.parameters():
            parameter.add_(0.1)
        with_path.conv_adapter.hires1.weight.add_(1)
    with_path.load_state_dict(cad.state_dict(), strict=True)
    assert torch.equal(with_path.eval()(IMAGES), cad.eval()(IMAGES))
    with pytest.raises(RuntimeError, match=r"Unexpected key.*conv_adapter.hires1.weight"):
        cad.load_state_dict(with_path.state_dict(), strict=True)


def test_without_high_frequencies_the_adapter_sees_zeros():
    torch.manual_seed(0)
    sam = build_random_sam(SAM_SIZES["vit_demo"], seed=1)
    segmenter = Segmenter(sam, "cad", design=AdapterDesign(high_frequency=False)).eval()
    embeddings = segmenter.encode(IMAGES)
    inputs = torch.cat((IMAGES, torch.zeros_like(IMAGES)), dim=1).float()
    adapted, maps = segmenter.adapt(embeddings, IMAGES)
    assert torch.equal(adapted, embeddings + 0.1 * segmenter.conv_adapter(inputs)) and maps == ()


@pytest.mark.parametrize("gate", GATES)
def test_a_gate_is_trained_where_it_has_numbers(gate):
    torch.manual_seed(0)
    sam = build_random_sam(SAM_SIZES["vit_demo"], seed=1)
    segmenter = Segmenter(sam, "cad", design=AdapterDesign(adapter_gate=gate)).train()
    segmenter(IMAGES).square().mean().backward()
    trained = {name for name, p in segmenter.named_parameters() if p.requires_grad and name.startswith("adapter_gate")}
    assert trained == ({"adapter_gate.weight"} if gate in ("scalar", "channel") else set())
    assert trained <= set(segmenter.trained_state())
    assert all(segmenter.get_parameter(name).grad.abs().min() > 0 for name in trained)
