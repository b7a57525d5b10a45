"""Time and memory of one step (forward and backward) of the convolutional adapter: plain, lean, and lean cad_hires.

    python benchmarks/adapter_step.py                                     # one 512-pixel image, 256 channels, fp32
    python benchmarks/adapter_step.py --batch_size 4 --repeats 1          # the batch of the paper
    python benchmarks/adapter_step.py --batch_size 4 --precision bf16 --repeats 0    # memory alone
    python benchmarks/adapter_step.py --image_size 64 --channels 16       # a second, to see that it works

Times are of this process's threads (OMP_NUM_THREADS), the three in turn, after one step of each to warm up.
Memory is that of live tensor storages, from fake tensors: the peak during the step, and what is held between forward
and backward; weights, gradients and inputs not included. Prints a table and one line of JSON.
"""

import argparse
import json
import statistics
import sys
import time
from pathlib import Path

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "code"))

from cad.adapters.conv_adapter import ConvAdapter
from cad.training.memory.live_storages import LiveStorages

MIB = 2**20
# Execution, and whether there is a high-resolution path.
ADAPTERS = {"plain": ("plain", False), "lean": ("lean", False), "lean hires": ("lean", True)}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch_size", type=int, default=1, help="images in a step")
    parser.add_argument("--image_size", type=int, default=512, help="side of the images in pixels, a multiple of 8")
    parser.add_argument("--channels", type=int, default=256, help="C, the width of the adapter")
    parser.add_argument("--repeats", type=int, default=3, help="timed steps of each adapter; 0 measures memory alone")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32", help="bf16 is autocast")
    return parser.parse_args()


def build(args: argparse.Namespace, name: str) -> tuple[ConvAdapter, torch.Tensor]:
    """The adapter and its inputs; gradients exist already, as they do from the second step on."""
    torch.manual_seed(0)
    execution, high_resolution = ADAPTERS[name]
    grid = args.image_size // 8
    adapter = ConvAdapter(args.channels, grid, execution=execution, high_resolution=high_resolution)
    for parameter in adapter.parameters():
        parameter.grad = torch.zeros_like(parameter)
    return adapter, torch.rand(args.batch_size, 6, args.image_size, args.image_size) * 255


def forward(args: argparse.Namespace, adapter: ConvAdapter, inputs: torch.Tensor) -> list[torch.Tensor]:
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=args.precision == "bf16"):
        correction, maps = adapter.corrections(inputs)
    return [correction, *maps]


def backward(outputs: list[torch.Tensor]) -> None:
    torch.autograd.backward(outputs, [torch.ones_like(output) for output in outputs])


def seconds(args: argparse.Namespace) -> dict[str, list[float]]:
    """Seconds of every timed step, by adapter."""
    runs = {name: build(args, name) for name in ADAPTERS}
    times: dict[str, list[float]] = {name: [] for name in ADAPTERS}
    for repeat in range(args.repeats + 1 if args.repeats else 0):
        for name, (adapter, inputs) in runs.items():
            start = time.perf_counter()
            backward(forward(args, adapter, inputs))
            if repeat:
                times[name].append(time.perf_counter() - start)
    return times


def memory(args: argparse.Namespace, name: str) -> tuple[float, float]:
    """Peak MiB of live storages in a step, and MiB held between forward and backward."""
    with FakeTensorMode():
        adapter, inputs = build(args, name)
        with LiveStorages() as storages:
            outputs = forward(args, adapter, inputs)
            held = storages.current_bytes
            backward(outputs)
    return storages.peak_bytes / MIB, held / MIB


def main() -> None:
    args = arguments()
    times = seconds(args)
    rows = {}
    for name in ADAPTERS:
        peak, held = memory(args, name)
        rows[name] = {"peak_mib": round(peak, 1), "held_mib": round(held, 1)}
        if args.repeats:
            rows[name]["seconds_min"] = round(min(times[name]), 4)
            rows[name]["seconds_median"] = round(statistics.median(times[name]), 4)
    ratios, path_ratios = (
        {key: round(rows[one][key] / rows["lean"][key], 2) for key in rows["lean"]} for one in ("plain", "lean hires")
    )

    columns = list(rows["plain"])
    print(f"{'':12}" + "".join(f"{column:>16}" for column in columns))
    for name, row in [*rows.items(), ("plain / lean", ratios), ("hires / lean", path_ratios)]:
        print(f"{name:12}" + "".join(f"{row[column]:>16,}" for column in columns))
    settings = vars(args) | {"threads": torch.get_num_threads(), "torch": torch.__version__}
    comparisons = {"plain_over_lean": ratios, "hires_over_lean": path_ratios}
    print(json.dumps({"benchmark": "adapter_step", **settings, **rows, **comparisons}))


if __name__ == "__main__":
    main()
