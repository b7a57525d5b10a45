import argparse

import pytest
import segment_anything
import torch
from segment_anything.modeling import Sam as OfficialSam
from trained import random_images, trained_file, trained_segmenter

from cad.encoders.sam import SAM_SIZES, Sam, build_random_sam
from cad.errors import UserError
from cad.export.merged_sam import merge, sam_state
from cad.segmenter import Segmenter


def flags(checkpoint, output):
    return argparse.Namespace(checkpoint=checkpoint, output=output, sam_checkpoint=None)


def test_the_merged_file_is_a_plain_sam_that_predicts_the_same(tmp_path, capsys):
    trained_file(tmp_path / "w.pth", "decoder")
    merge(flags(tmp_path / "w.pth", tmp_path / "sam.pth"))
    assert "sam.pth: SAM vit_demo with the trained mask decoder, " in capsys.readouterr().out
    state = torch.load(tmp_path / "sam.pth", weights_only=True)
    parts = build_random_sam(SAM_SIZES["vit_demo"], seed=9)
    official = OfficialSam(parts.image_encoder, parts.prompt_encoder, parts.mask_decoder)
    official.load_state_dict(state, strict=True)
    predictor = segment_anything.SamPredictor(official.eval())
    image = random_images(1, 256)[0]
    predictor.set_image(image)
    box = predictor.transform.apply_boxes(torch.tensor([[0.0, 0, 256, 256]]).numpy(), (256, 256))[0]
    logits, _, _ = predictor.predict(box=box, multimask_output=False, return_logits=True)
    segmenter, _ = trained_segmenter("decoder")
    with torch.no_grad():
        expected = segmenter(torch.from_numpy(image).permute(2, 0, 1)[None])[0].numpy()
    assert expected.std() > 0.02
    assert abs(logits - expected).max() < 1e-5


@pytest.mark.parametrize("model_type", ["vit_b", "vit_l", "vit_h"])
def test_names_and_shapes_are_segment_anythings(model_type):
    with torch.device("meta"):
        official = segment_anything.sam_model_registry[model_type]()
        segmenter = Segmenter.__new__(Segmenter)
        torch.nn.Module.__init__(segmenter)
        sam = Sam(SAM_SIZES[model_type])
    segmenter.method = "decoder"
    for name, part in sam.named_children():
        setattr(segmenter, name, part)
    expected = official.state_dict()
    found = {name: tensor.shape for name, tensor in segmenter.state_dict().items()}
    assert found == {name: tensor.shape for name, tensor in expected.items()}


@pytest.mark.slow
def test_segment_anything_itself_loads_a_merged_vit_b(tmp_path):
    segmenter = Segmenter(build_random_sam(SAM_SIZES["vit_b"], seed=0), "decoder")
    torch.save(sam_state(segmenter), tmp_path / "sam.pth")
    official = segment_anything.sam_model_registry["vit_b"](checkpoint=tmp_path / "sam.pth")
    assert torch.equal(official.mask_decoder.mask_tokens.weight, segmenter.mask_decoder.mask_tokens.weight)


@pytest.mark.parametrize("method", ["cad", "sam_adapter"])
def test_adapters_have_no_place_in_a_plain_sam(tmp_path, method):
    trained_file(tmp_path / "w.pth", method, 64)
    with pytest.raises(
        UserError, match=f"holds {method}, .*no place in a plain SAM file; use cad.sam_predictor .*export_onnx"
    ):
        merge(flags(tmp_path / "w.pth", tmp_path / "sam.pth"))
    assert not (tmp_path / "sam.pth").exists()


def test_nothing_is_overwritten_and_a_whole_sam_needs_no_merging(tmp_path):
    trained_file(tmp_path / "w.pth", "decoder")
    before = (tmp_path / "w.pth").read_bytes()
    with pytest.raises(UserError, match="w.pth: exists already"):
        merge(flags(tmp_path / "w.pth", tmp_path / "w.pth"))
    assert (tmp_path / "w.pth").read_bytes() == before
    torch.save(trained_segmenter("decoder")[0].state_dict(), tmp_path / "whole.pth")
    with pytest.raises(UserError, match="whole.pth: is a whole SAM file already"):
        merge(flags(tmp_path / "whole.pth", tmp_path / "sam.pth"))
