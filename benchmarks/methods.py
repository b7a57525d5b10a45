"""One training step of CAD, of the mask decoder alone and of SAM-Adapter, side by side: seconds and memory.

    python benchmarks/methods.py                                 # ViT-B, batch 1: 4 minutes on 2 cores
    python benchmarks/methods.py --model_type vit_demo --batch_size 4    # seconds

CAD and the decoder take their embeddings from the cache, as they do by default; SAM-Adapter cannot, since its adapters
are inside the encoder. Steps are forward, backward and AdamW of the real engine on random images and weights, the
methods in turn, after one step of each to warm up. Memory is predicted (code/memory.py) at this batch size, tensors
only. The last line is JSON.
"""

import argparse
import json
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "code"))

import torch
from torch import Tensor, nn

from cad.encoders.sam import SAM_SIZES, Sam
from cad.precision import gradient_scaler
from cad.segmenter import Segmenter
from cad.training.engine import accumulate_gradients
from cad.training.memory.peak_memory import predict_peak
from cad.training.options import memory_parser
from cad.training.state import make_optimizer

METHODS = ("cad", "decoder", "sam_adapter")
CPU = torch.device("cpu")


class Step:
    """A training step of one method on random images and weights, with embeddings at hand where they can be cached."""

    def __init__(self, method: str, model_type: str, batch_size: int, image_size: int | None = None) -> None:
        torch.manual_seed(0)
        size = SAM_SIZES[model_type]
        side = image_size or size.image_size
        with torch.device("meta"):  # an encoder that is dropped at once needs no values
            self.segmenter = Segmenter(Sam(size), method)
        if self.segmenter.encoder_is_frozen:
            self.segmenter.drop_encoder()
        self.segmenter.to_empty(device="cpu")
        fill_with_values(self.segmenter)
        self.batch: dict[str, Tensor] = {
            "image": torch.randint(0, 256, (batch_size, 3, side, side), dtype=torch.uint8),
            "mask": torch.randint(0, 2, (batch_size, 1, side, side), dtype=torch.uint8),
        }
        if self.segmenter.encoder_is_frozen:
            self.batch["embedding"] = torch.randn(batch_size, size.channels, size.grid, size.grid)
        self.optimizer = make_optimizer(self.segmenter.train(), learning_rate=2e-4)

    def seconds(self) -> float:
        started = time.perf_counter()
        self.optimizer.zero_grad()
        accumulate_gradients(self.segmenter, self.batch, len(self.batch["image"]), gradient_scaler("fp32", CPU), "fp32")
        self.optimizer.step()
        return time.perf_counter() - started


@torch.no_grad()
def fill_with_values(module: nn.Module) -> None:
    """Give every floating-point tensor of a module made on the meta device values that keep activations finite."""
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        if name.endswith(("running_var", "norm.weight", "bn.weight")):
            tensor.fill_(1)
        elif tensor.is_floating_point():
            tensor.normal_(std=0.02)
        else:
            tensor.zero_()


def predicted_mib(*flags: str, method: str) -> float:
    """The predicted peak of a training step, in MiB."""
    args = memory_parser("benchmark", "").parse_args(["--method", method, *flags])
    return predict_peak(args, method).train_mib


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model_type", choices=tuple(SAM_SIZES), default="vit_b")
    parser.add_argument("--batch_size", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=2)
    arguments = parser.parse_args()
    steps = {method: Step(method, arguments.model_type, arguments.batch_size) for method in METHODS}
    seconds: dict[str, list[float]] = {method: [] for method in METHODS}
    for repeat in range(arguments.repeats + 1):
        for method, step in steps.items():
            taken = step.seconds()
            if repeat:
                seconds[method].append(taken)
    flags = ("--model_type", arguments.model_type, "--batch_size", str(arguments.batch_size))
    mib = {method: predicted_mib(*flags, method=method) for method in METHODS}
    medians = {method: statistics.median(values) for method, values in seconds.items()}
    print(f"{'method':<14}{'s/step':>10}{'MiB':>10}{'time x CAD':>12}{'memory x CAD':>14}")
    for method in METHODS:
        print(
            f"{method:<14}{medians[method]:>10.2f}{mib[method]:>10,.0f}"
            f"{medians[method] / medians['cad']:>12.2f}{mib[method] / mib['cad']:>14.2f}"
        )
    result = {"benchmark": "methods", **vars(arguments), "seconds": seconds, "predicted_mib": mib}
    print(json.dumps(result | {"threads": torch.get_num_threads(), "torch": torch.__version__}))


if __name__ == "__main__":
    main()
