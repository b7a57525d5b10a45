"""Predict the memory of training and of encoding, without running them and without a GPU.

    python code/memory.py --method cad --model_type vit_h
    python code/memory.py --method sam_adapter --model_type vit_b --batch_size 2 --precision bf16 --grad_checkpointing
    python code/memory.py --method decoder --json
    python code/memory.py --table                      # every method and size of SAM beside cards of 4 to 80 GB

What is counted are the tensors alive at once: weights, gradients, optimiser state, inputs and activations. An allocator
and CUDA's kernels take more; the stated margin for them is an assumption.
"""

import sys
from collections.abc import Sequence

from cad.errors import run_script
from cad.training.options import check_method_flags, memory_parser


def main(argv: Sequence[str] | None = None) -> int:
    args = memory_parser("memory.py", __doc__).parse_args(argv)

    def body() -> None:
        if args.method:
            check_method_flags(args, args.method)
        from cad.training.memory.peak_memory import report  # imports torch: not before the flags are right

        print(report(args))

    return run_script(body)


if __name__ == "__main__":
    sys.exit(main())
