"""Command-line flags that the scripts share: the parser, the types of values, and flags of more than one script."""

import argparse
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from cad.errors import MissingPathError, UserError

PROJECT_ROOT = Path(__file__).resolve().parents[2]
# Spelt out here because the modules that own them import packages that a wrong flag should not wait for.
SAM_TYPES = ("vit_b", "vit_l", "vit_h", "vit_demo")
PACKAGED_TYPES = ("efficientnet_lite0",)
TRAINED_METHODS = ("cad", "sam_adapter", "decoder")
METHODS = (*TRAINED_METHODS, "zero_shot")
METHODS_INSIDE_SAM = ("sam_adapter", "zero_shot")  # which go with no other encoder than SAM's
MODEL_TYPES = (*SAM_TYPES, *PACKAGED_TYPES)
NO_FILE = ("random", "package")  # where weights come from, if not from a file
DEMO_TASKS = ("camouflage", "shadow")


def checkpoints_folder() -> Path:
    """`checkpoints/` beside the code, or, where the package is installed elsewhere, below where the user stands."""
    beside_code = PROJECT_ROOT / "checkpoints"
    return beside_code if beside_code.is_dir() else Path("checkpoints")


class OneLineParser(argparse.ArgumentParser):
    """An ArgumentParser whose errors are one line, without the usage, and that takes whole flag names only.

    A description keeps its lines: those of the scripts are docstrings with examples.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options, allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message} (see {self.prog} --help)\n")


def positive_int(text: str) -> int:
    """A whole number, 1 or more."""
    return _number(text, int, lambda value: value >= 1, "a whole number of at least 1")


def count(text: str) -> int:
    """A whole number, 0 or more."""
    return _number(text, int, lambda value: value >= 0, "a whole number of at least 0")


def positive_float(text: str) -> float:
    """A finite number above 0."""
    return _number(text, float, lambda value: 0 < value < math.inf, "a positive number")


def fraction(text: str) -> float:
    """A number from 0 up to but not including 1."""
    return _number(text, float, lambda value: 0 <= value < 1, "a number of at least 0 and below 1")


def probability(text: str) -> float:
    """A number from 0 to 1."""
    return _number(text, float, lambda value: 0 <= value <= 1, "a probability from 0 to 1")


def multiple_of_8(text: str) -> int:
    """A positive multiple of 8: the adapter halves its input three times."""
    return _number(text, int, lambda value: value >= 8 and value % 8 == 0, "a positive multiple of 8")


def _number(text: str, kind: Callable[[str], float], accepted: Callable[[float], bool], expected: str):  # type: ignore[no-untyped-def]
    try:
        value = kind(text)
    except ValueError:
        value = math.nan
    if not accepted(value):
        raise argparse.ArgumentTypeError(f"expected {expected}, found {text!r}")
    return value


def str2bool(text: str) -> bool:
    """The original's spelling of switches: `--dist True`."""
    spellings = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
    if text.lower() not in spellings:
        raise argparse.ArgumentTypeError(f"expected True or False, found {text!r}")
    return spellings[text.lower()]


def user_path(text: str) -> Path:
    """A path as the user typed it: relative to where the user stands; `~` is the home folder."""
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise argparse.ArgumentTypeError(f"{text}: {error}") from error


def path_or_word(*words: str) -> Callable[[str], str]:
    """The type of a flag that takes a path or one of a few words."""

    def convert(text: str) -> str:
        return text if text in words else str(user_path(text))

    return convert


def seed_number(text: str) -> int:
    """A whole number that every random generator takes."""
    return _number(text, int, lambda value: 0 <= value < 2**32, "a whole number from 0 to 4294967295")


def add_reading_flags(group: argparse._ArgumentGroup) -> None:
    """What to do about files without a partner, and how many processes read."""
    group.add_argument(
        "--skip_unpaired",
        action="store_true",
        help="leave out images without a mask and masks without an image, and say how many",
    )
    group.add_argument(
        "--num_workers",
        type=count,
        default=min(2, os.cpu_count() or 1),
        metavar="N",
        help="processes that read images; 0 reads in the main one (default: %(default)s)",
    )


def add_model_type(
    group: argparse._ArgumentGroup,
    note: str = "default: vit_b; vit_demo is a small one without pretrained weights; efficientnet_lite0 is another "
    "encoder, small and pretrained, for cad and decoder",
) -> None:
    """The flag that names the size of SAM, or another encoder."""
    group.add_argument("--model_type", choices=MODEL_TYPES, help=f"size of SAM ({note})")


def add_machine_flags(group: argparse._ActionsContainer) -> None:
    """The flag that says what to compute on."""
    group.add_argument(
        "--device",
        default="auto",
        metavar="NAME",
        help="auto, cpu, cuda, cuda:1, mps, ... (default: the first there is)",
    )


def add_base_weights(group: argparse._ActionsContainer) -> None:
    """The flag that says where the SAM weights of trained weights are."""
    group.add_argument(
        "--sam_checkpoint",
        type=user_path,
        metavar="FILE",
        help="the SAM weights they were trained on (default: the file that they name, beside them or in checkpoints/)",
    )


def add_trained_method(group: argparse._ActionsContainer) -> None:
    """The flag that says what trained weights hold, where they cannot."""
    group.add_argument(
        "--method",
        choices=TRAINED_METHODS,
        help="what the trained weights must hold, which a whole SAM saved by the original's code after training the "
        "decoder cannot say",
    )


def add_output_dir(group: argparse._ActionsContainer) -> None:
    """The flag that says where checkpoints/ and runs/ are."""
    group.add_argument(
        "--output_dir",
        type=user_path,
        default=PROJECT_ROOT,
        metavar="DIR",
        help="where checkpoints/ and runs/ are (default: beside run.sh)",
    )


def sam_checkpoint_path(model_type: str, given: str | None, checkpoints: Path, flag: str = "--checkpoint") -> str:
    """The weights to start from: a path, or the word "random", or "package" where a package brings them.

    Args:
        flag: what `given` came from, for errors.

    Raises:
        MissingPathError: the file does not exist.
        UserError: a file is given where a package brings the weights.
    """
    if model_type in PACKAGED_TYPES:
        if given is not None:
            raise UserError(f"{flag} {given}: {model_type} brings its own weights; leave the flag out")
        return "package"
    from cad.encoders.sam import SAM_SIZES  # imports torch, which a wrong flag should not wait for

    official = SAM_SIZES[model_type].file_name
    if given == "random" or (given is None and not official):
        return "random"
    path = Path(given) if given else checkpoints / official
    if not path.is_file():
        raise MissingPathError(
            f"{flag} {path}: no such file; expected SAM's {model_type} weights"
            + (f" ({official}; get them: python code/download_sam.py --model_type {model_type})" if official else "")
            + f"; {flag} random takes random weights, on purpose"
        )
    return str(path)
