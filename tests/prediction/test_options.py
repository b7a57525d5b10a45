import pytest

from cad.prediction.options import prediction_parser

NEEDED = ["--checkpoint", "w.pth", "--input", "photos", "--output", "out"]


def test_defaults():
    args = prediction_parser("predict.py", "").parse_args(NEEDED)
    assert (args.threshold, args.tile, args.overlap, args.flip_average, args.batch_size) == (0.5, None, None, False, 4)
    assert [str(path) for path in args.input] == ["photos"] and not args.overwrite


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--threshold", "1.2"], "expected a probability from 0 to 1, found '1.2'"),
        (["--threshold", "half"], "expected a probability from 0 to 1, found 'half'"),
        (["--tile", "16"], "expected at least 32 pixels, found '16'"),
        (["--batch_size", "0"], "expected a whole number of at least 1, found '0'"),
    ],
)
def test_wrong_values_are_one_line(flags, message, capsys):
    with pytest.raises(SystemExit, match="2"):
        prediction_parser("predict.py", "").parse_args([*NEEDED, *flags])
    assert message in capsys.readouterr().err
