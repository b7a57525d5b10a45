"""How the time and memory of CAD grow with batch, image size, number of images and size of SAM.

    python benchmarks/scaling.py                         # 3 minutes on 2 cores
    python benchmarks/scaling.py --repeats 1

Seconds are those of one real training step (see methods.py); memory is predicted (code/memory.py); the disk is what the
embedding cache takes at 4 views in 16 bit. Batch 1, 512 pixels and ViT-B, but for what the row says. The encoder is no
part of a step, so that a larger SAM costs only more encoding, once. The last line is JSON.
"""

import argparse
import json
import statistics
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "code"))

import torch
from methods import Step, predicted_mib

from cad.encoders.sam import SAM_SIZES

ROWS: tuple[dict[str, Any], ...] = (
    *({"batch_size": batch} for batch in (1, 2, 4)),
    *({"image_size": side} for side in (256, 512, 768)),
    *({"model_type": model} for model in ("vit_b", "vit_l", "vit_h")),
)
DEFAULTS: dict[str, Any] = {"batch_size": 1, "image_size": 512, "model_type": "vit_b"}
VIEWS = 4
IMAGES = (50, 500, 4040)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=2)
    arguments = parser.parse_args()
    results = []
    print(f"{'':<22}{'s/step':>9}{'s/image':>9}{'MiB':>8}")
    for row in ROWS:
        settings = DEFAULTS | row
        step = Step("cad", settings["model_type"], settings["batch_size"], settings["image_size"])
        step.seconds()
        seconds = statistics.median(step.seconds() for _ in range(arguments.repeats))
        mib = predicted_mib(*(word for name in settings for word in (f"--{name}", str(settings[name]))), method="cad")
        results.append(row | {"seconds": seconds, "predicted_mib": mib})
        label = " ".join(f"{name} {value}" for name, value in row.items())
        print(f"{label:<22}{seconds:>9.2f}{seconds / settings['batch_size']:>9.2f}{mib:>8,.0f}", flush=True)
    size = SAM_SIZES["vit_b"]
    disk = {images: images * VIEWS * size.channels * size.grid**2 * 2 / 2**20 for images in IMAGES}
    for images, mib in disk.items():
        print(f"images {images:<15}{'-':>9}{'-':>9}{'-':>8}   {mib:,.0f} MiB of embeddings on disk")
    result = {"benchmark": "scaling", "rows": results, "disk_mib": disk, "views": VIEWS}
    print(json.dumps(result | {"threads": torch.get_num_threads(), "torch": torch.__version__}))


if __name__ == "__main__":
    main()
