import cv2
import numpy as np
import pytest
from PIL import Image

from cad.datasets.pairs import Pair, check_pairs, find_pairs, list_images, read_image, read_mask, split_pairs
from cad.errors import MissingPathError, UserError


def save(path, array, mode=None, **options):
    Image.fromarray(np.asarray(array), mode).save(path, **options)
    return path


def touch(folder, *names):
    folder.mkdir(exist_ok=True)
    for name in names:
        save(folder / name, np.full((4, 4, 3), 9, np.uint8))
    return folder


# Pairing


def test_pairs_share_a_stem_whatever_the_extension_and_its_case(tmp_path):
    images = touch(tmp_path / "i", "b.JPG", "a.webp", "c.tiff")
    masks = touch(tmp_path / "m", "a.PNG", "c.bmp", "b.png")
    (images / "notes.txt").write_text("not an image")
    (images / ".hidden.png").write_text("")
    pairs = find_pairs(images, masks)
    assert [(p.name, p.image.name, p.mask.name) for p in pairs] == [
        ("a", "a.webp", "a.PNG"),
        ("b", "b.JPG", "b.png"),
        ("c", "c.tiff", "c.bmp"),
    ]


def test_files_without_a_partner_are_named(tmp_path):
    images = touch(tmp_path / "i", *[f"{n}.png" for n in range(8)])
    masks = touch(tmp_path / "m", "0.png", "x.png")
    expected = r"7 images without a mask \(1.png, 2.png, 3.png, 4.png, 5.png and 2 more\) and 1 masks without an image"
    with pytest.raises(UserError, match=expected):
        find_pairs(images, masks)


def test_unpaired_files_are_left_out_on_request_and_counted(tmp_path):
    said = []
    images, masks = touch(tmp_path / "i", "0.png", "1.png"), touch(tmp_path / "m", "1.png")
    pairs = find_pairs(images, masks, skip_unpaired=True, say=said.append)
    assert [pair.name for pair in pairs] == ["1"]
    assert "1 images without a mask (0.png): left out, 1 pairs remain" in said[0]


def test_no_pair_at_all_is_an_error_even_when_skipping(tmp_path):
    images, masks = touch(tmp_path / "i", "a.png"), touch(tmp_path / "m", "a_mask.png")
    with pytest.raises(UserError, match="no pair is left: an image and its mask must have the same name"):
        find_pairs(images, masks, skip_unpaired=True)


def test_missing_empty_and_mistaken_folders(tmp_path):
    with pytest.raises(MissingPathError, match="--train_image_dir .*nowhere: no such folder"):
        list_images(tmp_path / "nowhere", "--train_image_dir")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no image files found; expected any of .jpg"):
        list_images(tmp_path / "empty", "--train_image_dir")
    file = save(tmp_path / "one.png", np.zeros((2, 2), np.uint8))
    with pytest.raises(UserError, match="expected a folder of images, found a file"):
        list_images(file, "--train_image_dir")


def test_the_same_stem_twice_is_an_error(tmp_path):
    with pytest.raises(UserError, match="1 names occur twice.*a.jpg and a.png"):
        list_images(touch(tmp_path / "i", "a.jpg", "a.png"), "--train_image_dir")


# Checking


def test_a_truncated_png_is_found_although_its_header_is_sound(tmp_path):
    image = save(tmp_path / "a.png", np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8))
    image.write_bytes(image.read_bytes()[:-2000])
    mask = save(tmp_path / "m.png", np.zeros((64, 64), np.uint8))
    with pytest.raises(UserError, match="1 of 1 pairs cannot be used: .*a.png: unreadable or truncated"):
        check_pairs([Pair("a", image, mask)], progress=False)


def test_a_truncated_jpeg_is_found(tmp_path):
    image = save(tmp_path / "a.jpg", np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8))
    image.write_bytes(image.read_bytes()[:-2000])
    with pytest.raises(UserError, match=r"a.jpg: unreadable or truncated"):
        read_image(image)


def test_sizes_must_agree(tmp_path):
    image = save(tmp_path / "a.png", np.zeros((4, 6, 3), np.uint8))
    mask = save(tmp_path / "m.png", np.zeros((4, 5), np.uint8))
    with pytest.raises(UserError, match=r"a.png is 6x4 pixels.*m.png is 5x4: expected the same size"):
        check_pairs([Pair("a", image, mask)], progress=False)


def test_sound_pairs_pass(pair_folders):
    check_pairs(find_pairs(*pair_folders), progress=False)


# Splitting


def test_the_split_is_seeded_complete_and_disjoint():
    pairs = [Pair(str(n), None, None) for n in range(20)]
    train, validation = split_pairs(pairs, 0.1, seed=21)
    assert len(validation) == 2
    assert sorted(p.name for p in train + validation) == sorted(p.name for p in pairs)
    assert split_pairs(pairs, 0.1, seed=21) == (train, validation)
    assert split_pairs(pairs, 0.1, seed=22) != (train, validation)


def test_each_side_gets_one_unless_the_fraction_is_zero():
    pairs = [Pair(str(n), None, None) for n in range(3)]
    assert [len(side) for side in split_pairs(pairs, 0.1, 0)] == [2, 1]
    assert [len(side) for side in split_pairs(pairs, 0.9, 0)] == [1, 2]
    assert [len(side) for side in split_pairs(pairs, 0.0, 0)] == [3, 0]
    assert [len(side) for side in split_pairs(pairs[:1], 0.9, 0)] == [1, 0]


# Images


def test_colour_is_rgb(tmp_path):
    pixels = np.array([[[255, 0, 0], [0, 0, 255]]], np.uint8)
    assert np.array_equal(read_image(save(tmp_path / "a.png", pixels)), pixels)


def test_grey_palette_alpha_and_16_bit_become_rgb(tmp_path):
    grey = np.array([[0, 200]], np.uint8)
    assert read_image(save(tmp_path / "grey.png", grey)).tolist() == [[[0] * 3, [200] * 3]]
    palette = Image.fromarray(np.array([[0, 1]], np.uint8), "P")
    palette.putpalette([10, 20, 30, 40, 50, 60])
    palette.save(tmp_path / "palette.png")
    assert read_image(tmp_path / "palette.png").tolist() == [[[10, 20, 30], [40, 50, 60]]]
    transparent = np.array([[[1, 2, 3, 0], [4, 5, 6, 255]]], np.uint8)
    assert read_image(save(tmp_path / "rgba.png", transparent)).tolist() == [[[1, 2, 3], [4, 5, 6]]]
    deep = np.array([[0, 257, 65535]], np.uint16)
    for name in ("deep.png", "deep.tif"):
        assert read_image(save(tmp_path / name, deep)).tolist() == [[[0] * 3, [1] * 3, [255] * 3]]


def test_exif_orientation_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees clockwise to view
    save(tmp_path / "turned.png", np.zeros((4, 8, 3), np.uint8), exif=exif)
    assert read_image(tmp_path / "turned.png").shape == (8, 4, 3)
    assert read_mask(tmp_path / "turned.png").shape == (8, 4)


@pytest.mark.parametrize("kind", [np.float32, np.int32])
def test_32_bit_images_are_refused(tmp_path, kind):
    with pytest.raises(UserError, match="32-bit or floating-point pixels; expected 8 or 16 bits"):
        read_image(save(tmp_path / "deep.tif", np.zeros((2, 2), kind)))


def test_cmyk_is_converted_and_the_first_frame_counts(tmp_path):
    Image.new("CMYK", (2, 2), (0, 255, 255, 0)).save(tmp_path / "cmyk.tif")
    assert read_image(tmp_path / "cmyk.tif")[0, 0].tolist() == [255, 0, 0]
    frames = [Image.new("RGB", (2, 2), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "moving.webp", save_all=True, append_images=frames[1:], lossless=True)
    assert read_image(tmp_path / "moving.webp")[0, 0].tolist() == [255, 0, 0]


def test_a_file_that_is_no_image_is_named(tmp_path):
    (tmp_path / "a.png").write_text("<html>not found</html>")
    with pytest.raises(UserError, match=r"a.png: unreadable or truncated image file"):
        read_image(tmp_path / "a.png")


# Masks


def test_any_non_zero_pixel_of_a_lossless_mask_is_foreground(tmp_path):
    values = np.array([[0, 1, 127, 255]], np.uint8)
    for name in ("m.png", "m.bmp", "m.tif"):
        assert read_mask(save(tmp_path / name, values)).tolist() == [[0, 1, 1, 1]]
    save(tmp_path / "m.webp", np.stack([values] * 3, axis=2), lossless=True)
    assert read_mask(tmp_path / "m.webp").tolist() == [[0, 1, 1, 1]]


def test_16_bit_1_bit_colour_and_palette_masks(tmp_path):
    assert read_mask(save(tmp_path / "deep.png", np.array([[0, 1, 65535]], np.uint16))).tolist() == [[0, 1, 1]]
    assert read_mask(save(tmp_path / "bit.png", np.array([[False, True]]))).tolist() == [[0, 1]]
    colour = np.array([[[0, 0, 0], [0, 0, 1]]], np.uint8)
    assert read_mask(save(tmp_path / "colour.png", colour)).tolist() == [[0, 1]]
    opaque = np.array([[[0, 0, 0, 255], [9, 0, 0, 255]]], np.uint8)
    assert read_mask(save(tmp_path / "rgba.png", opaque)).tolist() == [[0, 1]]
    palette = Image.fromarray(np.array([[0, 1]], np.uint8), "P")
    palette.putpalette([255, 255, 255, 0, 0, 0])  # index 0 is white, so index 0 is the foreground
    palette.save(tmp_path / "palette.png")
    assert read_mask(tmp_path / "palette.png").tolist() == [[1, 0]]


@pytest.mark.parametrize("name", ["m.png", "m.tif"])
@pytest.mark.parametrize("channels", [3, 4])
def test_small_labels_of_16_bit_colour_masks_are_foreground(tmp_path, name, channels):
    values = np.zeros((2, 2, channels), np.uint16)
    values[0, 1, :3] = 200  # lost where only the high byte is kept
    cv2.imwrite(str(tmp_path / name), values)
    assert read_mask(tmp_path / name).tolist() == [[0, 1], [0, 0]]


def test_other_colour_spaces_of_masks_count_by_colour(tmp_path):
    # Compressed, because Pillow 12.3 cannot read its own uncompressed YCbCr.
    Image.new("YCbCr", (2, 2), (0, 128, 128)).save(tmp_path / "black.tif", compression="tiff_lzw")
    assert read_mask(tmp_path / "black.tif").max() == 0


def test_lossless_webp_is_recognised_behind_a_large_profile(tmp_path):
    values = np.full((4, 4, 3), 100, np.uint8)
    save(tmp_path / "m.webp", values, lossless=True, icc_profile=b"p" * 6001)
    assert read_mask(tmp_path / "m.webp").min() == 1


@pytest.mark.parametrize("name", ["m.jpg", "m.webp"])
def test_compression_noise_of_a_lossy_mask_is_not_foreground(tmp_path, name):
    values = np.zeros((32, 32), np.uint8)
    values[:, 13:] = 255
    save(tmp_path / name, np.stack([values] * 3, axis=2), quality=30)
    assert np.asarray(Image.open(tmp_path / name).convert("L"))[:, :13].max() > 0  # there is noise
    assert np.array_equal(read_mask(tmp_path / name), values // 255)


def test_a_mask_threshold_counts_grey_values_of_at_least_it(tmp_path):
    levels = np.array([[0, 1, 127, 128, 255]], np.uint8)
    assert read_mask(save(tmp_path / "m.png", levels)).tolist() == [[0, 1, 1, 1, 1]]
    assert read_mask(tmp_path / "m.png", 128).tolist() == [[0, 0, 0, 1, 1]]
    deep = np.array([[0, 127 * 257, 128 * 257, 65535]], np.uint16)
    assert read_mask(save(tmp_path / "deep.png", deep), 128).tolist() == [[0, 0, 1, 1]]
    assert read_mask(save(tmp_path / "bit.png", np.array([[False, True]])), 128).tolist() == [[0, 1]]
    opaque = np.full((1, 2, 4), 255, np.uint8)
    opaque[0, 0, :3] = 0
    assert read_mask(save(tmp_path / "rgba.png", opaque), 128).tolist() == [[0, 1]]
    assert not read_mask(save(tmp_path / "empty.png", levels * 0), 128).any()


def test_a_mask_of_zeros_and_ones_is_not_silently_empty_at_128(tmp_path, pair_folders):
    save(tmp_path / "m.png", np.array([[0, 1]], np.uint8))
    with pytest.raises(
        UserError, match=r"no pixel is as bright as 128, but .*\(up to 1\); use --mask_threshold nonzero"
    ):
        read_mask(tmp_path / "m.png", 128)
    pair = find_pairs(*pair_folders)[0]
    save(pair.mask, np.ones((32, 40), np.uint8))
    check_pairs([pair], progress=False)
    with pytest.raises(UserError, match="1 of 1 pairs cannot be used: .*use --mask_threshold nonzero"):
        check_pairs([pair], progress=False, mask_threshold=128)
