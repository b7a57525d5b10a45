"""From a command line to a training run: what run_cad.py, run_sa.py and run_decoder.py share."""

import argparse
import os
import sys
from collections.abc import Sequence

from cad.errors import run_script
from cad.training.options import check_method_flags, resolve_training, training_parser


def run_training_script(prog: str, description: str, method: str, argv: Sequence[str] | None) -> int:
    """Parse the flags, train, and return the exit code (see `cad.errors.run_script`)."""
    parser = training_parser(prog, description)
    args = parser.parse_args(argv)

    def body() -> None:
        check_method_flags(args, method)
        resolved = None if args.resume else resolve_training(args)
        if args.dist:
            start_a_process_per_gpu(args)
        # These import torch: not before the flags are right.
        from cad.distributed import process_group
        from cad.training.resume import resumed_arguments
        from cad.training.run import train

        with process_group():
            resumed = resumed_arguments(parser, argv, args, method) if resolved is None else None
            flags, saved = resumed or (resolved or resolve_training(args), None)
            train(flags, method, saved)

    return run_script(body)


def start_a_process_per_gpu(args: argparse.Namespace) -> None:
    """Become torchrun, which starts this command once a GPU; return where it has done so, or there are no two GPUs."""
    import torch

    from cad.distributed import started_by_torchrun

    if started_by_torchrun():
        return
    gpus = torch.cuda.device_count() if args.device in ("auto", "cuda") else 0
    if gpus < 2:
        print(f"--dist True: {gpus} GPUs to share, training in one process; torchrun starts more on the CPU too")
        return
    torchrun = ["-m", "torch.distributed.run", "--nproc_per_node", str(gpus), "--master_port", str(args.port)]
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, *torchrun, *sys.argv])
