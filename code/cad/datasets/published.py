"""A published data set as it unpacks -> {train,test}/{image,mask} folders, by links or copies.

What each download looks like is the table `DATASETS`; docs/DATASETS.md says where they come from. Everything is found
and checked before the first file is written, and no file that is there is ever replaced.
"""

import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from cad.datasets.pairs import EXTENSIONS, list_images, stem_of
from cad.datasets.placing import Placement, check_folders, check_targets, place
from cad.errors import UserError, first_names

SPLITS = ("train", "test")


@dataclass(frozen=True)
class Source:
    """Two folders of one published layout, below the download, and which of their images belong to the split.

    Args:
        names: regular expression that the stem of an image must contain; the others are left out.
        listed_in: text file beside the folders that names the split's images, one a line.
    """

    images: str
    masks: str
    names: str = ""
    listed_in: str = ""

    def __str__(self) -> str:
        return f"{self.images} with {self.masks}" + (f" and {self.listed_in}" if self.listed_in else "")


@dataclass(frozen=True)
class Split:
    """One split: how many pairs were published, as counts that all occur, and where they may lie, best first."""

    published: tuple[int, ...]
    sources: tuple[Source, ...]


@dataclass(frozen=True)
class Published:
    """A data set: its splits, and the folder names under which the layouts are found besides the given folder."""

    title: str
    splits: dict[str, Split]
    roots: tuple[str, ...] = ()
    note: str = ""


@dataclass
class Found:
    """One split of a download: its source, the pairs as (image, mask), and what was left out."""

    split: str
    source: Source
    pairs: list[tuple[Path, Path]] = field(default_factory=list)
    other_names: list[str] = field(default_factory=list)
    without_mask: list[str] = field(default_factory=list)
    not_there: list[str] = field(default_factory=list)


# "NonCAM" holds "CAM" too: the hyphens tell them apart.
_CAMOUFLAGED = r"-CAM-"
# CAMO's file names, in its own spelling and the right one.
_FROM_CAMO = r"(?i)^camou?r?flage"
_TRAIN_BUNDLES = ("TrainDataset", "TrainValDataset", "COD10K_CAMO_CombinedTrainingDataset")
_IMAGE_FOLDERS = ("Imgs", "Image")


def _bundled(folders: tuple[str, ...], names: str = "") -> tuple[Source, ...]:
    """The layout in which camouflage papers pass data sets on: Imgs (or Image) and GT in one folder."""
    return tuple(Source(f"{folder}/{images}", f"{folder}/GT", names) for folder in folders for images in _IMAGE_FOLDERS)


def _cod10k(split: str) -> tuple[Source, ...]:
    folders = [
        ("Image", "GT_Object"),
        ("Imgs", "GT"),
        ("Image", "GT"),
        ("Imgs", "GT_Object"),
        ("Images/Image", "GT_Objects/GT_Object"),
        ("Images", "GT_Object"),
    ]
    return tuple(Source(f"{split}/{images}", f"{split}/{masks}", _CAMOUFLAGED) for images, masks in folders)


def _camo(split: str) -> tuple[Source, ...]:
    # A GT folder without subfolders holds the masks of both splits.
    return Source(f"Images/{split}", f"GT/{split}"), Source(f"Images/{split}", "GT")


def _test_only(title: str, count: int, name: str) -> Published:
    bundles = _bundled((f"TestDataset/{name}", name, f"{name}_TestingDataset"))
    own = tuple(Source(images, "GT") for images in _IMAGE_FOLDERS)
    return Published(title, {"test": Split((count,), (*bundles, *own))}, note=f"{title} is a test set only")


DATASETS = {
    "cod10k": Published(
        "COD10K",
        {
            "train": Split((3040,), (*_cod10k("Train"), *_bundled(_TRAIN_BUNDLES, _CAMOUFLAGED))),
            "test": Split(
                (2026,),
                (*_cod10k("Test"), *_bundled(("TestDataset/COD10K", "COD10K", "COD10K_TestingDataset"), _CAMOUFLAGED)),
            ),
        },
        roots=("COD10K-v3", "COD10K-v2", "COD10K"),
    ),
    "camo": Published(
        "CAMO",
        {
            "train": Split((1000,), (*_camo("Train"), *_bundled(_TRAIN_BUNDLES, _FROM_CAMO))),
            "test": Split((250,), (*_camo("Test"), *_bundled(("TestDataset/CAMO", "CAMO", "CAMO_TestingDataset")))),
        },
        roots=(
            "CAMO-V.1.0-CVIU2019",
            "CAMO-V.1.0/CAMO-V.1.0-CVIU2019",
            "CAMO-V.1.0-CVIU2019/CAMO-V.1.0-CVIU2019",
            "Camouflage",
            "CAMO-COCO-V.1.0-CVIU2019/Camouflage",
            "CAMO-COCO-V.1.0/CAMO-COCO-V.1.0-CVIU2019/Camouflage",
            "CAMO",
        ),
    ),
    "chameleon": _test_only("CHAMELEON", 76, "CHAMELEON"),
    "nc4k": _test_only("NC4K", 4121, "NC4K"),
    "istd": Published(
        "ISTD",
        {
            "train": Split((1330,), (Source("train/train_A", "train/train_B"), Source("train_A", "train_B"))),
            "test": Split((540,), (Source("test/test_A", "test/test_B"), Source("test_A", "test_B"))),
        },
        roots=("ISTD_Dataset", "ISTD"),
    ),
    "sbu": Published(
        "SBU",
        {
            "train": Split(
                (4085, 4089),
                (Source("SBUTrain4KRecoveredSmall/ShadowImages", "SBUTrain4KRecoveredSmall/ShadowMasks"),),
            ),
            "test": Split((638,), (Source("SBU-Test/ShadowImages", "SBU-Test/ShadowMasks"),)),
        },
        roots=("SBU-shadow", "SBU/SBU-shadow", "SBU"),
    ),
    "kvasir": Published(
        "Kvasir-SEG",
        {
            "train": Split((880, 1000), (Source("images", "masks", listed_in="train.txt"), Source("images", "masks"))),
            "test": Split((120,), (Source("images", "masks", listed_in="val.txt"),)),
        },
        roots=("Kvasir-SEG", "Kvasir-SEG/Kvasir-SEG"),
        note="Kvasir-SEG comes without a split: put its authors' train.txt and val.txt beside images/ and masks/",
    ),
}


def prepare_published(
    from_dir: Path,
    to_dir: Path,
    dataset: str,
    split: str = "all",
    copy: bool = False,
    say: Callable[[str], None] = print,
) -> None:
    """Lay a download out as `to_dir`/{train,test}/{image,mask}, beside what is already there.

    Args:
        from_dir: the unpacked download, or the folder that holds it.
        dataset: a key of `DATASETS`.
        split: "train", "test", or "all" for those that the download holds.
        copy: copy the files instead of linking to them.

    Raises:
        MissingPathError, UserError: the folders are wrong, the layout is not known, or a file is in the way. Nothing
            has been written then, unless writing itself failed.
    """
    published = DATASETS[dataset]
    check_folders(from_dir, to_dir)
    found = _find_splits(from_dir, published, split)
    _check_disjoint(found)
    placements = {one.split: [_place_pair(pair, to_dir / one.split) for pair in one.pairs] for one in found}
    flat = [placement for pairs in placements.values() for pair in pairs for placement in pair]
    check_targets(flat, copy)
    verb = place(flat, copy, say)
    for one in found:
        target = to_dir / one.split
        say(f"{one.split}: {len(one.pairs)} pairs of {published.title} {verb} into {target} ({one.source})")
        _tell_differences(one, published.splits[one.split], say)
        total = sum(path.suffix.lower() in EXTENSIONS for path in (target / "image").iterdir())
        if total > len(one.pairs):
            say(f"{one.split}: {target} holds {total} pairs in all")
    missing = [name for name in published.splits if split == "all" and name not in placements]
    for name in missing:
        say(f"{name}: not in {from_dir}")
    if published.note and (missing or set(published.splits) != set(SPLITS)):
        say(published.note)


def find_folder(base: Path, relative: str) -> Path | None:
    """The folder at a relative path, in whatever case its parts are spelled; the spelling as given comes first.

    `base` may also be one of the folders on the way: TrainDataset/Imgs is found from TrainDataset too.
    """
    parts = relative.split("/")
    above = [part.casefold() for part in base.resolve().parts]
    for known in range(len(parts)):
        if known == 0 or above[-known:] == [part.casefold() for part in parts[:known]]:
            folder: Path | None = base
            for part in parts[known:]:
                folder = folder and _find_entry(folder, part)
            if folder and folder.is_dir():
                return folder
    return None


def _find_entry(folder: Path, name: str) -> Path | None:
    if not folder.is_dir():
        return None
    same = [path for path in folder.iterdir() if path.name.casefold() == name.casefold()]
    return min(same, key=lambda path: (path.name != name, path.name), default=None)


def _find_splits(from_dir: Path, published: Published, split: str) -> list[Found]:
    """The splits asked for, with their pairs; with "all", those that are there, at least one."""
    asked = list(published.splits) if split == "all" else [split]
    if not set(asked) <= set(published.splits):
        raise UserError(f"--split {split}: {published.note}")
    found = [one for name in asked if (one := _find_split(from_dir, published, name))]
    if not found:
        expected = dict.fromkeys(str(source) for name in asked for source in published.splits[name].sources)
        below = f", there or below {' or '.join(published.roots)}" if published.roots else ""
        inside = sorted(str(path.relative_to(from_dir)) for path in _folders(from_dir, depth=2)) or ["no folders"]
        raise UserError(
            f"--from_dir {from_dir}: no {published.title} {'' if split == 'all' else split + ' set '}found; "
            f"expected {first_names(list(expected), 6)}{below}; found {first_names(inside, 8)}"
            + (f"; {published.note}" if published.note else "")
        )
    return found


def _folders(base: Path, depth: int) -> list[Path]:
    inside = [path for path in base.iterdir() if path.is_dir() and not path.name.startswith(".")]
    return inside + [deeper for path in inside if depth > 1 for deeper in _folders(path, depth - 1)]


def _find_split(from_dir: Path, published: Published, split: str) -> Found | None:
    """Read the first layout whose folders are there."""
    for source in published.splits[split].sources:
        for root in ("", *published.roots):
            base = find_folder(from_dir, root) if root else from_dir
            images = base and find_folder(base, source.images)
            masks = base and find_folder(base, source.masks)
            if not images or not masks:
                continue
            listed = _find_entry(images.parent, source.listed_in) if source.listed_in else None
            if listed or not source.listed_in:
                return _read_source(split, source, images, masks, listed)
    return None


def _read_source(split: str, source: Source, image_dir: Path, mask_dir: Path, listed: Path | None) -> Found:
    """Pair the images that belong to the split with their masks by file stem."""
    images, masks = list_images(image_dir, "--from_dir"), list_images(mask_dir, "--from_dir")
    found = Found(split, source)
    wanted = {stem for stem in images if re.search(source.names, stem)}
    found.other_names = [stem for stem in images if stem not in wanted]
    if listed:
        names = _read_names(listed)
        found.not_there = [name for name in names if name not in images]
        wanted &= set(names)
    found.without_mask = [images[stem].name for stem in images if stem in wanted and stem not in masks]
    found.pairs = [(images[stem], masks[stem]) for stem in images if stem in wanted and stem in masks]
    if not found.pairs:
        raise UserError(
            f"--from_dir: no pair of the {split} set in {image_dir} and {mask_dir}: images are named "
            f"{first_names([path.name for path in images.values()], 3)}, masks "
            f"{first_names([path.name for path in masks.values()], 3)}; expected the same names up to the extension"
            + (f", and {source.names!r} in them" if source.names else "")
            + (f", listed in {listed}" if listed else "")
        )
    return found


def _read_names(file: Path) -> list[str]:
    """File stems from a list of names, one a line, with or without a folder and an extension."""
    try:
        lines = [line.strip() for line in file.read_text(encoding="utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: cannot be read as a list of names: {error}") from error
    names = [Path(unicodedata.normalize("NFC", line)).name for line in lines if line]
    return [stem_of(Path(name)) if Path(name).suffix.lower() in EXTENSIONS else name for name in names]


def _check_disjoint(found: list[Found]) -> None:
    """An image in both splits would be trained on and tested on: a list of names is missing or wrong."""
    splits: dict[Path, str] = {}
    twice = []
    for one in found:
        for image, _ in one.pairs:
            if splits.setdefault(image, one.split) != one.split:
                twice.append(image.name)
    if twice:
        raise UserError(
            f"{len(twice)} images are in the train and in the test set: {first_names(twice)}; "
            f"they came from {' and '.join(f'{one.source} ({one.split})' for one in found)}"
        )


def _tell_differences(found: Found, split: Split, say: Callable[[str], None]) -> None:
    """Say what was left out, and warn where the count is not the published one: mirrors differ."""
    if found.other_names:
        names = first_names(found.other_names, 2)
        say(f"{found.split}: left out {len(found.other_names)} images that do not belong to it ({names})")
    if found.without_mask:
        names = first_names(found.without_mask)
        say(f"warning: {found.split}: left out {len(found.without_mask)} images without a mask ({names})")
    if found.not_there:
        names, listed_in = first_names(found.not_there), found.source.listed_in
        say(f"warning: {found.split}: {len(found.not_there)} names of {listed_in} have no image ({names})")
    count = len(found.pairs)
    if count not in split.published:
        nearest = min(split.published, key=lambda published: abs(published - count))
        more = "more" if count > nearest else "fewer"
        say(
            f"warning: {found.split}: {count} pairs where {' or '.join(map(str, split.published))} were published, "
            f"{abs(count - nearest)} {more}"
        )


def _place_pair(pair: tuple[Path, Path], target: Path) -> tuple[Placement, Placement]:
    image, mask = pair
    return Placement(image, target / "image" / image.name), Placement(mask, target / "mask" / mask.name)
