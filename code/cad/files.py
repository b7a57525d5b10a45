"""Writing files so that a reader sees the old content or the new, never a part of either."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from cad.errors import UserError


def write_atomically(path: Path, write: Callable[[BinaryIO], object], durable: bool = True) -> None:
    """Write a file under a temporary name beside it, force it to the disk, then rename it into place.

    Args:
        write: is given the open file.
        durable: wait until the disk has it, so that it survives a power cut too.

    Raises:
        UserError: the disk is full or the folder cannot be written; an older file of that name is left as it was.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            write(file)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror or error}") from error
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, content: Any) -> None:
    """Write plain values as indented JSON, atomically. Raises ValueError on NaN or infinity."""
    text = json.dumps(content, indent=2, allow_nan=False) + "\n"
    write_atomically(path, lambda file: file.write(text.encode()))
