"""Draw docs/memory.png: peak memory of a training step at batch 4, the original's code beside this one, by size of SAM.

    python benchmarks/memory_figure.py

This project's bars are predicted (code/memory.py; tests hold the prediction against real steps); the original's are the
peak of live tensors counted over its published code, batch 4, float32, 1024-pixel encoder input. Takes a minute. The
last line is JSON.
"""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "code"))

from matplotlib.figure import Figure
from methods import predicted_mib

ROOT = Path(__file__).resolve().parents[1]
MODELS = {"vit_b": "ViT-B", "vit_l": "ViT-L", "vit_h": "ViT-H"}
ORIGINAL_MIB = {
    "SAM-Adapter, original": (27_260, 48_886, 64_088),
    "CAD, original": (15_695, 19_761, 21_143),
}
COLOURS = ("#bbbbbb", "#888888", "#56b4e9", "#0072b2", "#d55e00")


def main() -> None:
    bars: dict[str, tuple[float, ...]] = dict(ORIGINAL_MIB)
    for label, flags in {
        "SAM-Adapter, here": ("sam_adapter",),
        "SAM-Adapter, here, checkpointing": ("sam_adapter", "--grad_checkpointing"),
        "CAD, here": ("cad",),
    }.items():
        method, *rest = flags
        bars[label] = tuple(predicted_mib("--model_type", model, *rest, method=method) for model in MODELS)
    figure = Figure(figsize=(7.2, 3.4), layout="constrained")
    axes = figure.subplots()
    width = 0.8 / len(bars)
    for number, ((label, values), colour) in enumerate(zip(bars.items(), COLOURS, strict=True)):
        places = [place + (number - (len(bars) - 1) / 2) * width for place in range(len(MODELS))]
        drawn = axes.bar(places, [value / 1024 for value in values], width * 0.92, label=label, color=colour)
        axes.bar_label(drawn, fmt="%.1f", fontsize=7, padding=2)
    axes.set_yscale("log")
    axes.set_ylim(0.3, 200)
    axes.set_yticks([0.5, 1, 2, 4, 8, 16, 32, 64], ["0.5", "1", "2", "4", "8", "16", "32", "64"])
    axes.minorticks_off()
    axes.set_xticks(range(len(MODELS)), list(MODELS.values()))
    axes.set_ylabel("GiB of tensors, one training step, batch 4")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8, ncols=2, loc="upper left")
    figure.savefig(ROOT / "docs" / "memory.png", dpi=200)
    print(json.dumps({"benchmark": "memory_figure", "mib": bars}))


if __name__ == "__main__":
    main()
