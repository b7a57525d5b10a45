import download_sam
import pytest

from cad.encoders.sam import SAM_SIZES


def test_the_flags_reach_the_download(monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr("cad.encoders.download.download_sam", lambda *arguments: asked.append(arguments))
    assert download_sam.main(["--model_type", "vit_h", "--output_dir", str(tmp_path)]) == 0
    flags = [
        "--model_type",
        "vit_b",
        "--output_dir",
        str(tmp_path),
        "--url",
        "https://host/x.pth",
        "--sha256",
        "AB" * 32,
    ]
    assert download_sam.main(flags) == 0
    assert asked == [
        ("vit_h", tmp_path / "checkpoints", None, None),
        ("vit_b", tmp_path / "checkpoints", "https://host/x.pth", "ab" * 32),
    ]


def test_a_wrong_file_in_place_is_one_line_and_exit_code_2(tmp_path, capsys):
    file = tmp_path / "checkpoints" / SAM_SIZES["vit_b"].file_name
    file.parent.mkdir()
    file.write_bytes(b"mine")
    assert download_sam.main(["--model_type", "vit_b", "--output_dir", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {file}: is there already, with SHA-256 ") and error.count("\n") == 1


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ([], "--model_type"),
        (["--model_type", "vit_demo"], "--model_type: invalid choice: 'vit_demo'"),
        (["--model_type", "vit_b", "--sha256", "ec2d"], "--sha256: expected 64 hexadecimal digits, found 'ec2d'"),
    ],
)
def test_bad_flags_are_one_line(flags, expected, capsys):
    with pytest.raises(SystemExit) as end:
        download_sam.main(flags)
    error = capsys.readouterr().err
    assert end.value.code == 2 and expected in error and error.count("\n") == 1
