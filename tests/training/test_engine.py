"""What the engine does when numbers go wrong, when to stop early, and that a rehearsal leaves no trace."""

import pytest
import torch
from training_runs import log_of, resolved

from cad.errors import UserError
from cad.metrics.per_image import METRICS
from cad.options import TRAINED_METHODS
from cad.trained_weights import read_weights
from cad.training import engine
from cad.training.engine import out_of_patience, rehearse
from cad.training.run import build_segmenter, find_data, make_loaders, train
from cad.training.state import Best, Progress
from cad.training.stopping import StopRequest

CPU = torch.device("cpu")


def spoil(monkeypatch, steps, what):
    """Make the loss, or one gradient, NaN at the given steps (from 1)."""
    real, taken = engine.accumulate_gradients, []

    def accumulate_gradients(segmenter, *arguments):
        scores, logits = real(segmenter, *arguments)
        taken.append(1)
        if len(taken) - engine.REHEARSED_BATCHES in steps:
            if what == "loss":
                scores["bce"] = scores["bce"] * float("nan")
                for buffer in segmenter.trained_buffers():
                    buffer.fill_(7)  # as a forward pass over NaN would ruin them
            else:
                next(p for p in segmenter.parameters() if p.grad is not None).grad.view(-1)[0] = float("inf")
        return scores, logits

    monkeypatch.setattr(engine, "accumulate_gradients", accumulate_gradients)


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_what_is_not_finite_stops_the_run_and_names_the_images(pair_folders, tmp_path, monkeypatch, what):
    spoil(monkeypatch, [4], what)
    message = rf"the {what} is not finite on the images photo_\d, photo_\d: lower --lr"
    with pytest.raises(UserError, match=message):
        train(resolved(pair_folders, tmp_path), "decoder")
    (weights,) = (tmp_path / "checkpoints").iterdir()
    assert read_weights(weights).metadata["metrics"]["epoch"] == 1  # the last good weights stay
    assert len(log_of(tmp_path)) == 1


def test_a_learning_rate_that_is_too_high_ends_the_same_way(pair_folders, tmp_path):
    with pytest.raises(UserError, match=r"the loss is not finite on the images photo_\d, photo_\d: lower --lr"):
        train(resolved(pair_folders, tmp_path, "--lr", "1e30", "--epoch", "3"), "cad")


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_a_skipped_step_leaves_no_trace_and_only_so_many_are_skipped(pair_folders, tmp_path, monkeypatch, capsys, what):
    flags = ["--val_fraction", "0", "--skip_nonfinite", "1", "--epoch", "1"]
    with pytest.MonkeyPatch.context() as patch:
        spoil(patch, [3], what)  # the last of three steps
        spoiled = train(resolved(pair_folders, tmp_path / "a", *flags), "cad")
    assert f"step left out (1 of 1): {what} not finite on photo_" in capsys.readouterr().out
    with pytest.MonkeyPatch.context() as patch:
        step, taken = engine.train_step, []

        def two_steps(*arguments):
            taken.append(1)
            if len(taken) < 3:
                step(*arguments)

        patch.setattr(engine, "train_step", two_steps)
        expected = train(resolved(pair_folders, tmp_path / "b", *flags), "cad")
    states = read_weights(spoiled).state, read_weights(expected).state
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert log_of(tmp_path / "a")[0]["train"] == log_of(tmp_path / "b")[0]["train"]

    spoil(monkeypatch, [1, 3], what)
    with pytest.raises(UserError, match="not finite"):
        train(resolved(pair_folders, tmp_path / "c", *flags), "cad")


@pytest.mark.parametrize("method", TRAINED_METHODS)
def test_a_rehearsal_leaves_no_trace(pair_folders, tmp_path, method):
    args = resolved(pair_folders, tmp_path)
    segmenter, base = build_segmenter(args, method, CPU)
    loaders = make_loaders(segmenter, base, find_data(args), args, CPU, StopRequest())
    before = {name: tensor.clone() for name, tensor in segmenter.state_dict().items()}
    rehearse(segmenter, loaders, args, CPU)
    assert all(torch.equal(tensor, before[name]) for name, tensor in segmenter.state_dict().items())
    assert all(parameter.grad is None for parameter in segmenter.parameters())


def test_a_broken_evaluation_fails_before_the_first_epoch(pair_folders, tmp_path, monkeypatch):
    monkeypatch.setattr(engine, "evaluate", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        train(resolved(pair_folders, tmp_path), "decoder")
    assert log_of(tmp_path) == []


def test_patience_counts_finished_epochs_without_a_better_one():
    progress = Progress(epoch=6, best=Best(3, {"iou": 0.5}))  # epochs 4 and 5 were no better
    assert not out_of_patience(progress, None) and not out_of_patience(progress, 3)
    assert out_of_patience(progress, 2)


def test_early_stopping_ends_the_run(pair_folders, tmp_path, capsys):
    train(resolved(pair_folders, tmp_path, "--epoch", "30", "--lr", "1e-9", "--early_stopping", "2"), "decoder")
    assert len(log_of(tmp_path)) == 3  # nothing changes at this rate: epoch 1 stays the best
    assert "stopped early: no better validation IoU since epoch 1" in capsys.readouterr().out


def test_a_frozen_parameter_that_changes_stops_the_run(pair_folders, tmp_path, monkeypatch):
    step = engine.train_step

    def meddling(state, *arguments):
        step(state, *arguments)
        state.segmenter.mask_decoder.iou_prediction_head.layers[0].weight.data[0, 0] += 1

    monkeypatch.setattr(engine, "train_step", meddling)
    with pytest.raises(RuntimeError, match="iou_prediction_head.layers.0.weight is frozen but has changed"):
        train(resolved(pair_folders, tmp_path), "decoder")


def test_a_gradient_that_is_never_finite_in_fp16_is_no_overflow_of_the_scale(pair_folders, tmp_path, monkeypatch):
    spoil(monkeypatch, range(1, 100), "gradient")
    with pytest.raises(UserError, match="the gradient is not finite on the images photo_"):
        train(resolved(pair_folders, tmp_path, "--precision", "fp16", "--epoch", "9", "--lr", "1e-4"), "decoder")
    assert 5 <= len(log_of(tmp_path)) <= 6  # the scale, 2**16, is halved at each of three steps an epoch


def test_a_validation_loss_that_is_not_finite_ends_the_run(pair_folders, tmp_path, monkeypatch):
    calls = []

    def evaluate(*_):
        calls.append(1)
        return {name: [float("nan") if len(calls) == 3 else 0.5] for name in METRICS}

    monkeypatch.setattr(engine, "evaluate", evaluate)  # the first call is the rehearsal's
    with pytest.raises(UserError, match="epoch 2: the validation loss is not finite"):
        train(resolved(pair_folders, tmp_path), "decoder")
    assert len(log_of(tmp_path)) == 1


def test_a_signal_that_arrives_while_processes_agree_waits_for_the_next_step(monkeypatch):
    stop = StopRequest()

    def gather(value):
        stop.signal = 15
        return [value, None]

    monkeypatch.setattr(engine, "gather", gather)
    engine.stop_if_asked(engine.Run(None, {}, None, None, stop))
    assert stop.signal == 15
