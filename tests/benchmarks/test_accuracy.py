import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import write_pairs

from cad.adapters.adapter_design import AdapterDesign
from cad.errors import UserError
from cad.evaluation.compared import Compared
from cad.evaluation.scoring import Machine, Protocol
from cad.metrics.intervals import Scores
from cad.options import PROJECT_ROOT
from cad.training.options import resolve_training, training_parser

sys.path.insert(0, str(PROJECT_ROOT / "benchmarks"))
import accuracy
import accuracy_report
import accuracy_training

DESIGNS = {
    "cad": AdapterDesign(),
    "cad_hires": AdapterDesign("cad_hires"),
    "cad_relative": AdapterDesign("cad", 1.0, "relative"),
    "cad_hires_relative": AdapterDesign("cad_hires", 1.0, "relative"),
    "cad_hires_fixed_1": AdapterDesign("cad_hires", 1.0, "fixed"),
    "cad_hires_scalar": AdapterDesign("cad_hires", 1.0, "scalar"),
    "cad_hires_channel": AdapterDesign("cad_hires", 1.0, "channel"),
    "cad_hires_no_high_frequency": AdapterDesign("cad_hires", 1.0, "relative", high_frequency=False),
    "cad_hires_structure_loss": AdapterDesign("cad_hires", 1.0, "relative"),
}


@pytest.mark.parametrize("model_type", ["vit_demo", "efficientnet_lite0"])
def test_configurations_train_what_their_names_say_whatever_the_defaults_are(model_type):
    data = ["--train_image_dir", "i", "--train_mask_dir", "m", "--model_type", model_type]
    found = {
        name: AdapterDesign.from_flags(resolve_training(training_parser("", "").parse_args([*data, *flags])))
        for name, (method, flags) in accuracy_training.CONFIGURATIONS.items()
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
        (["--methods", "decoder", "--from_weights", "decoder=a.pth"], "decoder: named twice"),
        (["--from_weights", "a=1.pth", "b=2.pth", "a=3.pth"], "a: named twice"),
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
    assert accuracy_training.part_of(data, None, out, "train") == data
    chosen, masks_of_chosen = accuracy_training.part_of(data, 3, out, "train")
    names = sorted(path.name for path in images.iterdir())
    assert sorted(path.name for path in chosen.iterdir()) == [names[0], names[4], names[8]]
    assert sorted(path.stem for path in masks_of_chosen.iterdir()) == sorted(path.stem for path in chosen.iterdir())
    assert accuracy_training.part_of(data, 3, out, "train")[0] == chosen
    (images / "no_mask.png").write_bytes((images / names[0]).read_bytes())
    with pytest.raises(UserError, match="pass --skip_unpaired"):
        accuracy_training.part_of(data, 3, out, "train")
    paired, _ = accuracy_training.part_of(data, None, out, "train", skip_unpaired=True)
    assert sorted(path.name for path in paired.iterdir()) == names
    (images / "no_mask.png").unlink()
    (images / names[4]).write_bytes((images / names[3]).read_bytes())
    assert accuracy_training.part_of(data, 3, out, "train")[0] != chosen


def test_test_images_that_cannot_be_read_are_refused_before_anything_is_trained(tmp_path, monkeypatch):
    train, test = write_pairs(tmp_path / "train", 3), write_pairs(tmp_path / "test", 2)
    flags = ["--train_image_dir", train[0], "--train_mask_dir", train[1], "--test_image_dir", test[0]]
    flags += ["--test_mask_dir", test[1], "--output_dir", tmp_path / "out"]
    monkeypatch.setattr(accuracy, "trained_weights", lambda *_: pytest.fail("trained"))
    mask = next(test[1].iterdir())
    mask.write_bytes(mask.read_bytes()[:40])
    monkeypatch.setattr(sys, "argv", ["accuracy.py", *map(str, flags)])
    with pytest.raises(UserError, match=mask.name):
        accuracy.main()
    monkeypatch.setattr(sys, "argv", ["accuracy.py", *map(str, flags), "--quick", "--test_mask_dir", "nowhere"])
    with pytest.raises(UserError, match="--test_mask_dir nowhere: no such folder"):
        accuracy.main()


def test_a_finished_training_is_used_again_for_the_same_flags_and_files_only(tmp_path, monkeypatch):
    def train(command):
        trained.append(command)
        folder = Path(command[command.index("--output_dir") + 1])
        (folder / "runs" / "a").mkdir(parents=True, exist_ok=True)
        (folder / "runs" / "a" / "summary.json").write_text('{"weights": "checkpoints/a.pth"}')
        return 0

    trained = []
    monkeypatch.setattr(accuracy_training, "run_to_its_end", train)
    args = read("--train_image_dir", "i", "--train_mask_dir", "m", "--output_dir", str(tmp_path))
    folders = Path("i"), Path("m")
    weights = tmp_path / "runs" / "cad-seed21" / "checkpoints" / "a.pth"
    for _ in range(2):
        assert accuracy_training.trained_weights(args, folders, "one", "cad", 21) == weights
    assert len(trained) == 1
    assert trained[0][trained[0].index("--val_fraction") + 1] == "0"  # no epoch is chosen
    with pytest.raises(UserError, match="trained on other images or masks"):
        accuracy_training.trained_weights(args, folders, "two", "cad", 21)
    args.epochs += 1
    with pytest.raises(UserError, match="trained with other flags"):
        accuracy_training.trained_weights(args, folders, "one", "cad", 21)
    monkeypatch.setattr(accuracy_training, "run_to_its_end", lambda _: 130)
    with pytest.raises(UserError, match="the same command goes on"):
        accuracy_training.trained_weights(args, folders, "one", "cad", 22)


def test_a_training_is_given_the_time_to_save_when_the_benchmark_is_stopped(tmp_path):
    saves = "import signal, time\nsignals = []\nsignal.signal(signal.SIGTERM, lambda *_: signals.append(1))\n"
    saves += "print('ready', flush=True)\nfor _ in range(200):\n    time.sleep(0.05)\n    if signals: break\n"
    saves += f"time.sleep(0.5)\nopen({str(tmp_path / 'saved')!r}, 'w')\nraise SystemExit(7)"
    outer = f"import sys; sys.path[:0] = {sys.path!r}; from accuracy_training import run_to_its_end\n"
    outer += f"sys.exit(run_to_its_end([sys.executable, '-c', {saves!r}]))"
    with subprocess.Popen([sys.executable, "-c", outer], stdout=subprocess.PIPE, text=True) as benchmark:
        assert benchmark.stdout.readline() == "ready\n"
        benchmark.send_signal(signal.SIGINT)  # from the terminal, which sends it to the training too
        benchmark.terminate()
        assert benchmark.wait(20) == 7
    assert (tmp_path / "saved").exists()


def test_scores_are_kept_for_the_same_weights_files_and_protocol_only(tmp_path, monkeypatch):
    scored = []
    monkeypatch.setattr(accuracy, "score_method", lambda *_: scored.append(1) or a_score(len(scored)))
    weights = tmp_path / "a.pth"
    weights.write_bytes(b"first")

    def score(data="one", size=64):
        method = Compared("cad", "cad", str(weights), {"image_size": 64}, lambda: torch.nn.Identity())
        protocol = Protocol(metric_size=size, mask_threshold=None, normalize_maps=False)
        machine = Machine(torch.device("cpu"), 1, 0, None)
        return accuracy.kept_scores(tmp_path / "kept" / "cad.pth", method, [], data, protocol, machine).values["iou"][0]

    assert [score(), score(), score("two"), score("two"), score("two", 32)] == [1, 1, 2, 2, 3]
    weights.write_bytes(b"second")
    assert score("two", 32) == 4


def a_score(value):
    return Scores({"iou": np.array([float(value)])}, np.zeros((1, 256)), np.zeros((1, 4)))


def test_configurations_of_nearly_the_same_memory_are_drawn_side_by_side():
    rows = {
        name: accuracy_report.Row({}, ["a.pth"], None, memory, None)
        for name, memory in (("a", 79.0), ("b", 19.0), ("c", 76.0), ("zero_shot", None))
    }
    Place = accuracy_report.Place
    places = accuracy_report.side_by_side(rows, near=8)
    assert places == {"b": Place(0, 19.0, 7), "c": Place(0, 79.0, 15), "a": Place(8, 79.0, 15)}


def test_names_of_nearly_the_same_height_are_moved_apart_and_others_stay():
    heights = {"a": 12.0, "b": 50.0, "c": 10.0, "d": 13.0}
    assert accuracy_report.moved_apart(heights, 9.0) == {"c": 0.0, "a": 7.0, "d": 15.0, "b": 0.0}
