import export_onnx
import merge
import pytest
import torch
from conftest import write_pairs
from trained import trained_file

from cad.prediction.onnx_model import OnnxModel


def test_export_compares_on_images_of_a_folder_and_says_what_the_file_is(tmp_path, capsys):
    images, _ = write_pairs(tmp_path, count=4)
    weights, output = trained_file(tmp_path / "w.pth", "decoder", 64), tmp_path / "model.onnx"
    assert export_onnx.main(["--checkpoint", str(weights), "--output", str(output), "--images", str(images)]) == 0
    said = capsys.readouterr().out.splitlines()[1:]
    assert said[0].startswith(f"{output}: decoder with vit_demo, ")
    assert said[1].startswith("images: (batch, 64, 64, 3) uint8 RGB -> mask_logits: (batch, 1, 64, 64) float32")
    assert said[2].startswith("onnxruntime against PyTorch, 3 images in batches of 1 and 3: probabilities differ by at")
    assert OnnxModel(output).metadata["method"] == "decoder"


def test_merge_writes_a_plain_state_dict(tmp_path, capsys):
    weights, output = trained_file(tmp_path / "w.pth", "decoder", 64), tmp_path / "sam.pth"
    assert merge.main(["--checkpoint", str(weights), "--output", str(output)]) == 0
    assert capsys.readouterr().out.startswith(f"{output}: SAM vit_demo with the trained mask decoder, ")
    assert "mask_decoder.iou_token.weight" in torch.load(output, weights_only=True)


@pytest.mark.parametrize("script", [export_onnx, merge])
def test_a_users_error_is_one_line(script, tmp_path, capsys):
    code = script.main(["--checkpoint", str(tmp_path / "none.pth"), "--output", str(tmp_path / "model.onnx")])
    assert (code, capsys.readouterr().err) == (2, f"error: {tmp_path}/none.pth: no such checkpoint file\n")
    with pytest.raises(SystemExit) as end:
        script.main(["--checkpoint", "w.pth"])
    assert end.value.code == 2
    assert "--output" in capsys.readouterr().err


def test_weights_that_do_not_fit_a_plain_sam_exit_with_2(tmp_path, capsys):
    weights = trained_file(tmp_path / "w.pth", "cad", 64)
    assert merge.main(["--checkpoint", str(weights), "--output", str(tmp_path / "sam.pth")]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "cad.sam_predictor" in error and "export_onnx.py" in error
