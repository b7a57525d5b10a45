import pytest
import torch
from golden_values import assert_close

from cad.adapters.adapter_design import AdapterDesign
from cad.encoders.sam import SAM_SIZES, build_random_sam, load_sam
from cad.errors import MissingPathError, UserError
from cad.segmenter import Segmenter
from cad.trained_weights import load_segmenter, publish, read_weights, save_weights

IMAGES = torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def trained_segmenter(method, checkpoint="random", seed=1, **design):
    """A demo segmenter whose adapter and BatchNorm statistics are no longer the initial ones, and its metadata."""
    torch.manual_seed(seed)
    sam, base = load_sam("vit_demo", checkpoint, seed)
    segmenter = Segmenter(sam, method, design=AdapterDesign(**design))
    with torch.no_grad():
        for parameter in segmenter.parameters():
            if parameter.requires_grad:
                parameter.add_(0.02 * torch.randn_like(parameter))
    segmenter.train()(IMAGES)
    metadata = {"method": method, "model_type": "vit_demo", "image_size": 64, "base": base.as_metadata(), "demo": False}
    return segmenter.eval(), metadata | design


@pytest.fixture(params=["cad", "sam_adapter"])
def method(request):
    return request.param


def test_saved_weights_give_the_same_logits(tmp_path, method):
    segmenter, metadata = trained_segmenter(method)
    save_weights(tmp_path / "w.pth", segmenter, metadata)
    loaded, found = load_segmenter(tmp_path / "w.pth", tmp_path)
    assert found == metadata
    assert not loaded.training
    with torch.no_grad():
        assert torch.equal(loaded(IMAGES), segmenter(IMAGES))


@pytest.mark.parametrize(
    "design",
    [
        {"adapter": "cad_hires"},
        {"adapter_gate": "scalar", "adapter_scale": 0.5},
        {"adapter_gate": "channel"},
        {"adapter_gate": "relative", "adapter_scale": 0.3},
        {"high_frequency": False},
    ],
)
def test_weights_load_into_the_adapter_that_they_are_of(tmp_path, design):
    segmenter, metadata = trained_segmenter("cad", **design)
    save_weights(tmp_path / "w.pth", segmenter, metadata)
    loaded, found = load_segmenter(tmp_path / "w.pth", tmp_path)
    assert found == metadata and loaded.design == AdapterDesign(**design)
    with torch.no_grad():
        assert torch.equal(loaded(IMAGES), segmenter(IMAGES))


@pytest.mark.parametrize("claimed", ["cad", "cad_hires"])
def test_weights_of_another_adapter_than_the_metadata_say_are_refused(tmp_path, claimed):
    segmenter, metadata = trained_segmenter("cad", adapter="cad" if claimed == "cad_hires" else "cad_hires")
    save_weights(tmp_path / "w.pth", segmenter, metadata | {"adapter": claimed})
    problem = "missing" if claimed == "cad_hires" else "unknown"
    with pytest.raises(UserError, match=rf"2 (tensors )?are {problem} .first: conv_adapter.hires1.weight"):
        load_segmenter(tmp_path / "w.pth", tmp_path)


def test_exactly_the_trained_tensors_are_saved(tmp_path, method):
    segmenter, metadata = trained_segmenter(method)
    save_weights(tmp_path / "w.pth", segmenter, metadata)
    names = set(read_weights(tmp_path / "w.pth").state)
    trained = {name for name, parameter in segmenter.named_parameters() if parameter.requires_grad}
    buffers = {name for name in segmenter.state_dict() if ".bn." in name and ("running" in name or "tracked" in name)}
    assert names == trained | buffers
    assert not any(name.startswith("prompt_encoder") or "iou_prediction_head" in name for name in names)
    assert len(buffers) == (9 if method == "cad" else 0)


def test_the_base_file_is_found_beside_the_weights_in_checkpoints_or_by_flag(tmp_path, method):
    base = tmp_path / "base.pth"
    torch.save(build_random_sam(SAM_SIZES["vit_demo"], seed=4).state_dict(), base)
    segmenter, metadata = trained_segmenter(method, base)
    weights, checkpoints, elsewhere = tmp_path / "run" / "w.pth", tmp_path / "checkpoints", tmp_path / "elsewhere.pth"
    weights.parent.mkdir()
    checkpoints.mkdir()
    save_weights(weights, segmenter, metadata)
    with pytest.raises(MissingPathError, match="was trained on the SAM weights base.pth, found neither"):
        load_segmenter(weights, checkpoints)
    for place in (weights.parent / "base.pth", checkpoints / "base.pth"):
        place.write_bytes(base.read_bytes())
        load_segmenter(weights, checkpoints)
        place.unlink()
    base.rename(elsewhere)
    loaded, _ = load_segmenter(weights, checkpoints, elsewhere)
    with torch.no_grad():
        assert torch.equal(loaded(IMAGES), segmenter(IMAGES))
    with pytest.raises(MissingPathError, match=r"--sam_checkpoint .*nothing.pth: no such file"):
        load_segmenter(weights, checkpoints, tmp_path / "nothing.pth")


def test_another_base_is_refused(tmp_path):
    for seed in (4, 5):
        torch.save(build_random_sam(SAM_SIZES["vit_demo"], seed=seed).state_dict(), tmp_path / f"base{seed}.pth")
    segmenter, metadata = trained_segmenter("cad", tmp_path / "base4.pth")
    save_weights(tmp_path / "w.pth", segmenter, metadata)
    with pytest.raises(UserError, match="was trained on base4.pth with SHA-256 .*pass the right file"):
        load_segmenter(tmp_path / "w.pth", tmp_path, tmp_path / "base5.pth")
    segmenter, metadata = trained_segmenter("cad")
    metadata["base"]["sha256"] = "0" * 64
    save_weights(tmp_path / "w.pth", segmenter, metadata)
    with pytest.raises(UserError, match="random SAM weights of seed 1 come out differently"):
        load_segmenter(tmp_path / "w.pth", tmp_path)


def original_state(segmenter):
    """The state dict that the original's code saves: a whole SAM, the shared up-projection named in every block."""
    state = dict(segmenter.state_dict())
    for name in [name for name in state if name.endswith("down_projection.weight")]:
        block = name.removesuffix(".down_projection.weight")
        for kind in ("weight", "bias"):
            state[f"{block}.up_projection.{kind}"] = state[f"image_encoder.task_adapter_up.{kind}"]
    return state


def test_weights_of_the_original_code_load(tmp_path, method):
    segmenter, _ = trained_segmenter(method)
    torch.save(original_state(segmenter), tmp_path / "May21_172910.pth")
    loaded, metadata = load_segmenter(tmp_path / "May21_172910.pth", tmp_path)
    assert (metadata["method"], metadata["model_type"]) == (method, "vit_demo")
    with torch.no_grad():
        assert_close(loaded(IMAGES), segmenter(IMAGES), 1e-6)


def test_weights_of_the_original_code_load_strictly(tmp_path, method):
    state = original_state(trained_segmenter(method)[0])
    path = tmp_path / "May21_172910.pth"
    dropped = "conv_adapter.conv_block2.bn.running_var" if method == "cad" else "image_encoder.HFC_tune.bias"
    torch.save({name: value for name, value in state.items() if name != dropped}, path)
    with pytest.raises(UserError, match=f"1 tensors are missing .first: {dropped}"):
        load_segmenter(path, tmp_path)
    torch.save(state | {"image_encoder.surprise": torch.zeros(1)}, path)
    with pytest.raises(UserError, match=r"1 are unknown .first: image_encoder.surprise"):
        load_segmenter(path, tmp_path)
    if method == "sam_adapter":
        name = "image_encoder.task_adapter_blocks.1.up_projection.weight"
        torch.save(state | {name: state[name] + 1}, path)
        with pytest.raises(UserError, match="differs from image_encoder.task_adapter_up"):
            load_segmenter(path, tmp_path)


def test_incomplete_or_foreign_files_are_refused(tmp_path):
    segmenter, metadata = trained_segmenter("cad")
    path = tmp_path / "w.pth"
    save_weights(path, segmenter, metadata)
    content = torch.load(path, weights_only=True)
    del content["state"]["conv_adapter.conv_up.bias"]
    torch.save(content, path)
    with pytest.raises(UserError, match=r"1 tensors are missing .first: conv_adapter.conv_up.bias"):
        load_segmenter(path, tmp_path)
    for changes, message in [
        ({"version": 99}, "format version 99, expected 1"),
        ({"metadata": None}, "the metadata are missing"),
        ({"metadata": metadata | {"method": "lora"}}, "method is 'lora', expected one of cad, sam_adapter"),
        ({"metadata": metadata | {"adapter": "lora"}}, "w.pth: adapter is 'lora', expected one of cad, cad_hires"),
        ({"metadata": metadata | {"adapter_scale": "1"}}, "adapter_scale is '1', expected a number above 0"),
        ({"metadata": metadata | {"base": {}}}, "do not name the SAM weights"),
        ({"metadata": metadata | {"image_size": None}}, "the metadata lack image_size or demo"),
        ({"state": None}, "the trained tensors are missing"),
    ]:
        torch.save(content | changes, path)
        with pytest.raises(UserError, match=message):
            read_weights(path)
    torch.save({"something": torch.zeros(1)}, path)
    with pytest.raises(UserError, match="not trained weights"):
        read_weights(path)


def test_a_demo_never_replaces_weights_that_are_not_a_demos(tmp_path):
    segmenter, metadata = trained_segmenter("cad")
    demo, real, published = tmp_path / "demo.pth", tmp_path / "real.pth", tmp_path / "sam_cad.pth"
    save_weights(demo, segmenter, metadata | {"demo": True})
    save_weights(real, segmenter, metadata)
    for source in (demo, demo, real):
        assert publish(source, published) is None
        assert published.read_bytes() == source.read_bytes()
    assert publish(demo, published) == "sam_cad.pth holds weights that are not a demo's and stays as it is"
    assert published.read_bytes() == real.read_bytes()
    published.write_bytes(b"the user's own file")
    for source in (demo, real):
        assert publish(source, published) == "sam_cad.pth is something else than trained weights and stays as it is"
    assert published.read_bytes() == b"the user's own file"
