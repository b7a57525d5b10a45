import json

import memory
import pytest

SMALL = ["--model_type", "vit_demo", "--image_size", "64", "--batch_size", "1"]


@pytest.mark.parametrize("method", ["cad", "sam_adapter", "decoder"])
def test_json_has_the_promised_keys(method, capsys):
    assert memory.main(["--method", method, *SMALL, "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    peaks = {name: record.pop(name) for name in ("train_peak_mib", "encode_peak_mib")}
    assert peaks["train_peak_mib"] > 1
    assert (peaks["encode_peak_mib"] is None) == (method == "sam_adapter")
    assert record.pop("trainable_parameters") > 10_000
    if method == "cad":
        assert record.pop("adapter") == "cad"
    assert record == {"method": method, "model_type": "vit_demo", "batch_size": 1, "precision": "fp32"}


def test_the_text_says_what_is_counted_and_the_margin(capsys):
    assert memory.main(["--method", "decoder", *SMALL]) == 0
    text = capsys.readouterr().out
    assert text.startswith("decoder with vit_demo, predicted, not run: batch 1, fp32, 64 pixels\n")
    assert "Counted: tensors" in text and "15% and 600 MiB: assumed, not measured" in text


def test_the_high_resolution_path_is_predicted_too(capsys):
    peaks = []
    for adapter in ("cad", "cad_hires"):
        assert memory.main(["--method", "cad", "--adapter", adapter, *SMALL]) == 0
        text = capsys.readouterr().out
        assert text.startswith(f"{adapter} with vit_demo, ")
        peaks.append(int(text.split("trainable parameters")[1].split()[0].replace(",", "")))
    assert peaks[1] - peaks[0] == 64 * 8 + 64 * 16


def test_the_table_has_every_method_and_size(capsys):
    from cad.training.memory import peak_memory

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(peak_memory, "predict_peak", lambda args, method: peak_memory.PeakMemory(900.0, None, 1))
        assert memory.main(["--table"]) == 0
        rows = [line for line in capsys.readouterr().out.splitlines() if "vit_" in line]
        assert len(rows) == 12 and "sam_adapter (checkpointing)  vit_h" in rows[-1]
        assert memory.main(["--table", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)) == 12


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--method", "cad", "--frobnicate"], "--frobnicate"),
        (["--method", "cad", "--batch_size", "0"], "--batch_size: expected a whole number of at least 1"),
        (["--method", "cad", "--image_size", "100"], "--image_size: expected a positive multiple of 8"),
        (["--method", "zero_shot"], "--method"),
        ([], "one of the arguments --method --table is required"),
    ],
)
def test_bad_flags_get_one_line(flags, expected, capsys):
    with pytest.raises(SystemExit) as end:
        memory.main(flags)
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert end.value.code == 2 and line.startswith("error: ") and expected in line
