import os
import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from segment_anything import sam_model_registry

from cad.encoders.sam import (
    SAM_SIZES,
    Sam,
    build_random_sam,
    build_sam,
    guess_model_type,
    hash_file,
    hash_tensors,
    load_sam,
    normalise_for_encoder,
    read_weights_file,
    resize_for_encoder,
)
from cad.errors import MissingPathError, UserError

DEMO = SAM_SIZES["vit_demo"]


@pytest.mark.parametrize("model_type", ["vit_b", "vit_l", "vit_h"])
def test_sizes_have_the_tensors_of_segment_anything(model_type):
    with torch.device("meta"):
        expected = {name: value.shape for name, value in sam_model_registry[model_type]().state_dict().items()}
        found = {name: value.shape for name, value in Sam(SAM_SIZES[model_type]).state_dict().items()}
    assert found == expected
    assert guess_model_type({name: torch.empty(shape, device="meta") for name, shape in found.items()}) == model_type


def test_random_weights_are_seeded_and_leave_the_random_state_alone():
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    first = build_random_sam(DEMO, seed=1)
    assert torch.equal(torch.rand(1), expected)
    assert hash_tensors(first.state_dict()) == hash_tensors(build_random_sam(DEMO, seed=1).state_dict())
    assert hash_tensors(first.state_dict()) != hash_tensors(build_random_sam(DEMO, seed=2).state_dict())


def test_weights_of_a_file_are_loaded_and_named_by_their_hash(tmp_path):
    sam = build_random_sam(DEMO, seed=3)
    path = tmp_path / "base.pth"
    torch.save(sam.state_dict(), path)
    loaded, base = load_sam("vit_demo", path)
    assert (base.source, base.sha256, base.seed) == ("base.pth", hash_file(path), None)
    assert hash_tensors(loaded.state_dict()) == hash_tensors(sam.state_dict())


def test_a_file_of_the_official_name_with_another_content_is_told(tmp_path, monkeypatch, capsys):
    path = tmp_path / "sam_vit_demo_012345.pth"
    torch.save(build_random_sam(DEMO, seed=3).state_dict(), path)
    for sha256, told in (hash_file(path), False), ("0" * 64, True):
        monkeypatch.setitem(SAM_SIZES, "vit_demo", replace(DEMO, file_name=path.name, sha256=sha256))
        load_sam("vit_demo", path)
        assert ("012345.pth: has the name of SAM's official weights, but not" in capsys.readouterr().err) == told


def test_missing_unknown_and_misshapen_tensors_are_named():
    state = build_random_sam(DEMO, seed=3).state_dict()
    del state["mask_decoder.iou_token.weight"]
    state["extra"] = torch.zeros(1)
    state["image_encoder.neck.1.bias"] = torch.zeros(3)
    with pytest.raises(UserError) as error:
        build_sam(DEMO, state, "base.pth")
    message = str(error.value)
    assert "1 tensors are missing (first: mask_decoder.iou_token.weight)" in message
    assert "1 are unknown (first: extra)" in message
    assert "(first: image_encoder.neck.1.bias, expected (64,), found (3,))" in message


def test_weights_that_are_not_finite_are_named():
    state = build_random_sam(DEMO, seed=3).state_dict()
    state["image_encoder.neck.1.bias"][0] = float("nan")
    with pytest.raises(UserError, match=r"1 tensors hold NaN or infinity .first: image_encoder.neck.1.bias"):
        build_sam(DEMO, state, "base.pth")


def test_weights_of_another_size_are_recognised(tmp_path):
    with torch.device("meta"):
        state = Sam(SAM_SIZES["vit_l"]).state_dict()
    small = {name: torch.zeros(value.shape[-1:]) if value.dim() else value for name, value in state.items()}
    path = tmp_path / "vit_l.pth"
    torch.save(small, path)
    with pytest.raises(UserError, match="holds vit_l weights, but the model type is vit_b; pass --model_type vit_l"):
        load_sam("vit_b", path)


class RunsCode:
    def __reduce__(self):
        return os.mkdir, (RunsCode.target,)


def test_a_file_that_carries_code_is_refused_and_does_not_run(tmp_path):
    RunsCode.target = str(tmp_path / "ran")
    path = tmp_path / "evil.pth"
    torch.save({"image_encoder.pos_embed": RunsCode()}, path)
    with pytest.raises(UserError, match="evil.pth: refused, since it holds more than tensors"):
        read_weights_file(path)
    path.write_bytes(pickle.dumps(RunsCode()))
    with pytest.raises(UserError, match="evil.pth"):
        read_weights_file(path)
    assert not (tmp_path / "ran").exists()


def test_missing_truncated_and_foreign_files(tmp_path):
    with pytest.raises(MissingPathError, match="nothing.pth: no such checkpoint file"):
        read_weights_file(tmp_path / "nothing.pth")
    path = tmp_path / "half.pth"
    torch.save({"a": torch.zeros(5000)}, path)
    path.write_bytes(path.read_bytes()[:9000])
    with pytest.raises(UserError, match=r"half.pth: (truncated|refused: damaged)"):
        read_weights_file(path)
    for content in (b"", b"<html>not found</html>"):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"half.pth: (truncated|refused: damaged)"):
            read_weights_file(path)
    torch.save({"weights": torch.zeros(1)}, path)
    with pytest.raises(UserError, match=r"half.pth: not SAM weights"):
        load_sam("vit_b", path)


def test_the_encoder_input_is_resized_by_pillow_and_normalised():
    image = np.random.default_rng(0).integers(0, 256, (20, 20, 3), np.uint8)
    expected = np.asarray(Image.fromarray(image).resize((40, 40), Image.Resampling.BILINEAR))
    assert np.array_equal(resize_for_encoder(image, 40), expected)
    assert resize_for_encoder(image, 20) is image
    means = torch.tensor([123.675, 116.28, 103.53]).view(1, 3, 1, 1).expand(1, 3, 2, 2)
    assert normalise_for_encoder(means).abs().max() == 0
    assert torch.allclose(normalise_for_encoder(means + 57.12)[0, 1], torch.ones(2, 2))
