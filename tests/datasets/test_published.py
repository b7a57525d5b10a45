"""Every published layout in miniature -> the folders of pairs, and what is told or refused."""

import errno
import shutil

import numpy as np
import pytest
from PIL import Image

from cad.datasets.pairs import find_pairs
from cad.datasets.published import DATASETS, find_folder, prepare_published
from cad.errors import MissingPathError, UserError

COD10K_NAMES = [f"COD10K-CAM-1-Aquatic-1-BatFish-{number}" for number in range(3)]
OTHER_NAMES = ["COD10K-NonCAM-1-Aquatic-2-ClownFish-7", "COD10K-NonCAM-5-Other-69-Other-8"]
CAMO_NAMES = ["camourflage_00001", "camourflage_00002"]

# (data set, split, image folder, mask folder), below the download
LAYOUTS = [
    ("cod10k", "train", "Train/Image", "Train/GT_Object"),
    ("cod10k", "train", "COD10K-v3/Train/Image", "COD10K-v3/Train/GT_Object"),
    ("cod10k", "train", "train/imgs", "train/gt"),
    ("cod10k", "train", "Train/Images/Image", "Train/GT_Objects/GT_Object"),
    ("cod10k", "train", "TrainDataset/Imgs", "TrainDataset/GT"),
    ("cod10k", "train", "TrainValDataset/Imgs", "TrainValDataset/GT"),
    ("cod10k", "test", "COD10K-v2/Test/Image", "COD10K-v2/Test/GT_Object"),
    ("cod10k", "test", "TestDataset/COD10K/Imgs", "TestDataset/COD10K/GT"),
    ("camo", "train", "Images/Train", "GT"),
    ("camo", "train", "CAMO-V.1.0-CVIU2019/Images/Train", "CAMO-V.1.0-CVIU2019/GT"),
    ("camo", "test", "CAMO-COCO-V.1.0-CVIU2019/Camouflage/Images/Test", "CAMO-COCO-V.1.0-CVIU2019/Camouflage/GT"),
    ("camo", "train", "Images/Train", "GT/Train"),
    ("camo", "train", "TrainDataset/Imgs", "TrainDataset/GT"),
    ("camo", "test", "TestDataset/CAMO/Imgs", "TestDataset/CAMO/GT"),
    ("chameleon", "test", "Imgs", "GT"),
    ("chameleon", "test", "TestDataset/CHAMELEON/Imgs", "TestDataset/CHAMELEON/GT"),
    ("chameleon", "test", "CHAMELEON_TestingDataset/Image", "CHAMELEON_TestingDataset/GT"),
    ("nc4k", "test", "NC4K/Imgs", "NC4K/GT"),
    ("istd", "train", "ISTD_Dataset/train/train_A", "ISTD_Dataset/train/train_B"),
    ("istd", "test", "test/test_A", "test/test_B"),
    ("sbu", "train", "SBUTrain4KRecoveredSmall/ShadowImages", "SBUTrain4KRecoveredSmall/ShadowMasks"),
    ("sbu", "test", "SBU-shadow/SBU-Test/ShadowImages", "SBU-shadow/SBU-Test/ShadowMasks"),
    ("kvasir", "train", "Kvasir-SEG/images", "Kvasir-SEG/masks"),
]


def write(folder, images, masks, names, image_suffix=".jpg", mask_suffix=".png"):
    """Write a small image and mask for each name, with content that differs between names."""
    for number, name in enumerate(names):
        for kind, suffix in (images, image_suffix), (masks, mask_suffix):
            path = folder / kind / f"{name}{suffix}"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((2, 2), 255 * (number % 2), np.uint8)).save(path)


def names_for(dataset):
    return {"cod10k": COD10K_NAMES, "camo": CAMO_NAMES}.get(dataset, ["1", "2"])


def everything_in(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def prepare(tmp_path, dataset, **options):
    """Prepare `tmp_path`/download into `tmp_path`/out; returns what was said."""
    said = []
    prepare_published(tmp_path / "download", tmp_path / "out", dataset, say=said.append, **options)
    return said


@pytest.fixture
def istd(tmp_path):
    for split, names in ("train", ["1-1", "1-2"]), ("test", ["90-1"]):
        write(tmp_path / "download", f"{split}/{split}_A", f"{split}/{split}_B", names, ".png")
        write(tmp_path / "download", f"{split}/{split}_A", f"{split}/{split}_C", names, ".png")
    return tmp_path


@pytest.mark.parametrize(("dataset", "split", "images", "masks"), LAYOUTS)
def test_each_layout_becomes_pairs_reached_by_relative_links(tmp_path, dataset, split, images, masks):
    names = names_for(dataset)
    write(tmp_path / "download", images, masks, names)
    said = prepare(tmp_path, dataset)
    out = tmp_path / "out"
    assert [pair.name for pair in find_pairs(out / split / "image", out / split / "mask")] == names
    assert not (out / {"train": "test", "test": "train"}[split]).exists()
    for kind, source in ("image", images), ("mask", masks):
        for link in (out / split / kind).iterdir():
            assert not link.readlink().is_absolute()
            assert link.resolve() == (tmp_path / "download" / source / link.name).resolve()
    assert said[0].startswith(f"{split}: {len(names)} pairs of {DATASETS[dataset].title} linked into {out / split} (")


@pytest.mark.parametrize(
    ("dataset", "folder", "inside"),
    [
        ("cod10k", "TrainDataset", ""),
        ("chameleon", "TestDataset", "CHAMELEON"),
        ("nc4k", "TestDataset/NC4K", ""),
        ("sbu", "SBU-Test", ""),
    ],
)
def test_from_dir_may_be_a_folder_within_the_layout(tmp_path, dataset, folder, inside):
    images, masks = ("ShadowImages", "ShadowMasks") if dataset == "sbu" else ("Imgs", "GT")
    write(tmp_path / folder / inside, images, masks, names_for(dataset))
    prepare_published(tmp_path / folder, tmp_path / "out", dataset, say=lambda line: None)
    assert len(list((tmp_path / "out").rglob("*.png"))) == len(names_for(dataset))


def test_both_splits_and_what_differs_from_the_published_counts_is_told(istd):
    said = prepare(istd, "istd")
    assert said == [
        f"train: 2 pairs of ISTD linked into {istd / 'out' / 'train'} (train/train_A with train/train_B)",
        "warning: train: 2 pairs where 1330 were published, 1328 fewer",
        f"test: 1 pairs of ISTD linked into {istd / 'out' / 'test'} (test/test_A with test/test_B)",
        "warning: test: 1 pairs where 540 were published, 539 fewer",
    ]


def test_the_published_count_and_its_variants_give_no_warning(tmp_path, monkeypatch):
    write(tmp_path / "download", "SBU-Test/ShadowImages", "SBU-Test/ShadowMasks", ["1", "2"])
    monkeypatch.setitem(DATASETS["sbu"].splits, "test", type(DATASETS["sbu"].splits["test"])((5, 2), _sources("sbu")))
    assert not [line for line in prepare(tmp_path, "sbu") if "warning" in line]
    monkeypatch.setitem(DATASETS["sbu"].splits, "test", type(DATASETS["sbu"].splits["test"])((5, 1), _sources("sbu")))
    assert "warning: test: 2 pairs where 5 or 1 were published, 1 more" in prepare(tmp_path, "sbu")


def _sources(dataset):
    return DATASETS[dataset].splits["test"].sources


def test_the_published_counts_are_those_of_the_papers():
    counts = {name: {split: one.published for split, one in data.splits.items()} for name, data in DATASETS.items()}
    assert counts["cod10k"] == {"train": (3040,), "test": (2026,)}
    assert counts["camo"] == {"train": (1000,), "test": (250,)}
    assert counts["chameleon"] == {"test": (76,)} and counts["nc4k"] == {"test": (4121,)}
    assert counts["istd"] == {"train": (1330,), "test": (540,)}
    assert counts["sbu"] == {"train": (4085, 4089), "test": (638,)}
    assert counts["kvasir"] == {"train": (880, 1000), "test": (120,)}


def test_one_split_on_request(istd):
    prepare(istd, "istd", split="test")
    assert [path.name for path in (istd / "out").iterdir()] == ["test"]


def test_a_split_that_is_not_there_is_named(tmp_path):
    write(tmp_path / "download", "train/train_A", "train/train_B", ["1-1"])
    assert f"test: not in {tmp_path / 'download'}" in prepare(tmp_path, "istd")
    with pytest.raises(UserError, match=r"no ISTD test set found; expected test/test_A with test/test_B"):
        prepare(tmp_path, "istd", split="test")


def test_a_test_set_has_no_training_split(tmp_path):
    write(tmp_path / "download", "Imgs", "GT", ["1"])
    with pytest.raises(UserError, match="--split train: NC4K is a test set only"):
        prepare(tmp_path, "nc4k", split="train")


def test_images_without_camouflage_are_left_out(tmp_path):
    write(tmp_path / "download", "Train/Image", "Train/GT_Object", COD10K_NAMES + OTHER_NAMES)
    said = prepare(tmp_path, "cod10k")
    assert sorted(path.stem for path in (tmp_path / "out/train/image").iterdir()) == COD10K_NAMES
    assert f"train: left out 2 images that do not belong to it ({', '.join(OTHER_NAMES)})" in said


def test_cod_training_is_cod10k_and_camo_prepared_into_one_folder(tmp_path):
    write(tmp_path / "download", "COD10K-v3/Train/Image", "COD10K-v3/Train/GT_Object", COD10K_NAMES)
    write(tmp_path / "download", "CAMO-V.1.0-CVIU2019/Images/Train", "CAMO-V.1.0-CVIU2019/GT", CAMO_NAMES)
    prepare(tmp_path, "cod10k", split="train")
    said = prepare(tmp_path, "camo", split="train")
    assert f"train: {tmp_path / 'out' / 'train'} holds 5 pairs in all" in said
    pairs = find_pairs(tmp_path / "out/train/image", tmp_path / "out/train/mask")
    assert [pair.name for pair in pairs] == COD10K_NAMES + CAMO_NAMES


def test_the_combined_training_set_is_taken_apart_by_name(tmp_path):
    write(tmp_path / "download", "TrainDataset/Imgs", "TrainDataset/GT", COD10K_NAMES + CAMO_NAMES)
    prepare(tmp_path, "cod10k", split="train")
    assert len(list((tmp_path / "out/train/image").iterdir())) == 3
    prepare(tmp_path, "camo", split="train")
    assert len(list((tmp_path / "out/train/image").iterdir())) == 5


def test_the_authors_lists_split_kvasir(tmp_path):
    write(tmp_path / "download", "images", "masks", ["a", "b", "c"], mask_suffix=".jpg")
    (tmp_path / "download/train.txt").write_text("a\nc.jpg\r\n\nlost\n")
    (tmp_path / "download/val.txt").write_text("images/b.jpg\n")
    said = prepare(tmp_path, "kvasir")
    assert everything_in(tmp_path / "out/train/image") == ["a.jpg", "c.jpg"]
    assert everything_in(tmp_path / "out/test/mask") == ["b.jpg"]
    assert "warning: train: 1 names of train.txt have no image (lost)" in said


def test_kvasir_without_lists_is_one_training_set_and_says_so(tmp_path):
    write(tmp_path / "download", "images", "masks", ["a", "b"])
    assert prepare(tmp_path, "kvasir")[-1].startswith("Kvasir-SEG comes without a split: put its authors' train.txt")


def test_an_image_in_both_splits_is_refused(tmp_path):
    write(tmp_path / "download", "images", "masks", ["a", "b"])
    (tmp_path / "download/val.txt").write_text("b\n")
    with pytest.raises(UserError, match=r"1 images are in the train and in the test set: b.jpg"):
        prepare(tmp_path, "kvasir")
    assert not (tmp_path / "out").exists()


def test_images_without_a_mask_are_left_out_with_a_warning(istd):
    (istd / "download/train/train_B/1-2.png").unlink()
    assert "warning: train: left out 1 images without a mask (1-2.png)" in prepare(istd, "istd")
    assert everything_in(istd / "out/train/image") == ["1-1.png"]


def test_copies_on_request_and_again_without_harm(istd):
    for _ in range(2):
        assert "copied into" in prepare(istd, "istd", copy=True)[0]
    copied = istd / "out/train/image/1-1.png"
    assert not copied.is_symlink()
    assert copied.read_bytes() == (istd / "download/train/train_A/1-1.png").read_bytes()


def test_copies_where_links_cannot_be_made_said_once(istd, monkeypatch):
    def refuse(self, target):
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr("pathlib.Path.symlink_to", refuse)
    for runs in (1, 0):
        said = prepare(istd, "istd")
        assert len([line for line in said if "links cannot be made" in line]) == runs
    assert len([path for path in (istd / "out").rglob("*.png") if not path.is_symlink()]) == 6


def test_links_that_are_there_stay(istd):
    prepare(istd, "istd")
    before = everything_in(istd / "out")
    prepare(istd, "istd")
    assert everything_in(istd / "out") == before


def test_the_links_survive_moving_both_folders_together(istd):
    prepare(istd, "istd")
    moved = istd / "moved"
    moved.mkdir()
    for name in ("download", "out"):
        shutil.move(istd / name, moved / name)
    assert (moved / "out/train/image/1-1.png").read_bytes()


@pytest.mark.parametrize("kind", ["other content", "other link", "other suffix", "link where a copy is asked for"])
def test_a_file_in_the_way_is_an_error_and_nothing_is_written(istd, kind):
    target = istd / "out/test/image/90-1.png"
    target.parent.mkdir(parents=True)
    if kind == "other content":
        target.write_bytes(b"mine")
    elif kind == "other suffix":
        target.with_suffix(".jpg").write_bytes(b"mine")
    elif kind == "other link":
        target.symlink_to(istd / "download/train/train_A/1-1.png")
    else:
        target.symlink_to(istd / "download/test/test_A/90-1.png")
    before = everything_in(istd / "out")
    with pytest.raises(UserError, match=r"1 other files are in the way: .*90-1\.(png|jpg); nothing was written"):
        prepare(istd, "istd", copy=kind.endswith("asked for"))
    assert everything_in(istd / "out") == before


def test_an_unknown_layout_names_what_was_expected_and_found_and_writes_nothing(tmp_path):
    write(tmp_path / "download", "pictures/all", "labels", ["1"])
    with pytest.raises(UserError) as error:
        prepare(tmp_path, "istd")
    assert str(error.value) == (
        f"--from_dir {tmp_path / 'download'}: no ISTD found; expected train/train_A with train/train_B, "
        "train_A with train_B, test/test_A with test/test_B, test_A with test_B, there or below ISTD_Dataset or ISTD; "
        "found labels, pictures, pictures/all"
    )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("dataset", DATASETS)
def test_an_empty_folder_is_one_line(tmp_path, dataset):
    (tmp_path / "download").mkdir()
    with pytest.raises(UserError, match=r"expected .*; found no folders") as error:
        prepare(tmp_path, dataset)
    assert "\n" not in str(error.value) and len(str(error.value)) < 800


def test_images_and_masks_that_do_not_match_are_shown(tmp_path):
    write(tmp_path / "download", "Imgs", "other", ["a"])
    write(tmp_path / "download", "unused", "GT", ["b"])
    with pytest.raises(UserError, match=r"images are named a.jpg, masks b.png; expected the same names"):
        prepare(tmp_path, "nc4k")


def test_renamed_cod10k_images_are_not_taken_for_camouflaged_ones(tmp_path):
    write(tmp_path / "download", "Train/Image", "Train/GT_Object", ["1", "2"])
    with pytest.raises(UserError, match=r"images are named 1.jpg, 2.jpg.*'-CAM-' in them"):
        prepare(tmp_path, "cod10k")


@pytest.mark.parametrize("inside", ["", "out", "train/new"])
def test_to_dir_must_not_lie_in_the_download(istd, inside):
    before = everything_in(istd)
    with pytest.raises(UserError, match=r"--to_dir .* lies in --from_dir"):
        prepare_published(istd / "download", istd / "download" / inside, "istd")
    assert everything_in(istd) == before


def test_the_download_may_lie_in_to_dir(istd):
    prepare_published(istd / "download", istd, "istd", say=lambda line: None)
    assert (istd / "train/image/1-1.png").read_bytes()


def test_from_dir_must_be_a_folder(tmp_path):
    with pytest.raises(MissingPathError, match="no such folder"):
        prepare(tmp_path, "istd")
    (tmp_path / "download").touch()
    with pytest.raises(UserError, match="found a file"):
        prepare(tmp_path, "istd")


def test_to_dir_that_cannot_be_made_is_one_line(istd):
    (istd / "out").touch()
    with pytest.raises(UserError, match=r"--to_dir .*: cannot be made"):
        prepare(istd, "istd")


def test_spaces_and_other_scripts_in_names(tmp_path):
    folder = tmp_path / "daten für später" / "影 データ"
    names = ["grüner frosch 1", "カエル 2"]
    write(folder, "test/test_A", "test/test_B", names)
    for copy in (False, True):
        out = tmp_path / f"aus gabe {copy}"
        prepare_published(folder, out, "istd", copy=copy, say=lambda line: None)
        assert [pair.name for pair in find_pairs(out / "test/image", out / "test/mask")] == names
        assert (out / "test/image" / f"{names[0]}.jpg").read_bytes()


def test_a_folder_is_found_in_any_case_and_as_given_first(tmp_path):
    for name in ("gt", "GT"):
        (tmp_path / "Data" / name).mkdir(parents=True)
    assert find_folder(tmp_path, "data/GT") == tmp_path / "Data" / "GT"
    assert find_folder(tmp_path, "DATA/Gt") in {tmp_path / "Data" / "GT", tmp_path / "Data" / "gt"}
    assert find_folder(tmp_path / "Data", "data/gt") == tmp_path / "Data" / "gt"
    assert find_folder(tmp_path, "data/imgs") is None
