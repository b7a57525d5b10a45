"""What the user names (files, folders, patterns) -> the images to predict, and what each is called in the results."""

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from cad.datasets.pairs import EXTENSIONS
from cad.errors import MissingPathError, UserError, first_names


@dataclass(frozen=True)
class InputImage:
    """An image file.

    Args:
        file_name: its path below the folder that was asked for, with "/" between folders.
        name: what its results are called: `file_name` without the extension, or with it where two files differ in
            nothing else.
    """

    path: Path
    file_name: str
    name: str


def find_images(inputs: Iterable[Path], results: Iterable[Path] = ()) -> list[InputImage]:
    """The images that the inputs name, sorted, each once.

    Args:
        inputs: image files; folders, searched with all that are in them; patterns such as `photos/*/*.jpg`. Of folders
            and patterns, files with an image's extension count, and none in which a part of the path starts with a dot.
        results: folders to leave out of the search: an earlier run's results are no images to predict.

    Raises:
        MissingPathError: a path does not exist, or nothing fits a pattern.
        UserError: a folder without images, or results that would have the same name.
    """
    excluded = [folder.resolve() for folder in results]
    found: dict[Path, str] = {}
    files: list[Path] = []
    for given in inputs:
        if given.is_file():
            files.append(given)
            continue
        base, candidates = _search(given)
        images = [path for path in candidates if _is_image(path, base) and not _is_below(path, excluded)]
        if not images:
            raise UserError(f"--input {given}: no image files found; expected any of {' '.join(EXTENSIONS)}")
        found |= {path: path.relative_to(base).as_posix() for path in images}
    if files:
        # A shell hands over the files of a pattern one by one: their names are what differs between them.
        base = Path(os.path.commonpath([path.absolute().parent for path in files]))
        found |= {path: path.absolute().relative_to(base).as_posix() for path in files}
    return _name({path.absolute(): (path, name) for path, name in found.items()}.values())


def _search(given: Path) -> tuple[Path, Iterator[Path]]:
    """(the folder to search, what it holds) of a folder or a pattern."""
    if given.is_dir():
        return given, given.rglob("*")
    wild = next((index for index, part in enumerate(given.parts) if set(part) & set("*?[")), None)
    if wild is None:
        raise MissingPathError(f"--input {given}: no such file or folder")
    base = Path(*given.parts[:wild])
    pattern = "/".join(given.parts[wild:])
    if next(base.glob(pattern), None) is None:
        raise MissingPathError(f"--input {given}: nothing fits this pattern")
    return base, base.glob(pattern)


def _is_image(path: Path, base: Path) -> bool:
    hidden = any(part.startswith(".") for part in path.relative_to(base).parts)
    return path.suffix.lower() in EXTENSIONS and not hidden and path.is_file()


def _is_below(path: Path, folders: list[Path]) -> bool:
    return any(path.resolve().is_relative_to(folder) for folder in folders)


def _name(found: Iterable[tuple[Path, str]]) -> list[InputImage]:
    """Name the results, and refuse what would overwrite each other."""
    files = sorted(found, key=lambda file: (file[1], file[0]))
    stems = Counter(Path(file_name).with_suffix("").as_posix() for _, file_name in files)
    images = []
    for path, file_name in files:
        stem = Path(file_name).with_suffix("").as_posix()
        images.append(InputImage(path, file_name, stem if stems[stem] == 1 else file_name))
    names = Counter(image.name for image in images)
    twice = [image.file_name for image in images if names[image.name] > 1]
    if twice:
        raise UserError(
            f"--input: results of {len(twice)} images would have the same name ({first_names(twice)}): predict these "
            "inputs one by one, each with its own --output"
        )
    return images
