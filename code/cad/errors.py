"""Errors that a user can act on, and how a script ends on one: a single line on stderr and exit code 2."""

import importlib
import io
import sys
from collections.abc import Callable
from types import ModuleType


class UserError(ValueError):
    """Wrong input. The message names the value, what was expected, what was found and what to do."""


class MissingPathError(UserError, FileNotFoundError):
    """A path that was given, or is needed, does not exist."""


class Interrupted(Exception):
    """Work that stopped because it was asked to. The message says what was saved and how to go on.

    Args:
        exit_code: what the script ends with: 130 for Ctrl-C, 143 for SIGTERM.
    """

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def run_script(main: Callable[[], None]) -> int:
    """Run a script's body and return its exit code: 0, 130 for Ctrl-C, else 2 after one line on what to do about it.

    One line is for a `UserError`, for the file system's refusals and for a missing package. Any other exception is a
    defect of this software and keeps its traceback.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a file name need not be UTF-8, and is no reason to stop
    try:
        main()
    except UserError as error:
        message = str(error)
        if "in DataLoader worker" in message:
            # The worker's traceback comes first; the last line is the class, a colon and the error's own words.
            message = message.rstrip().splitlines()[-1].partition("Error: ")[2]
        print(f"error: {_printable(' '.join(line.strip() for line in message.splitlines()))}", file=sys.stderr)
        return 2
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] == "cad":
            raise
        print(f"error: the package {error.name} is missing: use ./run.sh once, then .venv/bin/python", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"error: {error.filename or 'the file system'}: {error.strerror or error}", file=sys.stderr)
        return 2
    except Interrupted as error:
        print(error, file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return 130
    return 0


def _printable(message: str) -> str:
    """The message without control characters, which a file or a server could have a terminal obey."""
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in message)


def first_names(names: list[str], shown: int = 5) -> str:
    """The first few names and how many there are: `a, b, c, d, e and 3 more`."""
    listed = ", ".join(names[:shown])
    return f"{listed} and {len(names) - shown} more" if len(names) > shown else listed


def optional_package(name: str, install: str = "") -> ModuleType:
    """Import a package that only some jobs need.

    Args:
        install: what to tell pip to install, where that is not `name`.

    Raises:
        UserError: it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        raise UserError(f"the package {name} is missing: pip install {install or name}") from error
