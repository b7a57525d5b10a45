from pathlib import Path

import pytest

from cad.errors import MissingPathError, UserError
from cad.prediction.inputs import find_images


@pytest.fixture
def photos(tmp_path):
    for name in ("a.jpg", "a.png", "b.JPG", "sub/a.jpg", "sub/deep/c.tif", "notes.txt", ".hidden.jpg", ".git/d.png"):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return tmp_path / "photos"


def names(*inputs, results=()):
    return {image.file_name: image.name for image in find_images(inputs, results)}


def test_a_folder_is_searched_with_all_that_is_in_it(photos):
    expected = {"a.jpg": "a.jpg", "a.png": "a.png", "b.JPG": "b", "sub/a.jpg": "sub/a", "sub/deep/c.tif": "sub/deep/c"}
    assert names(photos) == expected


def test_a_pattern_is_relative_to_what_it_fixes(photos):
    assert names(photos / "*.jpg") == {"a.jpg": "a"}
    assert names(photos / "**" / "*.tif") == {"sub/deep/c.tif": "sub/deep/c"}
    assert names(photos.parent / "ph*" / "*") == {"photos/a.jpg": "photos/a.jpg"} | {
        "photos/a.png": "photos/a.png",
        "photos/b.JPG": "photos/b",
    }


def test_files_that_a_shell_found_are_named_as_its_pattern_would_be(photos):
    assert names(photos / "a.jpg") == {"a.jpg": "a"}
    assert names(photos / "b.JPG", photos / "sub" / "a.jpg") == {"b.JPG": "b", "sub/a.jpg": "sub/a"}


def test_a_file_with_brackets_in_its_name_is_a_file(photos):
    (photos / "x[1].png").touch()
    assert names(photos / "x[1].png") == {"x[1].png": "x[1]"}


def test_each_image_counts_once(photos, monkeypatch):
    monkeypatch.chdir(photos)
    assert names(photos / "sub", Path("sub/a.jpg"), photos / "sub" / "*.jpg") == {"a.jpg": "a", "deep/c.tif": "deep/c"}


def test_links_to_one_file_are_images_of_their_own(photos):
    (photos / "sub" / "link.jpg").symlink_to(photos / "b.JPG")
    assert names(photos / "sub") == {"a.jpg": "a", "deep/c.tif": "deep/c", "link.jpg": "link"}


def test_results_are_no_images(photos):
    assert "sub/deep/c.tif" not in names(photos, results=[photos / "sub" / "deep"])


def test_results_of_one_name_are_refused(photos):
    (photos / "other").mkdir()
    (photos / "other" / "b.JPG").touch()
    with pytest.raises(UserError, match=r"2 images would have the same name \(b.JPG, b.JPG\)"):
        find_images([photos, photos / "other"])


def test_what_is_not_there_is_named(photos):
    with pytest.raises(MissingPathError, match="nowhere: no such file or folder"):
        find_images([photos / "nowhere"])
    with pytest.raises(MissingPathError, match=r"\*.gif: nothing fits this pattern"):
        find_images([photos / "*.gif"])
    with pytest.raises(UserError, match="no image files found; expected any of .jpg"):
        find_images([photos / "*.txt"])
    (photos / "empty").mkdir()
    with pytest.raises(UserError, match="empty: no image files found"):
        find_images([photos / "empty"])
