"""One image through a segmenter in PyTorch and, exported, in onnxruntime: seconds, and how far the two agree.

    python benchmarks/onnx_inference.py                                       # CAD with vit_demo: seconds
    OMP_NUM_THREADS=1 python benchmarks/onnx_inference.py --model_type vit_b --repeats 1     # 5 to 15 minutes

On the CPU, with random weights, from uint8 pixels to mask logits, encoder included. Both use as many threads as
OMP_NUM_THREADS says. One run of each to warm up, then in turn; the median is printed. The last line is JSON.
"""

import argparse
import json
import platform
import statistics
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "code"))

import onnxruntime
import torch

from cad.encoders.sam import SAM_SIZES, build_random_sam
from cad.export.onnx_export import comparison_images, export_onnx
from cad.options import TRAINED_METHODS
from cad.prediction.model import MaskModel, TorchModel
from cad.prediction.onnx_model import OnnxModel
from cad.segmenter import Segmenter


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", choices=TRAINED_METHODS, default="cad")
    parser.add_argument("--model_type", choices=tuple(SAM_SIZES), default="vit_demo")
    parser.add_argument("--repeats", type=int, default=5, help="timed runs of each; the median is printed")
    arguments = parser.parse_args()
    if arguments.repeats < 1:
        parser.error(f"--repeats {arguments.repeats}: expected at least 1")
    return arguments


def main() -> None:
    arguments = read_arguments()
    torch.manual_seed(0)
    size = SAM_SIZES[arguments.model_type]
    segmenter = Segmenter(build_random_sam(size, seed=0), arguments.method)
    metadata = {
        "method": arguments.method,
        "model_type": arguments.model_type,
        "image_size": size.image_size,
        "demo": True,
    }
    images = comparison_images(None, size.image_size)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        started = time.perf_counter()
        agreement = export_onnx(path, segmenter, metadata, images)
        export_seconds = time.perf_counter() - started
        file_mib = path.stat().st_size / 2**20
        models: dict[str, MaskModel] = {
            "PyTorch": TorchModel(segmenter, size.image_size, torch.device("cpu")),
            "onnxruntime": OnnxModel(path),
        }
        seconds: dict[str, list[float]] = {name: [] for name in models}
        for repeat in range(arguments.repeats + 1):  # in turn, so that a busy moment of the machine meets both
            for name, model in models.items():
                started = time.perf_counter()
                model.mask_logits(images[:1])
                if repeat:
                    seconds[name].append(time.perf_counter() - started)
    threads = torch.get_num_threads()
    print(f"{arguments.method}, {arguments.model_type}, one image of {size.image_size} pixels, {threads} CPU threads")
    for name, times in seconds.items():
        print(f"{name:<14}{statistics.median(times):>9.3f} s")
    print(f"exported and compared in {export_seconds:.0f} s, {file_mib:.0f} MiB; {agreement}")
    result = {"benchmark": "onnx_inference", **vars(arguments), "seconds": seconds, "export_seconds": export_seconds}
    result |= {"file_mib": file_mib, **asdict(agreement), "threads": threads, "machine": platform.machine()}
    print(json.dumps(result | {"torch": torch.__version__, "onnxruntime": onnxruntime.__version__}))


if __name__ == "__main__":
    main()
