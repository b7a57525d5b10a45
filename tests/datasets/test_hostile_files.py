"""Hostile and odd files: each is read with the right values, or is one line that names it. --slow tries many more."""

import io
import os
import struct
import subprocess
import sys
import time
import unicodedata
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import write_pairs
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from cad.datasets.coco import prepare_coco
from cad.datasets.pairs import Pair, check_pairs, find_pairs, list_images, read_image, read_mask, read_pair
from cad.datasets.published import prepare_published
from cad.datasets.scored_images import ScoredImages
from cad.datasets.views import ViewDataset
from cad.errors import UserError

MODES = {  # mode -> the formats that keep it
    "1": ("PNG", "BMP", "TIFF"),
    "L": ("PNG", "BMP", "TIFF", "JPEG", "WEBP", "GIF"),
    "LA": ("PNG", "TIFF"),
    "P": ("PNG", "BMP", "TIFF", "GIF"),
    "PA": ("TIFF",),
    "RGB": ("PNG", "BMP", "TIFF", "JPEG", "WEBP"),
    "RGBA": ("PNG", "BMP", "TIFF", "WEBP"),
    "CMYK": ("TIFF", "JPEG"),
    "YCbCr": ("TIFF", "JPEG"),
    "LAB": ("TIFF",),
    "HSV": ("WEBP",),
    "I;16": ("PNG", "TIFF"),
}
LOSSY = ("JPEG", "WEBP")
SUFFIXES = (".png", ".jpg", ".JPEG", ".bmp", ".tif", ".webp")
SIDES = st.integers(1, 24)


def encoded(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def in_mode(colour, mode, size):
    """A solid image of a colour, in a mode."""
    solid = Image.new("RGB", size, colour)
    if mode == "I;16":
        return Image.fromarray(np.full(size[::-1], grey_of(colour) * 257, np.uint16))
    if mode in ("P", "PA"):
        palette = Image.new("P", size, 3)
        palette.putpalette([0] * 9 + list(colour) + [0] * 756)
        return palette.convert("PA") if mode == "PA" else palette
    if mode == "LAB":
        from PIL import ImageCms

        profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
        return ImageCms.profileToProfile(solid, *profiles, outputMode="LAB")
    return solid.convert(mode, dither=Image.Dither.NONE) if mode == "1" else solid.convert(mode)


def grey_of(colour):
    """ITU-R BT.601 luma, as the field's grey values are."""
    return round(0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2])


def read_or_refuse(read, path):
    """What reading gives, in its promised form; or None after a UserError of one line that names the file."""
    try:
        array = read(path)
    except UserError as error:
        assert str(path) in str(error) and len(str(error).splitlines()) == 1 and len(str(error)) < 500
        return None
    assert array.dtype == np.uint8
    assert (array.ndim == 3 and array.shape[2] == 3) if read is read_image else (array.ndim == 2 and array.max() <= 1)
    return array


@given(
    st.sampled_from([(mode, kind) for mode, kinds in MODES.items() for kind in kinds]),
    st.tuples(*[st.integers(0, 255)] * 3),
    SIDES,
    SIDES,
    st.sampled_from(SUFFIXES),
)
def test_a_colour_survives_every_mode_format_and_wrong_extension(tmp_path, how, colour, width, height, suffix):
    mode, kind = how
    path = tmp_path / f"solid{suffix}"
    options = {"compression": "tiff_lzw"} if mode == "YCbCr" and kind == "TIFF" else {}
    path.write_bytes(encoded(in_mode(colour, mode, (width, height)), kind, **options))
    expected, tolerance = np.array(colour), {"YCbCr": 3, "LAB": 40, "HSV": 6}.get(mode, 0)
    if mode in ("L", "LA", "I;16", "1"):
        grey = grey_of(colour)
        expected = np.array([grey] * 3) if mode != "1" else np.array([255 * (grey >= 128)] * 3)
        tolerance = 1 if mode != "1" or abs(grey - 127.5) > 2 else 255
    tolerance += 8 * (kind in LOSSY)
    image, mask = read_image(path), read_mask(path)
    assert image.shape == (height, width, 3) and image.dtype == np.uint8
    assert mask.shape == (height, width) and mask.dtype == np.uint8 and mask.min() == mask.max()
    if mode == "LAB":  # not all of sRGB is kept by 8-bit Lab: its lightness is
        assert abs(grey_of(image[0, 0].astype(int)) - grey_of(colour)) <= tolerance
    else:
        assert np.abs(image.astype(int) - expected).max() <= tolerance
    if kind not in LOSSY:
        assert mask[0, 0] == bool(image[0, 0].any())
    elif abs(grey_of(colour) - 127.5) > tolerance:
        assert mask[0, 0] == (grey_of(colour) > 127)


@pytest.mark.parametrize("size", [(1, 1), (20_000, 10), (10, 20_000), (1, 3000)])
def test_extreme_sizes_become_views(tmp_path, size):
    image, mask = tmp_path / "a.png", tmp_path / "m.png"
    Image.new("RGB", size, (9, 99, 199)).save(image)
    Image.new("L", size, 255).save(mask)
    pairs = [Pair("a", image, mask)]
    check_pairs(pairs, progress=False, needs_foreground=True)
    for view in range(6):
        item = ViewDataset(pairs, 32, seed=1)[0, view]
        assert item["mask"].min() == 1 and (item["image"].amax((1, 2)) - item["image"].amin((1, 2))).max() <= 1
        assert item["image"][:, 0, 0].tolist() == pytest.approx([9, 99, 199], abs=1)
    assert ScoredImages(pairs, 32, None)[0]["mask"].shape == size[::-1]


UPRIGHT = {
    1: lambda x: x,
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: x.swapaxes(0, 1),
    6: lambda x: np.rot90(x, -1),
    7: lambda x: x[::-1, ::-1].swapaxes(0, 1),
    8: lambda x: np.rot90(x),
}


@pytest.mark.parametrize("orientation", UPRIGHT)
def test_every_exif_orientation_is_applied_and_a_mask_drawn_without_it_is_refused(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = np.random.default_rng(0).integers(0, 2, (5, 8, 3), np.uint8) * 255
    for name, options in (("a.png", {}), ("a.tif", {}), ("a.webp", {"lossless": True})):
        Image.fromarray(stored).save(tmp_path / name, exif=exif, **options)
        assert np.array_equal(read_image(tmp_path / name), UPRIGHT[orientation](stored)), name
        assert np.array_equal(read_mask(tmp_path / name), UPRIGHT[orientation](stored).any(axis=2)), name
    Image.fromarray(stored[:, :, 0]).save(tmp_path / "m.png")
    pair = Pair("a", tmp_path / "a.png", tmp_path / "m.png")
    if orientation < 5:
        assert np.array_equal(read_pair(pair)[1] * 255, stored[:, :, 0])  # as it is: see the module's docstring
    else:
        with pytest.raises(UserError, match=r"a.png is 5x8 .*m.png is 8x5: .*; EXIF orientation is applied here: if"):
            read_pair(pair)


def test_a_16_bit_colour_mask_is_turned_too(tmp_path):
    values = np.zeros((2, 3, 3), np.uint16)
    values[0, 2] = 7  # lost where only the high byte is kept
    content = cv2.imencode(".png", values)[1].tobytes()
    exif = b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
    (tmp_path / "m.png").write_bytes(content[:33] + chunk(b"eXIf", exif) + content[33:])
    assert read_mask(tmp_path / "m.png").tolist() == np.rot90(values.any(axis=2), -1).tolist()


def chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


# Damage


def containers():
    """File contents, by what they are: every format, its compressions, 16 bits, several frames."""
    random = np.random.default_rng(0)
    image, deep = Image.fromarray(random.integers(0, 255, (12, 9, 3), np.uint8)), random.integers(0, 65535, (12, 9, 3))
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "a frog"
    frames = {"save_all": True, "append_images": [image.rotate(180)]}
    kinds = {
        "jpeg": ("JPEG", {"exif": exif}),
        "progressive jpeg": ("JPEG", {"progressive": True}),
        "png": ("PNG", {"exif": exif}),
        "animated png": ("PNG", frames),
        "bmp": ("BMP", {}),
        "tiff": ("TIFF", {}),
        "lzw tiff": ("TIFF", {"compression": "tiff_lzw"}),
        "pages of tiff": ("TIFF", frames),
        "webp": ("WEBP", {"exif": exif}),
        "lossless webp": ("WEBP", {"lossless": True}),
        "animated webp": ("WEBP", frames | {"lossless": True}),
        "gif": ("GIF", frames),
    }
    contents = {name: encoded(image, kind, **options) for name, (kind, options) in kinds.items()}
    contents["cmyk jpeg"] = encoded(image.convert("CMYK"), "JPEG")
    contents["16-bit png"] = encoded(Image.fromarray(deep[:, :, 0].astype(np.uint16)), "PNG")
    for suffix in ("png", "tiff"):
        contents[f"16-bit colour {suffix}"] = cv2.imencode(f".{suffix}", deep.astype(np.uint16))[1].tobytes()
    return contents


CONTENTS = containers()


@pytest.mark.parametrize("kind", ["animated png", "pages of tiff", "animated webp", "gif"])
def test_the_first_frame_counts(tmp_path, kind):
    path = tmp_path / "a.png"
    path.write_bytes(CONTENTS[kind])
    with Image.open(path) as image:
        assert image.n_frames == 2
        image.seek(0)
        assert np.array_equal(read_image(path), np.asarray(image.convert("RGB")))


@given(st.sampled_from(sorted(CONTENTS)), st.floats(0, 1, exclude_max=True))
def test_a_file_cut_anywhere_is_refused_or_whole(tmp_path, kind, share):
    content, path = CONTENTS[kind], tmp_path / "cut.png"
    for read in (read_image, read_mask):
        path.write_bytes(content)
        whole = read(path)
        path.write_bytes(content[: int(share * len(content))])
        rest = read_or_refuse(read, path)
        assert rest is None or np.array_equal(rest, whole)


@given(st.sampled_from(sorted(CONTENTS)), st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), max_size=4))
def test_changed_bytes_never_raise_anything_else(tmp_path, kind, changes):
    content, path = bytearray(CONTENTS[kind]), tmp_path / "changed.png"
    for place, value in changes:
        content[int(place * min(len(content) - 1, 400))] = value  # where headers are
    path.write_bytes(content)
    for read in (read_image, read_mask, lambda file: read_mask(file, 128)):
        read_or_refuse(read, path)


@pytest.mark.parametrize("kind, value", [("jpeg", 0), ("tiff", 2)])
def test_headers_on_which_pillow_raises_struct_and_type_errors(tmp_path, kind, value):
    for place in range(20, 120):  # the orientation's neighbours in EXIF, the types of a TIFF's tags
        changed = bytearray(CONTENTS[kind])
        changed[place] = value
        (tmp_path / "a.png").write_bytes(changed)
        read_or_refuse(read_image, tmp_path / "a.png")


@given(st.binary(max_size=80), st.sampled_from(["", *sorted(CONTENTS)]))
def test_random_bytes_are_refused(tmp_path, content, start):
    path = tmp_path / "random.png"
    path.write_bytes(CONTENTS.get(start, b"")[:24] + content)
    for read in (read_image, read_mask):
        assert read_or_refuse(read, path) is None


BOMBS = """
import resource, struct, sys, zlib
from pathlib import Path
from cad.datasets.pairs import read_image, read_mask
from cad.errors import UserError
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for path in sorted(Path(sys.argv[1]).iterdir()):
    for read in read_image, read_mask:
        try:
            print(path.name, read(path).shape)
        except UserError as error:
            print(error)
print("KiB", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_files_that_claim_a_huge_size_allocate_nothing_and_damage_is_not_announced_by_pillow(tmp_path):
    header = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    png = (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 99)) + chunk(b"IEND", b"")
    )
    (tmp_path / "bomb.png").write_bytes(png)
    bmp = bytearray(CONTENTS["bmp"])
    bmp[18:26] = struct.pack("<ii", 100_000, 100_000)
    (tmp_path / "bomb.bmp").write_bytes(bmp)
    jpeg = CONTENTS["progressive jpeg"]
    at = jpeg.index(b"\xff\xc2") + 5
    (tmp_path / "bomb.jpg").write_bytes(jpeg[:at] + struct.pack(">HH", 65_500, 65_500) + jpeg[at + 4 :])
    gif = bytearray(CONTENTS["gif"])
    gif[6:10] = struct.pack("<HH", 65_535, 65_535)
    (tmp_path / "bomb.webp").write_bytes(gif)
    for cut in range(40, len(CONTENTS["tiff"]), 50):  # Pillow warns of damaged tags
        (tmp_path / f"cut_{cut}.tif").write_bytes(CONTENTS["tiff"][:cut])
    code = Path(__file__).parents[2] / "code"
    ran = subprocess.run(
        [sys.executable, "-c", BOMBS, str(tmp_path)],
        env=os.environ | {"PYTHONPATH": str(code)},
        capture_output=True,
        text=True,
        check=True,
    )
    *lines, memory = ran.stdout.splitlines()
    bombs = [line for line in lines if "bomb." in line]
    assert len(bombs) == 8 and all("too large to be decoded safely" in line for line in bombs), bombs
    assert len(lines) == 2 * len(list(tmp_path.iterdir())) and all("unreadable" in line for line in lines[8:])
    assert ran.stderr == ""
    assert int(memory.split()[1]) < 30_000


# Folders


def put(folder, *names):
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / name).write_bytes(CONTENTS["png"])
    return folder


def test_entries_that_are_no_files_are_named(tmp_path):
    images = put(tmp_path / "i", "sound.png")
    masks = put(tmp_path / "m", *[f"{n}.png" for n in ("folder", "broken", "loop", "pipe", "empty", "sound")])
    (images / "folder.png").mkdir()
    (images / "broken.png").symlink_to("nowhere.png")
    (images / "loop.png").symlink_to("loop.png")
    os.mkfifo(images / "pipe.png")
    (images / "empty.png").write_bytes(b"")
    pairs = find_pairs(images, masks)
    reasons = {
        "folder": "a folder or a device",
        "pipe": "a folder or a device",
        "broken": "No such file or directory",
        "loop": "Too many levels of symbolic links",
        "empty": "0 bytes",
    }
    with pytest.raises(UserError, match="5 of 6 pairs cannot be used") as refused:
        check_pairs(pairs, progress=False)
    for name, reason in reasons.items():
        assert f"{images / name}.png: unreadable or truncated image file ({reason})" in str(refused.value)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_files_and_folders_without_permission_are_named(tmp_path):
    images = put(tmp_path / "i", "a.png")
    (images / "a.png").chmod(0)
    with pytest.raises(UserError, match=r"a\.png: .*\(Permission denied\)"):
        read_image(images / "a.png")
    images.chmod(0)
    try:
        with pytest.raises(UserError, match="/i: cannot be listed: Permission denied"):
            list_images(images, "--train_image_dir")
    finally:
        images.chmod(0o700)


def test_what_systems_leave_in_folders_is_ignored_and_case_of_stems_counts(tmp_path):
    images = put(tmp_path / "i", "frog.JPG", "._frog.jpg", ".DS_Store", "Thumbs.db", "desktop.ini", ".png")
    masks = put(tmp_path / "m", "frog.Png", "._frog.png")
    assert [(pair.image.name, pair.mask.name) for pair in find_pairs(images, masks)] == [("frog.JPG", "frog.Png")]
    put(images, "Toad.jpg")
    put(masks, "toad.png")
    with pytest.raises(UserError, match=r"images without a mask \(Toad.jpg\) and 1 masks without an image \(toad.png"):
        find_pairs(images, masks)


def test_a_folder_whose_name_is_too_long_is_a_clear_line(tmp_path):
    with pytest.raises(UserError, match="--train_image_dir .*: cannot be listed: File name too long"):
        list_images(tmp_path / ("n" * 300), "--train_image_dir")


@given(st.text(st.characters(exclude_characters="/\0"), min_size=1, max_size=60))
def test_any_name_pairs_across_unicode_forms_or_is_refused_on_one_line(tmp_path_factory, name):
    folder = tmp_path_factory.mktemp("names")
    forms = [unicodedata.normalize(form, f"x{name}.png") for form in ("NFC", "NFD")]
    for part, file_name in zip(("i", "m"), forms, strict=True):
        if len(os.fsencode(file_name) if is_encodable(file_name) else b"") > 255 or not is_encodable(file_name):
            return
        put(folder / part, file_name)
    try:
        (pair,) = find_pairs(folder / "i", folder / "m")
    except UserError as error:
        assert "control characters" in str(error) and len(str(error).splitlines()) == 1
        assert any(unicodedata.category(letter) == "Cc" for letter in name)
        return
    assert pair.name == Path(forms[0]).stem
    item = ViewDataset([pair], 8, seed=0)[0, 1]
    assert item["name"] == pair.name


def is_encodable(name):
    try:
        os.fsencode(name)
    except UnicodeEncodeError:
        return False
    return True


@pytest.mark.parametrize("name", ["two\nlines.png", "bell\a.png", os.fsdecode(b"latin\xe9.png")])
def test_names_that_no_log_can_show_are_refused(tmp_path, name):
    with pytest.raises(UserError, match="--x .*: 1 names hold control characters or are not UTF-8: '") as refused:
        list_images(put(tmp_path / "i", name), "--x")
    assert str(refused.value).isprintable()


def test_spaces_and_long_names_pair(tmp_path):
    names = ["a  b .png", "n" * 251 + ".png", " .png", "narrow\u202fspace 9.41.png"]
    pairs = find_pairs(put(tmp_path / "i", *names), put(tmp_path / "m", *names))
    assert {pair.image.name for pair in pairs} == set(names)


def test_a_name_in_both_unicode_forms_in_one_folder_is_refused(tmp_path):
    with pytest.raises(UserError, match="1 names occur twice"):
        list_images(put(tmp_path / "i", "\u00e9.png", "e\u0301.png"), "--x")


def test_prepared_data_sets_pair_across_unicode_forms(tmp_path):
    download = tmp_path / "download"
    download.mkdir()
    put(download / "images", "e\u0301_1.png")
    put(download / "masks", "\u00e9_1.png")
    (download / "train.txt").write_text("\u00e9_1\n", encoding="utf-8")
    prepare_published(download, tmp_path / "to", "kvasir", "train", say=lambda _: None)
    assert len(find_pairs(tmp_path / "to/train/image", tmp_path / "to/train/mask")) == 1
    prepare_published(download, tmp_path / "to", "kvasir", "train", say=lambda _: None)  # finds what is there

    annotations = '{"images": [{"id": 1, "file_name": "\u00e9_1.png", "height": 12, "width": 9}], "annotations": []}'
    (tmp_path / "a.json").write_text(annotations, encoding="utf-8")
    prepare_coco(download / "images", tmp_path / "coco", tmp_path / "a.json", say=lambda _: None)
    assert len(find_pairs(tmp_path / "coco/train/image", tmp_path / "coco/train/mask")) == 1


def test_links_that_lead_to_themselves_do_not_stop_preparing_twice(tmp_path):
    download = tmp_path / "download"
    put(download, "train.txt").joinpath("train.txt").write_text("a\n")
    put(download / "masks", "a.png")
    (download / "images").mkdir()
    (download / "images" / "a.png").symlink_to("a.png")
    for _ in range(2):
        prepare_published(download, tmp_path / "to", "kvasir", "train", say=lambda _: None)
    with pytest.raises(UserError, match=r"a.png: unreadable .*\(Too many levels of symbolic links\)"):
        read_image(tmp_path / "to/train/image/a.png")


@pytest.mark.slow
def test_checking_takes_time_in_proportion_to_the_files(tmp_path):
    seconds = {}
    for count in (1250, 5000):
        (first,), images, masks = first_pair(tmp_path / str(count))
        for number in range(1, count):
            os.link(first.image, images / f"{number}.png")
            os.link(first.mask, masks / f"{number}.png")
        started = time.perf_counter()
        pairs = find_pairs(images, masks)
        check_pairs(pairs, progress=False, needs_foreground=True)
        seconds[count] = time.perf_counter() - started
        assert len(pairs) == count
    print(f"found and checked, seconds by pairs: {seconds}")
    assert seconds[5000] < 10 * seconds[1250] and seconds[5000] < 60


def first_pair(folder):
    images, masks = write_pairs(folder, count=1, size=(16, 12), suffix=".png")
    return find_pairs(images, masks), images, masks


# Masks


@pytest.mark.parametrize("value", [0, 1, 255])
def test_masks_of_one_value(tmp_path, value):
    images, masks = write_pairs(tmp_path, count=2)
    for mask in masks.iterdir():
        Image.new("L", (40, 32), value).save(mask)
    pairs = find_pairs(images, masks)
    assert {int(x) for pair in pairs for x in np.unique(read_mask(pair.mask))} == {int(value > 0)}
    if value:
        check_pairs(pairs, progress=False, needs_foreground=True)
    else:
        check_pairs(pairs, progress=False)
        with pytest.raises(UserError, match="none of the 2 masks has a foreground pixel"):
            check_pairs(pairs, progress=False, needs_foreground=True)


def test_soft_edges_are_foreground_without_a_threshold(tmp_path):
    Image.fromarray(np.arange(0, 256, 51, np.uint8)[None]).save(tmp_path / "m.png")  # 0, 51, ..., 255
    assert read_mask(tmp_path / "m.png").tolist() == [[0, 1, 1, 1, 1, 1]]
    assert read_mask(tmp_path / "m.png", 128).tolist() == [[0, 0, 0, 1, 1, 1]]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("threshold", [None, 128])
def test_float_masks_must_be_finite(tmp_path, value, threshold):
    path = tmp_path / "m.tif"
    Image.fromarray(np.array([[0, 255, 0.5]], np.float32)).save(path)
    assert read_mask(path, threshold).tolist() == [[0, 1, threshold is None]]
    Image.fromarray(np.array([[0, 255, value]], np.float32)).save(path)
    with pytest.raises(UserError, match=r"m.tif: NaN or infinite pixels; expected numbers, 0 for background"):
        read_mask(path, threshold)
    with pytest.raises(UserError, match=r"m.tif: 32-bit or floating-point pixels"):
        read_image(path)


@given(SIDES, SIDES, SIDES, SIDES)
def test_a_mask_of_another_size_is_refused_wherever_it_is_read(tmp_path, width, height, mask_width, mask_height):
    image, mask = tmp_path / "a.png", tmp_path / "m.png"
    Image.new("RGB", (width, height)).save(image)
    Image.new("L", (mask_width, mask_height)).save(mask)
    pairs = [Pair("a", image, mask)]
    for read in (lambda: ViewDataset(pairs, 8, 0)[0, 0], lambda: ScoredImages(pairs, 8, None)[0]):
        if (width, height) == (mask_width, mask_height):
            read()
            continue
        with pytest.raises(UserError, match=f"{width}x{height} pixels .*m.png is {mask_width}x{mask_height}: expected"):
            read()
