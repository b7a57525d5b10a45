"""Writing files so that a reader sees the old content or the new, never a part of either; and folders of runs."""

import contextlib
import json
import os
import re
import secrets
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO

from cad.errors import UserError

LONGEST_NAME = 255  # bytes, on every common file system


def write_atomically(path: Path, write: Callable[[BinaryIO], object], durable: bool = True) -> None:
    """Write a file under a temporary name beside it, force it to the disk, then rename it into place.

    Args:
        write: is given the open file.
        durable: wait until the disk has it, so that it survives a power cut too.

    Raises:
        UserError: the disk is full or the folder cannot be written; an older file of that name is left as it was.
    """
    # The process and a random part: machines or containers that share the folder may have processes of one number.
    ending = f".{os.getpid()}-{secrets.token_hex(3)}.tmp"
    name = os.fsdecode(os.fsencode(path.name)[: LONGEST_NAME - 1 - len(ending)])
    temporary = path.with_name(f".{name}{ending}")
    try:
        with temporary.open("wb") as file:
            write(file)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        temporary.replace(path)
        if durable:
            _force_to_disk(path.parent)
    except (OSError, RuntimeError) as error:
        refusal = _refusal_behind(error)
        if refusal is None:
            raise
        raise UserError(f"{path}: cannot be written: {refusal.strerror or refusal}") from error
    finally:
        with contextlib.suppress(OSError):  # a read-only file system refuses even what is not there
            temporary.unlink()


def _force_to_disk(folder: Path) -> None:
    """Make a renaming in the folder survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _refusal_behind(error: BaseException | None) -> OSError | None:
    """The file system's refusal that an error comes from: torch.save turns it into a RuntimeError of its own."""
    while error is not None and not isinstance(error, OSError):
        error = error.__context__
    return error


def unfinished_name(path: Path) -> str | None:
    """The name that a temporary file of `write_atomically` was to get; None for any other file."""
    found = re.fullmatch(r"\.(.+)\.\d+-[0-9a-f]{6}\.tmp", path.name, re.DOTALL)
    return found[1] if found else None


def remove_temporary_files(*paths: Path) -> None:
    """Remove what `write_atomically` leaves of these files when its process is killed. Nothing may be writing them."""
    for path in paths:
        for file in path.parent.glob(".*.tmp"):
            if unfinished_name(file) == path.name:
                file.unlink(missing_ok=True)


def refuse_existing(output: Path) -> None:
    """Raise a UserError where `--output` is there already, or its folder is not."""
    if output.exists():
        raise UserError(f"--output {output}: exists already; remove it or choose another name")
    if not output.parent.is_dir():
        raise UserError(f"--output {output}: there is no folder {output.parent}; make it or choose another name")


def write_json(path: Path, content: Any) -> None:
    """Write plain values as indented JSON, atomically. Raises ValueError on NaN or infinity."""
    text = json.dumps(content, indent=2, allow_nan=False) + "\n"
    write_atomically(path, lambda file: file.write(text.encode()))


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """The records of a run's log.jsonl, in the order in which they were logged."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def start_run_folder(output_dir: Path, suffix: str = "") -> Path:
    """Make `checkpoints/` and `runs/<start time><suffix>/`, as in May21_172910, or with `_2` behind it.

    Raises:
        UserError: the folder cannot be made.
    """
    start = datetime.now().strftime("%b%d_%H%M%S")
    runs = output_dir / "runs"
    try:
        (output_dir / "checkpoints").mkdir(parents=True, exist_ok=True)
        runs.mkdir(parents=True, exist_ok=True)
        for number in range(1, 1000):
            name = start if number == 1 else f"{start}_{number}"
            folder = runs / (name + suffix)
            if not (output_dir / "checkpoints" / f"{folder.name}.pth").exists():
                try:
                    folder.mkdir()
                except FileExistsError:
                    continue
                return folder
    except OSError as error:
        raise UserError(f"{error.filename}: cannot be written: {error.strerror}; pass --output_dir") from error
    raise UserError(f"{runs}: a thousand runs of this second exist")


def hide_home(path: Path | str) -> str:
    """The path as text, with `~` for the home folder, so that files that are passed on hold no user name."""
    # `..` may lead out of the folder one stands in and back through the home folder's name.
    named = Path(os.path.abspath(path)) if ".." in Path(path).parts else Path(path)  # noqa: PTH100  (links stay links)
    for home in _homes():
        if named.is_relative_to(home):
            return str("~" / named.relative_to(home))
    return str(path)


def hide_home_in_file(path: Path) -> None:
    """Put `~` for the home folder wherever a text file has it."""
    content = hidden = path.read_bytes()
    for home in _homes():
        hidden = re.sub(re.escape(os.fsencode(home)) + rb"(?![\w.-])", b"~", hidden)
    if hidden != content:
        write_atomically(path, lambda file: file.write(hidden), durable=False)


def _homes() -> list[Path]:
    """The home folder as it is named, and as it is found where a link leads to it; none where it is the root."""
    try:
        home = Path.home()
    except RuntimeError:  # a user without an entry, as in a container
        return []
    return [folder for folder in dict.fromkeys((home, home.resolve())) if folder != Path(folder.anchor)]
