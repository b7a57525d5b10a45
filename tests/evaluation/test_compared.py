from argparse import Namespace

import pytest
import torch

from cad.encoders.sam import SAM_SIZES, build_random_sam
from cad.errors import UserError
from cad.evaluation.compared import find_compared, unique_labels


def flags(tmp_path, **given):
    defaults = {"checkpoint": [], "method": None, "model_type": None, "sam_checkpoint": None, "seed": 21}
    return Namespace(**defaults | {"output_dir": tmp_path} | given)


def test_labels_are_short_unique_and_safe_as_file_names():
    assert unique_labels(["cad", "zero_shot"], ["x", "y"]) == ["cad", "zero_shot"]
    assert unique_labels(["cad", "cad", "decoder"], ["a", "b", "c"]) == ["a", "b", "decoder"]
    assert unique_labels(["cad", "cad"], ["same", "same"]) == ["same", "same_2"]
    assert unique_labels(["cad"] * 3, ["../x", "..", "May21 17|29"]) == ["_x", "_", "May21_17_29"]
    assert unique_labels(["cad", "cad", "decoder"], ["decoder", "b", "c"]) == ["decoder", "b", "decoder_2"]


def test_zero_shot_is_sam_with_nothing_trained(tmp_path):
    torch.save(build_random_sam(SAM_SIZES["vit_demo"], seed=3).state_dict(), tmp_path / "sam.pth")
    (one,) = find_compared(
        flags(tmp_path, method=["zero_shot"], model_type="vit_demo", sam_checkpoint=tmp_path / "sam.pth")
    )
    assert (one.label, one.metadata["image_size"], one.metadata["trainable_parameters"]) == ("zero_shot", 256, 0)
    segmenter = one.load().train()
    assert not any(parameter.requires_grad for parameter in segmenter.parameters())
    assert segmenter.trained_state() == {}
    decoder = segmenter.mask_decoder.state_dict()
    expected = build_random_sam(SAM_SIZES["vit_demo"], seed=3).mask_decoder.state_dict()
    assert all(torch.equal(decoder[name], expected[name]) for name in expected)


def test_a_whole_sam_without_an_adapter_needs_to_be_called_a_decoder(tmp_path):
    path = tmp_path / "May21_172910.pth"
    torch.save(build_random_sam(SAM_SIZES["vit_demo"], seed=3).state_dict(), path)
    with pytest.raises(UserError, match="a whole SAM without an adapter: pass --method decoder"):
        find_compared(flags(tmp_path, checkpoint=[path]))
    (one,) = find_compared(flags(tmp_path, checkpoint=[path], method=["decoder"]))
    assert one.load().method == one.method == "decoder"
    with pytest.raises(UserError, match="a whole SAM without an adapter"):
        find_compared(flags(tmp_path, checkpoint=[path], method=["cad"]))


def test_flags_that_name_nothing_to_compare(tmp_path):
    for method in (None, ["cad"]):
        with pytest.raises(UserError, match="no checkpoint: pass --checkpoint FILE"):
            find_compared(flags(tmp_path, method=method))
    with pytest.raises(UserError, match="only one beside zero_shot"):
        find_compared(flags(tmp_path, method=["cad", "decoder"]))
    with pytest.raises(UserError, match=r"--sam_checkpoint .*sam_vit_b_01ec64.pth: no such file"):
        find_compared(flags(tmp_path, method=["zero_shot"]))
    with pytest.raises(UserError, match=r"--sam_checkpoint .*nowhere.pth: no such file"):
        find_compared(flags(tmp_path, method=["zero_shot"], sam_checkpoint=tmp_path / "nowhere.pth"))
