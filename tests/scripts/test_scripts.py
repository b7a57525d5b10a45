"""The scripts in-process, as their main functions: what a user gets, and what bad input gets."""

import errno
import json
import shutil
from pathlib import Path

import embed
import evaluate
import numpy as np
import pytest
import run_cad
import run_decoder
import run_sa
import summarize
import torch
from conftest import write_pairs
from PIL import Image

from cad.encoders.sam import SAM_SIZES, build_random_sam
from cad.trained_weights import read_weights

SCRIPTS = {"cad": run_cad, "sam_adapter": run_sa, "decoder": run_decoder}
FAST = ["--num_workers", "0", "--device", "cpu"]
SMALL = ["--model_type", "vit_demo", "--image_size", "32", "--batch_size", "2", "--epoch", "1"]
SMALL += ["--wandb", "disabled", *FAST]


@pytest.fixture
def flags(pair_folders, tmp_path):
    images, masks = map(str, pair_folders)
    return ["--train_image_dir", images, "--train_mask_dir", masks, "--output_dir", str(tmp_path / "out"), *SMALL]


def changed(flags, name, value):
    """The flags with another value for one of them."""
    at = flags.index(name) + 1
    return [*flags[:at], str(value), *flags[at + 1 :]]


@pytest.mark.parametrize("method", SCRIPTS)
def test_training_writes_weights_log_and_the_well_known_name(flags, tmp_path, method, capsys):
    assert SCRIPTS[method].main([*flags, "--publish", "mine.pth"]) == 0
    out = capsys.readouterr().out
    (run,) = [file.parent for file in (tmp_path / "out" / "runs").glob("*/args.json")]
    assert {file.name for file in run.iterdir()} >= {"args.json", "log.jsonl", "summary.json"}
    checkpoints = tmp_path / "out" / "checkpoints"
    assert {file.name for file in checkpoints.iterdir()} == {f"{run.name}.pth", "mine.pth"}
    assert read_weights(checkpoints / "mine.pth").metadata["method"] == method
    assert f"weights: {checkpoints / run.name}.pth and mine.pth" in out and f"log:     {run}" in out
    assert "trainable params: " in out and "epoch 1/1" in out


def test_evaluation_and_summary_print_one_row_a_method(flags, pair_folders, tmp_path, capsys):
    for script, name, more in (run_cad, "sam_cad.pth", ["--adapter", "cad_hires"]), (run_sa, "sam_sa.pth", []):
        assert script.main([*flags, "--publish", name, *more]) == 0
    capsys.readouterr()
    output = ["--output_dir", str(tmp_path / "out")]
    assert summarize.main(output) == 0
    summary = capsys.readouterr().out.splitlines()
    assert summary[0] == "means over validation images"
    assert [line.split()[0] for line in summary[3:5]] == ["cad_hires", "sam_adapter"]
    assert summary[5] == "Next: TEST_IMAGE_DIR=... TEST_MASK_DIR=... ./eval.sh scores them on the test set."
    assert "236,320" in summary[3] and summary[3].endswith("checkpoints/sam_cad.pth")

    weights = [str(tmp_path / "out" / "checkpoints" / name) for name in ("sam_cad.pth", "sam_sa.pth")]
    folders = ["--test_image_dir", str(pair_folders[0]), "--test_mask_dir", str(pair_folders[1])]
    assert evaluate.main(["--checkpoint", *weights, *folders, *FAST, *output]) == 0
    table = capsys.readouterr().out.splitlines()
    assert table[0].startswith("6 test images, compared at 32 pixels, mask threshold nonzero, maps not stretched")
    assert [line.split()[0] for line in table[3:5]] == ["cad_hires", "sam_adapter"]
    assert [line.split()[0] for line in table[8:]] == ["cad_hires", "sam_adapter", "results:"]


@pytest.fixture
def score(tmp_path, pair_folders, capsys):
    """Evaluate on the test pairs with some flags; returns (metrics.json, standard output, the folder)."""

    def run(*evaluation_flags):
        folders = ["--test_image_dir", str(pair_folders[0]), "--test_mask_dir", str(pair_folders[1])]
        output = ["--output_dir", str(tmp_path / "scored"), *FAST]
        capsys.readouterr()
        code = evaluate.main([*map(str, evaluation_flags), *folders, *output])
        printed = capsys.readouterr()
        assert code == 0, printed.err
        folder = max((tmp_path / "scored" / "runs").glob("*-eval"), key=lambda path: path.stat().st_mtime_ns)
        return json.loads((folder / "metrics.json").read_text()), printed.out, folder

    return run


ZERO_SHOT = ("--method", "zero_shot", "--model_type", "vit_demo", "--sam_checkpoint", "random")


def keep_pairs(pair_folders, names):
    for folder in pair_folders:
        for path in folder.iterdir():
            if path.stem not in names:
                path.unlink()


def test_zero_shot_beside_checkpoints_shares_their_sam(flags, tmp_path, score):
    assert run_cad.main([*flags, "--publish", "w.pth"]) == 0
    weights = tmp_path / "out" / "checkpoints" / "w.pth"
    found, out, folder = score("--checkpoint", weights, weights, "--method", "zero_shot", "--save_masks")
    assert list(found["methods"]) == ["w", "w_2", "zero_shot"]
    base = read_weights(weights).metadata["base"]
    assert found["methods"]["zero_shot"]["metadata"]["base"]["seed"] == base["seed"]
    same = [one for one in found["differences"] if (one["first"], one["second"]) == ("w", "w_2")]
    assert len(same) == 14 and {one["verdict"] for one in same} == {"no difference seen"}
    assert len(list((folder / "masks" / "w_2").iterdir())) == len(list((folder / "probabilities" / "w").iterdir())) == 6
    assert f"results: {folder}" in out


def test_original_size_and_the_published_mask_threshold_are_recorded(score):
    found, out, folder = score(*ZERO_SHOT, "--metric_size", "original", "--mask_threshold", "128", "--normalize_maps")
    choices = {"metric_size": "original", "mask_threshold": 128, "normalize_maps": True}
    assert found["protocol"].items() >= choices.items()
    assert "compared at the masks' own size, mask threshold 128, maps stretched to 0..1" in out
    written = {"metrics.json", "per_image.csv", "table.md", "table.tex", "comparison.png", "report.html"}
    assert {path.name for path in folder.iterdir()} == written


def test_a_test_set_of_one_image_has_values_without_intervals(score, pair_folders):
    keep_pairs(pair_folders, ["photo_2"])
    found, _, _ = score(*ZERO_SHOT)
    for estimate in found["methods"]["zero_shot"]["metrics"].values():
        assert estimate["value"] is not None and estimate["ci"] is None and "one image" in estimate["reason"]


def test_masks_that_are_all_empty_give_a_result(score, pair_folders):
    for path in pair_folders[1].iterdir():
        Image.fromarray(np.zeros((32, 40), np.uint8)).save(path)
    for protocol in ([], ["--mask_threshold", "128"]):
        found, out, _ = score(*ZERO_SHOT, *protocol)
        metrics = found["methods"]["zero_shot"]["metrics"]
        undefined = {name for name, estimate in metrics.items() if estimate["value"] is None}
        assert undefined == {"weighted_f", "f_measure", "ber_pooled"}
        assert all(metrics[name]["reason"] for name in undefined)
        assert "nan" not in out.lower()


def test_weights_of_different_image_sizes_are_compared_at_one(flags, tmp_path, score):
    files = []
    for size in (32, 64):
        assert run_decoder.main([*changed(flags, "--image_size", size), "--publish", f"{size}.pth"]) == 0
        files.append(tmp_path / "out" / "checkpoints" / f"{size}.pth")
    found, out, _ = score("--checkpoint", *files)
    assert "the weights' image sizes differ (32, 64): all are compared at 512 pixels" in out
    assert found["protocol"]["metric_size"] == 512 and list(found["methods"]) == ["32", "64"]
    found, out, _ = score("--checkpoint", *files, "--metric_size", "40")
    assert found["protocol"]["metric_size"] == 40 and "image sizes differ (" not in out


def test_embedding_ahead_leaves_nothing_to_encode_for_cad_and_decoder(flags, tmp_path, capsys):
    assert embed.main(flags) == 0
    assert not (tmp_path / "out" / "checkpoints").exists()
    assert "embeddings: 6 of 0.03 MiB in fp16" in capsys.readouterr().out
    for script in (run_cad, run_decoder):
        assert script.main(flags) == 0
        assert "encoded 0 views, 6 were in the cache" in capsys.readouterr().out


def test_a_damaged_embedding_is_made_again(flags, tmp_path, capsys):
    assert embed.main(flags) == 0
    entry = sorted((tmp_path / "out" / "runs" / "embeddings").rglob("*.embedding"))[0]
    whole = entry.read_bytes()
    entry.write_bytes(whole[:100] + b"?" + whole[101:])
    capsys.readouterr()
    assert embed.main(flags) == 0
    assert "encoded 1 views, 5 were in the cache" in capsys.readouterr().out
    assert entry.read_bytes() == whole


def test_a_full_disk_ends_the_run_with_one_line_and_the_cache_stays_usable(flags, capsys, monkeypatch):
    rename, stored = Path.replace, []

    def rename_until_full(self, target):
        if len(stored) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        stored.append(target)
        return rename(self, target)

    monkeypatch.setattr(Path, "replace", rename_until_full)
    assert embed.main(flags) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and errors[0].endswith("cannot be written: No space left on device")
    monkeypatch.undo()
    assert embed.main(flags) == 0
    assert "encoded 4 views, 2 were in the cache" in capsys.readouterr().out


# What bad input gets: one line, exit code 2, nothing written.


def assert_refused(capsys, tmp_path, script, flags, expected):
    capsys.readouterr()
    try:
        code = script.main(flags)
    except SystemExit as end:  # argparse's way
        code = end.code
    assert code == 2
    lines = capsys.readouterr().err.strip().splitlines()
    errors = [line for line in lines if line.startswith("error: ")]
    assert len(errors) == 1 and "Traceback" not in "".join(lines)
    assert expected in errors[0]
    assert not (tmp_path / "out").exists()


def test_missing_and_empty_folders(capsys, tmp_path, flags):
    missing = changed(flags, "--train_image_dir", tmp_path / "nowhere")
    assert_refused(capsys, tmp_path, run_cad, missing, "nowhere: no such folder")
    (tmp_path / "empty").mkdir()
    empty = changed(flags, "--train_mask_dir", tmp_path / "empty")
    assert_refused(capsys, tmp_path, run_cad, empty, "empty: no image files found")


def test_files_without_a_partner_and_leaving_them_out(capsys, tmp_path, flags, pair_folders):
    (pair_folders[1] / "photo_3.png").unlink()
    assert_refused(capsys, tmp_path, run_sa, flags, "1 images without a mask (photo_3.jpg)")
    assert run_sa.main([*flags, "--skip_unpaired"]) == 0
    assert "1 images without a mask (photo_3.jpg): left out, 5 pairs remain" in capsys.readouterr().out


def test_a_mask_without_an_image(capsys, tmp_path, flags, pair_folders):
    (pair_folders[0] / "photo_3.jpg").unlink()
    assert_refused(capsys, tmp_path, run_cad, flags, "1 masks without an image (photo_3.png)")


def test_the_same_stem_twice(capsys, tmp_path, flags, pair_folders):
    shutil.copy(pair_folders[1] / "photo_1.png", pair_folders[0] / "photo_1.png")
    assert_refused(capsys, tmp_path, run_cad, flags, "photo_1.jpg and photo_1.png")


def test_a_truncated_file(capsys, tmp_path, flags, pair_folders):
    damaged = pair_folders[1] / "photo_2.png"
    damaged.write_bytes(damaged.read_bytes()[:-30])
    assert_refused(capsys, tmp_path, run_cad, flags, "photo_2.png: unreadable or truncated image file")


def test_an_image_and_a_mask_of_different_size(capsys, tmp_path, flags, pair_folders):
    Image.fromarray(np.zeros((9, 7), np.uint8)).save(pair_folders[1] / "photo_2.png")
    assert_refused(capsys, tmp_path, run_cad, flags, "is 7x9: expected the same size")


def test_checkpoints_that_cannot_be_used(capsys, tmp_path, flags):
    checkpoint = tmp_path / "sam.pth"

    def refused(expected):
        assert_refused(capsys, tmp_path, run_cad, [*flags, "--checkpoint", str(checkpoint)], expected)

    refused("sam.pth: no such file")
    state = build_random_sam(SAM_SIZES["vit_demo"], 0).state_dict()
    torch.save(state, checkpoint)
    checkpoint.write_bytes(checkpoint.read_bytes()[:-5000])
    refused("sam.pth: truncated")
    torch.save({name: tensor for name, tensor in state.items() if "neck" not in name}, checkpoint)
    refused("tensors are missing (first: image_encoder.neck.0.weight)")
    torch.save({"image_encoder.pos_embed": tmp_path}, checkpoint)
    refused("could run code")


def test_numbers_below_one_and_unknown_model_types(capsys, tmp_path, flags):
    for name, value in ("--batch_size", 0), ("--epoch", 0), ("--image_size", 0), ("--model_type", "vit_x"):
        assert_refused(capsys, tmp_path, run_cad, changed(flags, name, value), name)
    for rate in ("0", "nan", "much"):
        assert_refused(capsys, tmp_path, run_cad, [*flags, "--lr", rate], "--lr: expected a positive number")


def test_a_batch_larger_than_the_data_set(capsys, tmp_path, flags):
    assert_refused(capsys, tmp_path, run_cad, changed(flags, "--batch_size", 6), "larger than the data set of 5")


def test_no_data_is_an_error_and_not_the_demo(capsys, tmp_path):
    assert_refused(capsys, tmp_path, run_cad, ["--output_dir", str(tmp_path / "out")], "--train_image_dir is not set")


def test_evaluation_refuses_what_it_cannot_score(capsys, tmp_path, flags):
    output = ["--output_dir", str(tmp_path / "no-output"), *FAST]

    def refused(expected, *evaluation_flags):
        assert_refused(capsys, tmp_path / "x", evaluate, [*evaluation_flags, *output], expected)

    refused("nothing.pth: no such checkpoint file", "--checkpoint", str(tmp_path / "nothing.pth"))
    assert run_cad.main([*flags, "--publish", "w.pth"]) == 0
    weights = str(tmp_path / "out" / "checkpoints" / "w.pth")
    refused("--test_image_dir and --test_mask_dir are not set", "--checkpoint", weights)
    refused("--test_mask_dir is not set", "--checkpoint", weights, "--test_image_dir", "i")
    refused("holds vit_demo, not --model_type vit_b", "--checkpoint", weights, "--model_type", "vit_b")
    refused("w.pth: holds weights of cad, not of --method decoder", "--checkpoint", weights, "--method", "decoder")
    refused("no checkpoint: pass --checkpoint FILE")
    refused("--metric_size: expected a whole number of at least 1", "--checkpoint", weights, "--metric_size", "big")
    empty = tmp_path / "no-masks"
    empty.mkdir()
    images = str(tmp_path / "data" / "image")
    missing = ["--test_image_dir", images, "--test_mask_dir", str(empty)]
    refused("no-masks: no image files found", "--checkpoint", weights, *missing)
    shutil.copy(tmp_path / "data" / "mask" / "photo_1.png", empty)
    refused("5 images without a mask (photo_0.jpg", "--checkpoint", weights, *missing)
    refused("i: no such folder", "--checkpoint", weights, "--test_image_dir", "i", "--test_mask_dir", "m")


def test_a_summary_without_runs_says_so(capsys, tmp_path):
    assert_refused(capsys, tmp_path, summarize, ["--output_dir", str(tmp_path)], "no finished run")


def test_a_demo_never_replaces_weights_of_a_real_run(capsys, tmp_path, flags, monkeypatch):
    assert run_cad.main([*flags, "--publish", "sam_cad.pth"]) == 0
    monkeypatch.setattr("cad.datasets.demo.DEMO_COUNTS", {"train": 4, "test": 2})
    published = tmp_path / "out" / "checkpoints" / "sam_cad.pth"
    before = published.read_bytes()
    demo = ["--demo", "shadow", "--epoch", "1", "--image_size", "32", "--batch_size", "2", "--wandb", "disabled", *FAST]
    assert run_cad.main([*demo, "--output_dir", str(tmp_path / "out"), "--publish", "sam_cad.pth"]) == 0
    assert "not copied to checkpoints/sam_cad.pth" in capsys.readouterr().err
    assert published.read_bytes() == before


def test_relative_paths_are_relative_to_where_the_user_stands(flags, tmp_path, monkeypatch):
    write_pairs(tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    relative = changed(changed(flags, "--train_image_dir", "image"), "--train_mask_dir", "mask")
    assert run_cad.main(relative) == 0


@pytest.mark.slow
def test_the_demo_learns(tmp_path, capsys):
    """The loss falls, and CAD's Dice on the demo's test set is above 0.6."""
    output = ["--output_dir", str(tmp_path / "out")]
    assert run_cad.main(["--demo", "camouflage", "--wandb", "disabled", "--publish", "sam_cad.pth", *output]) == 0
    out = capsys.readouterr().out
    losses = [float(line.split("loss ")[1].split()[0]) for line in out.splitlines() if line.startswith("epoch ")]
    assert losses[-1] < 0.8 * losses[0]
    assert evaluate.main(["--checkpoint", str(tmp_path / "out" / "checkpoints" / "sam_cad.pth"), *output]) == 0
    row = next(line.split() for line in capsys.readouterr().out.splitlines() if line.startswith("cad "))
    assert float(row[1]) > 0.6
