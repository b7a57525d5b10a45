"""Seconds of one training epoch of CAD: embeddings from the cache and lean execution, against the original's way.

    python benchmarks/epoch.py                                          # ViT-B, 4 images, batch 4: 5 minutes on 2 cores
    python benchmarks/epoch.py --model_type vit_demo --images 16        # seconds, to see that it works

The original's way runs the frozen encoder at every step with segment_anything's own attention, the adapter layer by
layer, and the decoder without recomputation. Both ways run the real loaders and the real loop on the same images (the
demo's, resized to 512 pixels), in turn, after one epoch of each to warm up. What the cache costs once, and after how
many epochs it has paid, is printed too. SAM's weights are random: time does not depend on them. The last line is JSON.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "code"))

import torch

from cad.datasets.demo import prepare_demo
from cad.encoders.attention import use_plain_attention
from cad.segmenter import count_parameters
from cad.training.engine import train_epoch
from cad.training.options import resolve_training, training_parser
from cad.training.run import build_segmenter, find_data, make_loaders
from cad.training.state import TrainingState
from cad.training.stopping import StopRequest

CPU = torch.device("cpu")


class Way:
    """One way of training, ready to run epochs."""

    def __init__(self, flags: list[str], original: bool) -> None:
        execution = ["--no_cache", "--adapter_execution", "plain"] if original else []
        self.args = resolve_training(training_parser("epoch.py", "").parse_args([*flags, *execution]))
        self.segmenter, base = build_segmenter(self.args, "cad", CPU)
        if original:
            use_plain_attention(self.segmenter.image_encoder)
            self.segmenter.checkpoint_decoder = False
        started = time.perf_counter()
        self.loaders = make_loaders(self.segmenter, base, find_data(self.args), self.args, CPU, StopRequest())
        self.seconds_before = time.perf_counter() - started
        self.state = TrainingState(self.segmenter, self.args, CPU)
        self.seconds: list[float] = []

    def run_epoch(self, epoch: int) -> None:
        self.state.progress.epoch = epoch
        train_epoch(self.state, self.loaders, self.args, after_step=lambda: None)
        self.scores = self.state.progress.means()
        self.state.progress.next_epoch()
        self.seconds.append(self.state.progress.seconds[-1])


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model_type", choices=("vit_b", "vit_l", "vit_h", "vit_demo"), default="vit_b")
    parser.add_argument("--images", type=int, default=4)
    parser.add_argument("--batch_size", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=2, help="timed epochs of each way")
    return parser.parse_args()


def main() -> None:
    arguments = read_arguments()
    with tempfile.TemporaryDirectory() as folder:
        data = prepare_demo(Path(folder), "camouflage", counts={"train": arguments.images})
        flags = ["--train_image_dir", str(data / "train" / "image"), "--train_mask_dir", str(data / "train" / "mask")]
        flags += ["--output_dir", folder, "--val_fraction", "0", "--checkpoint", "random", "--image_size", "512"]
        flags += ["--model_type", arguments.model_type, "--batch_size", str(arguments.batch_size)]
        flags += ["--epoch", str(arguments.repeats + 1), "--views", str(arguments.repeats + 1)]
        ways = {"original": Way(flags, original=True), "here": Way(flags, original=False)}
        for epoch in range(1, arguments.repeats + 2):
            for way in ways.values():
                way.run_epoch(epoch)
    report(arguments, ways)


def report(arguments: argparse.Namespace, ways: dict[str, Way]) -> None:
    medians = {name: statistics.median(way.seconds[1:]) for name, way in ways.items()}
    ratio = medians["original"] / medians["here"]
    encoding = ways["here"].seconds_before
    # The cache is filled for `repeats + 1` views; one view each is what an epoch of the original computes as well.
    epochs_to_pay = encoding / (medians["original"] - medians["here"])
    print(f"{'way':<10}{'s/epoch':>10}{'loss':>10}   (epochs 2 onward, median)")
    for name, way in ways.items():
        print(f"{name:<10}{medians[name]:>10.2f}{way.scores['bce'] + way.scores['iou_loss']:>10.5f}")
    print(f"original / here: {ratio:.2f}")
    views = arguments.repeats + 1
    print(f"filling the cache, once: {encoding:.1f} s for {views} views, paid after {epochs_to_pay:.1f} epochs")
    result = {
        "benchmark": "epoch",
        **vars(arguments),
        "seconds": {name: way.seconds for name, way in ways.items()},
        "ratio": ratio,
        "encoding_seconds": encoding,
        "trainable_parameters": count_parameters(ways["here"].segmenter)[0],
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "torch": torch.__version__,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
