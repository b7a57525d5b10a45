"""SAM's attention layers: the original, which stores every attention map, beside the lean one, in one process.

    python benchmarks/attention.py                                    # ViT-B, windowed and global, no gradient
    python benchmarks/attention.py --backward                         # forward and backward to the input
    python benchmarks/attention.py --model_type vit_h --global --repeats 5

One image of 1024 pixels: 64 x 64 tokens, or 25 windows of 14 x 14. Weights are random and frozen, as in the encoder.
Peak MiB counts the tensors alive, weights and input not included; what a kernel uses inside is not seen. The first
line of each pair is the original; the largest difference is relative to the largest value. The last line is JSON.
"""

import argparse
import json
import platform
import statistics
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from segment_anything.modeling.image_encoder import Attention
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "code"))

from cad.encoders.attention import LeanAttention
from cad.encoders.sam import SAM_SIZES
from cad.training.memory.live_storages import LiveStorages

EXECUTIONS = {"original": Attention, "lean": LeanAttention}


@dataclass(frozen=True)
class Row:
    """One measured line. Peak in MiB; `speed_ratio` is the original's time divided by this one's."""

    layer: str
    execution: str
    seconds: float
    speed_ratio: float
    peak_mib: float
    max_difference: float


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Original against lean attention: time, memory, difference.")
    parser.add_argument("--model_type", choices=("vit_b", "vit_l", "vit_h"), default="vit_b")
    layers = parser.add_mutually_exclusive_group()
    layers.add_argument("--windowed", action="store_true", help="only the layers with windows of 14 x 14 tokens")
    layers.add_argument("--global", action="store_true", dest="global_", help="only the layers with 64 x 64 tokens")
    parser.add_argument("--backward", action="store_true", help="with the gradient of the input")
    parser.add_argument("--repeats", type=int, default=3, help="timed runs of each; the median is printed")
    arguments = parser.parse_args()
    if arguments.repeats < 1:
        parser.error(f"--repeats {arguments.repeats}: expected at least 1")
    return arguments


def build_layer(model_type: str, layer: str) -> tuple[Attention, Tensor]:
    """A frozen attention layer with non-zero positions and the tokens of one image, (B, H, W, C)."""
    size = SAM_SIZES[model_type]
    side = size.window_size if layer == "windowed" else size.grid
    windows = (-(-size.grid // size.window_size)) ** 2 if layer == "windowed" else 1
    attention = Attention(size.embed_dim, size.num_heads, use_rel_pos=True, input_size=(side, side))
    for table in (attention.rel_pos_h, attention.rel_pos_w):
        nn.init.normal_(table, std=0.2)
    return attention.requires_grad_(False), torch.randn(windows, side, side, size.embed_dim)


def run(attention: Attention, tokens: Tensor, backward: bool) -> list[Tensor]:
    """The output, and with `backward` the gradient of the input."""
    tokens = tokens.detach().requires_grad_(backward)
    with torch.set_grad_enabled(backward):
        output = attention(tokens)
    if not backward:
        return [output]
    output.square().mean().backward()
    assert tokens.grad is not None
    return [output.detach(), tokens.grad]


def measure(model_type: str, layer: str, backward: bool, repeats: int) -> list[Row]:
    attention, tokens = build_layer(model_type, layer)
    seconds: dict[str, list[float]] = {execution: [] for execution in EXECUTIONS}
    peaks: dict[str, float] = {}
    results: dict[str, list[Tensor]] = {}
    for repeat in range(repeats + 1):  # alternating, so that a busy moment of the machine meets both
        for execution, attention_class in EXECUTIONS.items():
            attention.__class__ = attention_class
            if repeat == 0:  # warms up too
                with LiveStorages() as live:
                    results[execution] = run(attention, tokens, backward)
                peaks[execution] = live.peak_bytes / 2**20
                continue
            start = time.perf_counter()
            run(attention, tokens, backward)
            seconds[execution].append(time.perf_counter() - start)
    difference = max(
        ((found - expected).abs().max() / expected.abs().max()).item()
        for found, expected in zip(results["lean"], results["original"], strict=True)
    )
    medians = {execution: statistics.median(times) for execution, times in seconds.items()}
    return [
        Row(
            layer,
            execution,
            seconds=medians[execution],
            speed_ratio=medians["original"] / medians[execution],
            peak_mib=peaks[execution],
            max_difference=difference if execution == "lean" else 0.0,
        )
        for execution in EXECUTIONS
    ]


def main() -> None:
    arguments = read_arguments()
    torch.manual_seed(0)
    layers = ["windowed"] if arguments.windowed else ["global"] if arguments.global_ else ["windowed", "global"]
    what = "forward and backward" if arguments.backward else "forward without gradient"
    print(f"{arguments.model_type}, {what}, one image, fp32, {torch.get_num_threads()} CPU threads\n")
    print(f"{'layer':10}{'execution':12}{'seconds':>9}{'ratio':>8}{'peak MiB':>10}{'max difference':>16}")
    rows = []
    for layer in layers:
        for row in measure(arguments.model_type, layer, arguments.backward, arguments.repeats):
            print(
                f"{row.layer:10}{row.execution:12}{row.seconds:9.3f}{row.speed_ratio:7.2f}x"
                f"{row.peak_mib:10.0f}{row.max_difference:16.1e}"
            )
            rows.append(row)
    summary = {
        "benchmark": "attention",
        "model_type": arguments.model_type,
        "backward": arguments.backward,
        "repeats": arguments.repeats,
        "threads": torch.get_num_threads(),
        "machine": platform.machine(),
        "torch": torch.__version__,
        "rows": [asdict(row) for row in rows],
    }
    print(json.dumps(summary))


if __name__ == "__main__":
    main()
