"""From a command line to a training run: what run_cad.py, run_sa.py and run_decoder.py share."""

from collections.abc import Sequence

from cad.errors import run_script
from cad.options import resolve_training, training_parser


def run_training_script(prog: str, description: str, method: str, argv: Sequence[str] | None) -> int:
    """Parse the flags, train, and return the exit code (see `cad.errors.run_script`)."""
    parser = training_parser(prog, description)
    args = parser.parse_args(argv)

    def body() -> None:
        if args.resume:
            from cad.training.resume import resumed_arguments  # imports torch: not before the flags are right

            if resumed := resumed_arguments(parser, argv, args, method):
                from cad.training.run import train

                train(resumed[0], method, resumed[1])
                return
        resolved = resolve_training(args)
        from cad.training.run import train

        train(resolved, method)

    return run_script(body)
