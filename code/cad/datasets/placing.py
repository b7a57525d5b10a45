"""Files of a download -> links or copies in other folders, where nothing that is there is ever replaced."""

import filecmp
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cad.datasets.pairs import EXTENSIONS, stem_of
from cad.errors import MissingPathError, UserError, first_names
from cad.files import write_atomically


@dataclass(frozen=True)
class Placement:
    """One file and where it goes."""

    source: Path
    target: Path


def check_folders(from_dir: Path, to_dir: Path) -> None:
    """Refuse a source that is no folder, and a target within it, which would be taken for a part of the download."""
    if not from_dir.exists():
        raise MissingPathError(f"--from_dir {from_dir}: no such folder")
    if not from_dir.is_dir():
        raise UserError(f"--from_dir {from_dir}: expected the unpacked folder, found a file")
    if to_dir.resolve().is_relative_to(from_dir.resolve()):
        raise UserError(f"--to_dir {to_dir} lies in --from_dir {from_dir}: choose a folder outside the download")


def check_targets(placements: list[Placement], copy: bool) -> None:
    """Refuse to go on where a file of that name, or of that stem, is there and is not the one to be placed.

    Raises:
        UserError: such files exist; the first are named.
    """
    in_the_way = []
    stems: dict[Path, dict[str, str]] = {}
    for placement in placements:
        folder = placement.target.parent
        if folder not in stems:
            there = folder.iterdir() if folder.is_dir() else ()
            stems[folder] = {stem_of(path): path.name for path in there if path.suffix.lower() in EXTENSIONS}
        name = stems[folder].setdefault(stem_of(placement.target), placement.target.name)
        same_name = name == placement.target.name
        if not same_name or (os.path.lexists(placement.target) and not _is_placed(placement, copy)):
            in_the_way.append(str(folder / name))
    refuse_in_the_way(in_the_way)


def refuse_in_the_way(files: list[str]) -> None:
    """Raise a UserError if there are any."""
    if files:
        raise UserError(
            f"{len(files)} other files are in the way: {first_names(files, 3)}; nothing was written; "
            "choose another --to_dir or remove them"
        )


def _is_placed(placement: Placement, copy: bool) -> bool:
    """Whether the target is what placing would make: a link to the source, or a copy of it."""
    if placement.target.is_symlink():
        # realpath: resolve() raises on links that lead to themselves.
        return not copy and os.path.realpath(placement.target) == os.path.realpath(placement.source)
    return placement.target.is_file() and filecmp.cmp(placement.source, placement.target, shallow=False)


def place(placements: list[Placement], copy: bool, say: Callable[[str], None]) -> str:
    """Link or copy each file to its target; what is there already is left as it is (see `check_targets`).

    Returns:
        What was done to them: "linked" or "copied".

    Raises:
        UserError: a folder or file cannot be written.
    """
    for placement in placements:
        if os.path.lexists(placement.target):
            continue
        make_folder(placement.target.parent)
        if not copy:
            try:
                _link(placement)
                continue
            except OSError as error:
                say(f"links cannot be made in {placement.target.parent} ({error.strerror or error}): copying instead")
                copy = True
        _copy(placement)
    return "copied" if copy else "linked"


def make_folder(folder: Path) -> None:
    """Make a folder and those above it, if they are not there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--to_dir {folder}: cannot be made: {error.strerror or error}") from error


def _link(placement: Placement) -> None:
    """A relative link, so that both folders can move together."""
    source = placement.source.parent.resolve() / placement.source.name
    placement.target.symlink_to(os.path.relpath(source, placement.target.parent.resolve()))


def _copy(placement: Placement) -> None:
    try:
        with placement.source.open("rb") as source:
            write_atomically(placement.target, lambda file: shutil.copyfileobj(source, file), durable=False)
    except OSError as error:
        raise UserError(f"{placement.source}: cannot be read: {error.strerror or error}") from error
