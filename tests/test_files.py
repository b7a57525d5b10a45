import json

import pytest

from cad.errors import UserError
from cad.files import write_atomically, write_json


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "weights.pth"
    path.write_bytes(b"old")

    def fail_half_way(file):
        file.write(b"ne")
        raise OSError(28, "No space left on device")

    with pytest.raises(UserError, match=r"weights.pth: cannot be written: No space left"):
        write_atomically(path, fail_half_way)
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["weights.pth"]


def test_json_is_replaced_and_refuses_nan(tmp_path):
    path = tmp_path / "summary.json"
    write_json(path, {"dice": 0.5})
    write_json(path, {"dice": 0.75})
    assert json.loads(path.read_text()) == {"dice": 0.75}
    with pytest.raises(ValueError, match="JSON"):
        write_json(path, {"dice": float("nan")})
    assert json.loads(path.read_text()) == {"dice": 0.75}
