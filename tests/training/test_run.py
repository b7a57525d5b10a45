import argparse
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import write_pairs
from PIL import Image
from training_runs import log_of, resolved

from cad.adapters.adapter_design import AdapterDesign
from cad.errors import UserError
from cad.options import PROJECT_ROOT, TRAINED_METHODS
from cad.trained_weights import load_segmenter, read_weights
from cad.training.run import build_segmenter, embed, find_data, make_loaders, plain_settings, train
from cad.training.stopping import StopRequest


def without_times(records):
    return [{key: value for key, value in record.items() if key != "seconds"} for record in records]


@pytest.mark.parametrize("method", TRAINED_METHODS)
def test_two_runs_give_identical_numbers_and_weights(pair_folders, tmp_path, method):
    states = []
    for name in ("a", "b"):
        weights = train(resolved(pair_folders, tmp_path / name), method)
        states.append(read_weights(weights).state)
    assert without_times(log_of(tmp_path / "a")) == without_times(log_of(tmp_path / "b"))
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


def test_a_run_ends_with_curves_and_a_page(pair_folders, tmp_path, capsys):
    train(resolved(pair_folders, tmp_path, "--epoch", "1"), "cad")
    folder = next((tmp_path / "runs").glob("*/log.jsonl")).parent
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert (folder / "curves.png").is_file() and f"report:  {folder}" in capsys.readouterr().out
    assert "Random encoder" in page and "image_size" in page and "prediction of photo_" in page


def test_a_report_that_fails_costs_only_the_report(pair_folders, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("cad.reports.report.write_curves", lambda *_: 1 / 0)
    weights = train(resolved(pair_folders, tmp_path, "--epoch", "1"), "cad")
    assert read_weights(weights).state
    assert "no report of the run: ZeroDivisionError" in capsys.readouterr().err


def test_workers_do_not_change_a_number(pair_folders, tmp_path):
    train(resolved(pair_folders, tmp_path / "a"), "cad")
    train(resolved(pair_folders, tmp_path / "b", "--num_workers", "2"), "cad")
    assert without_times(log_of(tmp_path / "a")) == without_times(log_of(tmp_path / "b"))


@pytest.mark.parametrize("method", ["cad", "decoder"])
def test_a_cached_run_equals_an_uncached_one(pair_folders, tmp_path, method):
    flags = ["--epoch", "3", "--views", "3", "--cache_dtype", "fp32"]
    train(resolved(pair_folders, tmp_path / "a", *flags), method)
    train(resolved(pair_folders, tmp_path / "b", *flags, "--no_cache", "--batch_size", "2"), method)
    for cached, uncached in zip(log_of(tmp_path / "a"), log_of(tmp_path / "b"), strict=True):
        for part in ("train", "validation"):
            assert cached[part] == pytest.approx(uncached[part], rel=1e-6, abs=1e-6)


def test_a_second_run_encodes_nothing_and_neither_does_another_method(pair_folders, tmp_path, capsys):
    train(resolved(pair_folders, tmp_path, "--views", "1"), "cad")
    assert "encoded 6 views, 0 were in the cache" in capsys.readouterr().out
    train(resolved(pair_folders, tmp_path, "--views", "1"), "decoder")
    assert "encoded 0 views, 6 were in the cache" in capsys.readouterr().out
    assert embed(resolved(pair_folders, tmp_path, "--views", "1")) == 0
    # Half of the second views are not augmented: they are the images themselves, and these the cache has by now.
    assert embed(resolved(pair_folders, tmp_path, "--views", "0")) <= 5
    assert embed(resolved(pair_folders, tmp_path, "--views", "2")) < 5


def test_the_encoder_is_gone_before_training_starts(pair_folders, tmp_path):
    args = resolved(pair_folders, tmp_path)
    segmenter, base = build_segmenter(args, "cad", torch.device("cpu"))
    make_loaders(segmenter, base, find_data(args), args, torch.device("cpu"), StopRequest())
    assert not list(segmenter.image_encoder.parameters())
    with pytest.raises(RuntimeError, match="the encoder was dropped"):
        segmenter.encode(torch.zeros(1, 3, 32, 32, dtype=torch.uint8))


@pytest.mark.parametrize("precision", ["bf16", pytest.param("fp16", marks=pytest.mark.slow)])
@pytest.mark.parametrize("method", ["cad", "decoder", pytest.param("sam_adapter", marks=pytest.mark.slow)])
def test_half_precision_trains_close_to_full_precision(pair_folders, tmp_path, method, precision):
    train(resolved(pair_folders, tmp_path / "a"), method)
    train(resolved(pair_folders, tmp_path / "b", "--precision", precision), method)
    for full, half in zip(log_of(tmp_path / "a"), log_of(tmp_path / "b"), strict=True):
        assert half["train"]["bce"] == pytest.approx(full["train"]["bce"], rel=0.05)


@pytest.mark.parametrize("method", ["sam_adapter", "decoder"])  # BatchNorm sees the smaller batch
def test_accumulated_batches_equal_one_large_batch(pair_folders, tmp_path, method):
    flags = ["--val_fraction", "0"]
    train(resolved(pair_folders, tmp_path / "a", *flags, "--batch_size", "4"), method)
    train(resolved(pair_folders, tmp_path / "b", *flags, "--batch_size", "2", "--accumulate", "2"), method)
    for large, accumulated in zip(log_of(tmp_path / "a"), log_of(tmp_path / "b"), strict=True):
        assert accumulated["train"]["bce"] == pytest.approx(large["train"]["bce"], rel=1e-5)


def test_lean_and_plain_adapters_train_alike(pair_folders, tmp_path):
    for execution in ("lean", "plain"):
        train(resolved(pair_folders, tmp_path / execution, "--adapter_execution", execution), "cad")
    for lean, plain in zip(log_of(tmp_path / "lean"), log_of(tmp_path / "plain"), strict=True):
        assert lean["train"]["bce"] == pytest.approx(plain["train"]["bce"], rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
    "flags",
    [
        ("--adapter", "cad_hires"),
        ("--adapter_gate", "channel", "--adapter_scale", "0.5"),
        ("--adapter_gate", "relative", "--no_high_frequency"),
        ("--loss", "structure"),
    ],
)
def test_other_adapters_and_losses_train_to_other_weights_that_load(pair_folders, tmp_path, flags):
    published = train(resolved(pair_folders, tmp_path / "published"), "cad")
    args = resolved(
        pair_folders, tmp_path / "other", *flags, "--cache_dir", str(tmp_path / "published/runs/embeddings")
    )
    weights = train(args, "cad")
    segmenter, metadata = load_segmenter(weights, tmp_path)
    assert segmenter.design == AdapterDesign.from_flags(args)
    assert metadata["adapter"] == args.adapter and metadata["settings"]["loss"] == args.loss
    other, first = (read_weights(path).state["conv_adapter.conv_up.weight"] for path in (weights, published))
    assert not torch.equal(other, first)
    for name in set(segmenter.trained_state()) - set(read_weights(published).state):
        start = 0.5 if name.startswith("adapter_gate") else 0.0
        assert (segmenter.trained_state()[name] != start).any(), name
    # Scores are the same measures whatever the loss is.
    assert set(log_of(tmp_path / "other")[0]["train"]) == {"bce", "iou_loss", "dice", "iou"}


def test_the_log_has_losses_metrics_and_the_rate_of_every_epoch(pair_folders, tmp_path):
    train(resolved(pair_folders, tmp_path, "--epoch", "4"), "cad")
    records = log_of(tmp_path)
    assert [record["epoch"] for record in records] == [1, 2, 3, 4]
    assert set(records[0]["train"]) == set(records[0]["validation"]) == {"bce", "iou_loss", "dice", "iou"}
    # cosine from vit_demo's 2e-3 to 0 over 4 epochs: at 0, 1/4, 1/2 and 3/4 of half a period
    assert [record["learning_rate"] for record in records] == pytest.approx(
        [2e-3, 1.7071e-3, 1e-3, 0.29289e-3], rel=1e-4
    )
    assert records[-1]["train"]["bce"] < records[0]["train"]["bce"]


def test_the_kept_weights_are_those_of_the_best_validation_epoch(pair_folders, tmp_path):
    weights = train(resolved(pair_folders, tmp_path, "--epoch", "5", "--lr", "3e-3"), "cad")
    validation = [record["validation"]["iou"] for record in log_of(tmp_path)]
    metrics = read_weights(weights).metadata["metrics"]
    assert metrics["iou"] == max(validation)
    assert metrics["epoch"] == validation.index(max(validation)) + 1
    assert metrics["on"] == "validation"
    segmenter, _ = load_segmenter(weights, tmp_path)
    assert not segmenter.training


def test_without_validation_the_last_epoch_is_kept(pair_folders, tmp_path):
    weights = train(resolved(pair_folders, tmp_path, "--val_fraction", "0"), "cad")
    metadata = read_weights(weights).metadata
    assert (metadata["metrics"]["on"], metadata["metrics"]["epoch"]) == ("training", 2)
    assert "validation" not in log_of(tmp_path)[0]


def test_validation_folders_are_used_and_all_training_images_with_them(pair_folders, tmp_path, capsys):
    images, masks = write_pairs(tmp_path / "val", count=2, first=50)
    train(resolved(pair_folders, tmp_path, "--val_image_dir", str(images), "--val_mask_dir", str(masks)), "cad")
    assert "6 training and 2 validation images at 32 pixels" in capsys.readouterr().out


def test_the_metadata_describe_the_run(pair_folders, tmp_path):
    weights = train(resolved(pair_folders, tmp_path), "cad")
    metadata = read_weights(weights).metadata
    assert (metadata["method"], metadata["model_type"], metadata["image_size"]) == ("cad", "vit_demo", 32)
    assert metadata["base"]["source"] == "random" and metadata["base"]["seed"] == 21
    assert len(metadata["base"]["sha256"]) == 64
    assert metadata["settings"]["lr"] == 2e-3 and not metadata["demo"]
    summary = json.loads((tmp_path / "runs" / weights.stem / "summary.json").read_text())
    assert summary["weights"] == f"checkpoints/{weights.name}"
    assert summary["trainable_parameters"] == metadata["trainable_parameters"] == 234_784


def test_a_batch_larger_than_the_data_is_refused_before_anything_is_written(pair_folders, tmp_path):
    with pytest.raises(
        UserError, match="--batch_size 6: larger than the data set of 5 training images .1 more are for validation"
    ):
        train(resolved(pair_folders, tmp_path / "out", "--batch_size", "6"), "cad")
    assert not (tmp_path / "out").exists()


def test_masks_without_any_foreground_teach_nothing(pair_folders, tmp_path):
    for mask in pair_folders[1].iterdir():
        Image.new("L", (40, 32)).save(mask)
    with pytest.raises(UserError, match="none of the 6 masks has a foreground pixel"):
        train(resolved(pair_folders, tmp_path / "out"), "cad")
    assert not (tmp_path / "out").exists()


def test_predictions_are_pictured_with_and_without_validation(pair_folders, tmp_path, monkeypatch):
    sent = []
    monkeypatch.setattr(
        "cad.training.logger.RunLog.log_images", lambda self, key, pictures, epoch: sent.append(pictures)
    )
    for fraction in ("0.1", "0"):
        train(resolved(pair_folders, tmp_path / fraction, "--val_fraction", fraction, "--epoch", "1"), "cad")
    assert [len(pictures) for pictures in sent] == [1, 4]
    assert sent[1][0][1].shape == (32, 96, 3)  # image, truth, prediction


def test_paths_in_the_home_folder_are_shortened_and_no_others(monkeypatch, tmp_path):
    args = argparse.Namespace(inside=tmp_path / "a", beside=Path(f"{tmp_path}-b/c"), relative=Path("d"), number=3)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert plain_settings(args) == {"inside": "~/a", "beside": f"{tmp_path}-b/c", "relative": "d", "number": 3}
    monkeypatch.setenv("HOME", "/")
    assert plain_settings(args)["inside"] == str(tmp_path / "a")


def test_bad_data_and_weights_leave_nothing_behind(pair_folders, tmp_path):
    damaged = sorted(pair_folders[0].iterdir())[0]
    whole = damaged.read_bytes()
    damaged.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=f"{damaged.name}: unreadable or truncated"):
        train(resolved(pair_folders, tmp_path / "out"), "cad")
    damaged.write_bytes(whole)
    checkpoint = tmp_path / "sam.pth"
    checkpoint.write_bytes(b"not weights")
    with pytest.raises(UserError, match="sam.pth: (truncated|refused: damaged)"):
        train(resolved(pair_folders, tmp_path / "out", "--checkpoint", str(checkpoint)), "cad")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_run_with_reading_processes_ends(pair_folders, tmp_path):
    """They ignore signals, so nothing but the end of their loader ends them."""
    flags = ["--train_image_dir", pair_folders[0], "--train_mask_dir", pair_folders[1], "--output_dir", tmp_path]
    flags += ["--model_type", "vit_demo", "--image_size", "32", "--epoch", "1", "--wandb", "disabled"]
    command = [sys.executable, PROJECT_ROOT / "code" / "run_decoder.py", *flags, "--num_workers", "1"]
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
