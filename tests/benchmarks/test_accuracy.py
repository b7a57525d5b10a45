import sys

import pytest
from conftest import write_pairs

from cad.models.adapter_design import AdapterDesign
from cad.options import PROJECT_ROOT
from cad.training.options import resolve_training, training_parser

sys.path.insert(0, str(PROJECT_ROOT / "benchmarks"))
import accuracy
import accuracy_report

DESIGNS = {
    "cad": AdapterDesign(),
    "cad_hires": AdapterDesign("cad_hires"),
    "cad_relative": AdapterDesign("cad", 1.0, "relative"),
    "cad_hires_relative": AdapterDesign("cad_hires", 1.0, "relative"),
    "cad_channel": AdapterDesign("cad", 0.1, "channel"),
    "cad_hires_channel": AdapterDesign("cad_hires", 0.1, "channel"),
}


@pytest.mark.parametrize("model_type", ["vit_demo", "efficientnet_lite0"])
def test_configurations_train_what_their_names_say_whatever_the_defaults_are(model_type):
    data = ["--train_image_dir", "i", "--train_mask_dir", "m", "--model_type", model_type]
    found = {
        name: AdapterDesign.from_flags(resolve_training(training_parser("", "").parse_args([*data, *flags])))
        for name, (method, flags) in accuracy.CONFIGURATIONS.items()
        if method == "cad"
    }
    assert found == DESIGNS


def read(*flags):
    return accuracy.read_arguments(["--test_image_dir", "i", "--test_mask_dir", "m", "--output_dir", "o", *flags])


def test_what_cannot_work_is_refused_before_anything_is_trained(capsys):
    for flags, message in (
        (["--methods", "cad"], "training needs --train_image_dir and --train_mask_dir"),
        (["--methods", "zero_shot"], "--methods zero_shot: need SAM's own encoder, not efficientnet_lite0"),
        (["--from_weights", "cad"], "expected NAME=FILE,FILE"),
    ):
        with pytest.raises(SystemExit):
            read(*flags)
        assert message in capsys.readouterr().err
    assert read("--methods", "zero_shot", "--model_type", "vit_demo").methods == ["zero_shot"]


def test_quick_is_less_of_what_no_flag_says():
    training = ["--train_image_dir", "i", "--train_mask_dir", "m", "--quick"]
    assert {name: getattr(read(*training), name) for name in accuracy.QUICK} == accuracy.QUICK
    args = read(*training, "--epochs", "1", "--train_images", "5")
    assert (args.epochs, args.train_images, args.seeds) == (1, 5, accuracy.QUICK["seeds"])


def test_a_part_of_the_images_is_spread_over_the_names_and_kept_by_content(tmp_path):
    images, masks = write_pairs(tmp_path / "data", 9)
    data, out = (images, masks), tmp_path / "out"
    assert accuracy.part_of(data, None, out) == data
    chosen, masks_of_chosen = accuracy.part_of(data, 3, out)
    names = sorted(path.name for path in images.iterdir())
    assert sorted(path.name for path in chosen.iterdir()) == [names[0], names[4], names[8]]
    assert sorted(path.stem for path in masks_of_chosen.iterdir()) == sorted(path.stem for path in chosen.iterdir())
    assert accuracy.part_of(data, 3, out)[0] == chosen
    (images / names[4]).write_bytes((images / names[3]).read_bytes())
    assert accuracy.part_of(data, 3, out)[0] != chosen


def test_configurations_of_nearly_the_same_memory_are_drawn_side_by_side():
    rows = {
        name: accuracy_report.Row({}, ["a.pth"], None, memory, None)
        for name, memory in (("a", 79.0), ("b", 19.0), ("c", 76.0), ("zero_shot", None))
    }
    offsets = accuracy_report.side_by_side(rows, near=8)
    assert offsets == {"b": (0, 7), "c": (0, 15), "a": (8, 15)}
