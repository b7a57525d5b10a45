import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import write_pairs

from cad.datasets.pairs import find_pairs, read_mask
from cad.errors import UserError
from cad.evaluation.kept_maps import EvaluationPictures, KeptMaps
from cad.evaluation.scoring import Machine, Protocol, score_method
from cad.evaluation.scoring_pool import ScoringPool
from cad.metrics.field_metrics import field_scores
from cad.metrics.measures import PER_IMAGE
from cad.options import PROJECT_ROOT


class Bright(torch.nn.Module):
    """Predicts foreground where the image is bright: the disc of the test images."""

    def forward(self, images):
        return (images.float().mean(dim=1, keepdim=True) - 100) / 20


def score(folder, pairs, metric_size=16, processes=0, save_masks=False, model=None, batch_size=2):
    with ScoringPool(processes) as pool:
        machine = Machine(torch.device("cpu"), batch_size, 0, pool)
        maps = KeptMaps(folder, save_masks)
        return score_method(model or Bright(), "bright", 16, pairs, Protocol(metric_size), machine, maps)


def test_every_image_has_its_scores_and_its_files(tmp_path, pair_folders):
    pairs = find_pairs(*pair_folders)
    scores = score(tmp_path, pairs, save_masks=True)
    assert set(scores.values) == set(PER_IMAGE) and scores.e_curves.shape == (6, 256)
    assert (scores.values["dice"] > 0.85).all() and (scores.counts.sum(axis=1) == 256).all()
    pictures = EvaluationPictures(tmp_path, pairs, 16)
    for index, pair in enumerate(pairs):
        predicted = pictures.probability("bright", pair.name) > 127
        assert predicted.sum() == pytest.approx(scores.counts[index, :2].sum(), abs=1)
        assert (tmp_path / "masks" / "bright" / f"{pair.name}.png").exists()


def test_batches_and_processes_change_nothing(tmp_path, pair_folders):
    pairs = find_pairs(*pair_folders)
    first = score(tmp_path / "a", pairs)
    for name, how in ("b", {"batch_size": 4}), ("c", {"processes": 1}):
        second = score(tmp_path / name, pairs, **how)
        assert all(np.array_equal(first.values[metric], second.values[metric]) for metric in PER_IMAGE)
        assert np.array_equal(first.e_curves, second.e_curves) and np.array_equal(first.counts, second.counts)


def test_at_the_original_size_logits_are_upsampled_to_each_mask(tmp_path):
    write_pairs(tmp_path, count=1, size=(40, 32))
    pairs = find_pairs(*write_pairs(tmp_path, count=1, size=(24, 20), first=1))
    scores = score(tmp_path / "eval", pairs, metric_size=None)
    assert scores.counts.sum(axis=1).tolist() == [40 * 32, 24 * 20]
    truth = read_mask(pairs[0].mask)
    assert scores.counts[0, [0, 2]].sum() == truth.sum()
    flat = score(tmp_path / "flat", pairs, metric_size=None, model=flat_model(1.5))
    expected = field_scores(np.full(truth.shape, 1.5, np.float32), truth > 0)
    assert flat.values["s_measure"][0] == pytest.approx(expected.values["s_measure"])


def test_values_that_are_not_finite_are_one_clear_error(tmp_path, pair_folders):
    with pytest.raises(UserError, match="bright: predicts values that are not finite for photo_0; its training"):
        score(tmp_path, find_pairs(*pair_folders), model=flat_model(float("nan")))


def flat_model(value):
    """A model that predicts the same logit everywhere."""

    class Flat(torch.nn.Module):
        def forward(self, images):
            return torch.full((len(images), 1, *images.shape[-2:]), value)

    return Flat()


MEASURE_MEMORY = """
import resource, sys
import evaluate
code = evaluate.main(sys.argv[1:])
print("PEAK", *[resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)])
sys.exit(code)
"""


@pytest.mark.slow
def test_memory_at_the_original_size_does_not_grow_with_the_number_of_images(tmp_path):
    def peaks(count):
        images, masks = write_pairs(tmp_path / str(count), count=count, size=(800, 600))
        flags = ["--method", "zero_shot", "--model_type", "vit_demo", "--sam_checkpoint", "random", "--device", "cpu"]
        flags += ["--test_image_dir", str(images), "--test_mask_dir", str(masks), "--metric_size", "original"]
        flags += ["--num_workers", "1", "--batch_size", "2", "--output_dir", str(tmp_path / "out")]
        environment = os.environ | {"PYTHONPATH": str(PROJECT_ROOT / "code"), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-c", MEASURE_MEMORY, *flags]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        line = next(line for line in done.stdout.splitlines() if line.startswith("PEAK"))
        return [int(value) / 1024 for value in line.split()[1:]]

    few, many = peaks(26), peaks(66)  # the page shows 24 at most: from there on nothing grows
    # The logits of 40 more images are 73 MiB, the images 55 MiB.
    for before, after in zip(few, many, strict=True):
        assert after < before + 30, (few, many)
