"""Export trained weights to one ONNX file, for software without PyTorch: uint8 images in, mask logits out.

    pip install onnx onnxruntime
    python code/export_onnx.py --checkpoint checkpoints/sam_cad.pth --output model.onnx
    python code/export_onnx.py --checkpoint checkpoints/sam_sa.pth --output model.onnx --images photos

The file holds everything from the image at the model's size to the logits, for any batch size. It is run in
onnxruntime beside PyTorch, and is kept only if probabilities differ by at most 0.001 and masks are the same on 99.9 %
of pixels.
"""

import sys
from collections.abc import Sequence

from cad.errors import run_script
from cad.export.options import export_parser


def main(argv: Sequence[str] | None = None) -> int:
    args = export_parser("export_onnx.py", __doc__).parse_args(argv)

    def body() -> None:
        from cad.export.onnx_export import export  # imports torch: not before the flags are right

        export(args)

    return run_script(body)


if __name__ == "__main__":
    sys.exit(main())
