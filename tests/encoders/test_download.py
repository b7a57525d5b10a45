"""Downloads from a local server that answers in every wrong way there is."""

import fcntl
import hashlib
import os
import socket
import subprocess
import sys
import threading
import time
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from cad.encoders import download
from cad.encoders.download import download_sam
from cad.encoders.sam import SAM_SIZES
from cad.errors import UserError

CONTENT = bytes(range(256)) * 40_000  # 10 MB, more than sockets hold, so that a connection breaks off half way
SHA256 = hashlib.sha256(CONTENT).hexdigest()
WRONG = hashlib.sha256(b"something else").hexdigest()
NAME = "sam_vit_b_01ec64.pth"


class Server(ThreadingHTTPServer):
    """Serves `content` at every path, each connection in the way that is next in `ways`, and then well."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.content, self.ways, self.ranges, self.paths = CONTENT, [], [], []
        self.url = f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request, client_address):
        pass  # clients hang up: what is tested


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_GET(self):
        server = self.server
        server.ranges.append(self.headers.get("Range"))
        server.paths.append(self.path)
        way = server.ways.pop(0) if server.ways else "well"
        if isinstance(way, int):
            return self.send_error(way)
        if way.startswith("to "):
            self.send_response(302)
            self.send_header("Location", way.removeprefix("to "))
            return self.end_headers()
        asked = self.headers.get("Range")
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked and way != "ignore range" else 0
        if start >= len(server.content):
            return self.send_error(416)
        body = server.content[start:]
        shown = start + 5 if way == "other range" else start
        announced = len(body) + {"announce more": 7, "announce less": -7}.get(way, 0)
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {shown}-{len(server.content) - 1}/{len(server.content)}")
        if way != "no length":
            self.send_header("Content-Length", str(announced))
        self.end_headers()
        if way == "stall":
            self.wfile.write(body[: len(body) // 2])
            return threading.Event().wait(1)
        self.wfile.write(body[: len(body) // 2] if way == "break off" else body)
        return None


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(download, "WAIT", 0.0)
    monkeypatch.setitem(SAM_SIZES, "vit_b", replace(SAM_SIZES["vit_b"], sha256=SHA256))
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        monkeypatch.setattr(download, "OFFICIAL_FOLDER", f"{running.url}/segment_anything/")
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "checkpoints"


def files_in(folder):
    return {path.name: path.stat().st_size for path in folder.iterdir()}


def refused(match, *arguments, **options):
    with pytest.raises(UserError, match=match) as error:
        download_sam(*arguments, say=lambda _: None, **options)
    assert "\n" not in str(error.value)


def test_the_official_file_comes_under_its_name_and_only_once(server, folder):
    said = []
    path = download_sam("vit_b", folder, say=said.append)
    assert path == folder / NAME and path.read_bytes() == CONTENT
    assert server.paths == [f"/segment_anything/{NAME}"]
    assert said == [f"{server.url}/segment_anything/{NAME} -> {path}", f"{path}: SHA-256 as expected"]
    assert download_sam("vit_b", folder, say=said.append) == path
    assert said[2:] == [f"{path}: is there already, SHA-256 as expected"]
    assert len(server.paths) == 1 and files_in(folder) == {NAME: len(CONTENT)}


def test_another_file_of_that_name_is_left_alone(server, folder):
    folder.mkdir()
    (folder / NAME).write_bytes(b"mine")
    refused(
        f"{NAME}: is there already, with SHA-256 .* where {SHA256[:12]}... is expected; move it away", "vit_b", folder
    )
    assert (folder / NAME).read_bytes() == b"mine" and server.paths == []


def test_a_part_is_completed(server, folder):
    folder.mkdir()
    (folder / f"{NAME}.part").write_bytes(CONTENT[:5000])
    assert download_sam("vit_b", folder).read_bytes() == CONTENT
    assert server.ranges == ["bytes=5000-"] and files_in(folder) == {NAME: len(CONTENT)}


def test_a_whole_part_needs_no_byte_more(server, folder):
    folder.mkdir()
    (folder / f"{NAME}.part").write_bytes(CONTENT)
    assert download_sam("vit_b", folder).read_bytes() == CONTENT


@pytest.mark.parametrize("part", [b"x" * 5000, CONTENT + b"x"], ids=["of another file", "too long"])
@pytest.mark.parametrize("way", ["well", "ignore range"])
def test_a_part_of_something_else_is_thrown_away(server, folder, part, way):
    folder.mkdir()
    (folder / f"{NAME}.part").write_bytes(part)
    server.ways = [way]
    assert download_sam("vit_b", folder).read_bytes() == CONTENT
    assert files_in(folder) == {NAME: len(CONTENT)}


@pytest.mark.parametrize(
    ("ways", "connections"),
    [
        (["ignore range"], 1),
        (["no length"], 1),
        (["announce more"], 1),  # what came is whole, whatever was announced
        (["break off"], 2),
        (["break off", "ignore range"], 2),
        (["break off", "other range"], 3),
        (["break off", "break off", "break off", "break off"], 5),
        ([500, 503, 429], 4),
        (["break off", 500], 3),
    ],
    ids=str,
)
def test_a_bad_connection_is_made_up_for(server, folder, ways, connections):
    server.ways = list(ways)
    assert download_sam("vit_b", folder).read_bytes() == CONTENT
    assert len(server.paths) == connections and files_in(folder) == {NAME: len(CONTENT)}


def test_a_connection_that_keeps_breaking_off_keeps_its_bytes_for_the_next_run(server, folder):
    server.ways = ["break off"] * 5
    refused(
        r"5 connections did not bring the whole file \(the connection broke off after .* bytes are kept",
        "vit_b",
        folder,
    )
    kept = files_in(folder)[f"{NAME}.part"]
    assert CONTENT.startswith((folder / f"{NAME}.part").read_bytes()) and kept > len(CONTENT) // 2
    server.ranges.clear()
    assert download_sam("vit_b", folder).read_bytes() == CONTENT
    assert server.ranges == [f"bytes={kept}-"]


@pytest.mark.slow
def test_a_download_that_is_killed_goes_on_where_it_was(server, tmp_path):
    script = Path(__file__).parents[2] / "code" / "download_sam.py"
    flags = ["--model_type", "vit_b", "--url", f"{server.url}/x.pth", "--sha256", SHA256, "--output_dir", str(tmp_path)]
    part = tmp_path / "checkpoints" / "x.pth.part"
    server.ways = ["stall"]
    running = subprocess.Popen([sys.executable, str(script), *flags])
    while not part.exists() or part.stat().st_size < len(CONTENT) // 4:
        time.sleep(0.01)
        assert running.poll() is None
    running.kill()
    running.wait()
    kept = part.stat().st_size
    assert 0 < kept < len(CONTENT)
    subprocess.run([sys.executable, str(script), *flags], check=True)
    assert server.ranges == [None, f"bytes={kept}-"]
    assert {path.name for path in part.parent.iterdir()} == {"x.pth"}
    assert (part.parent / "x.pth").read_bytes() == CONTENT


def test_a_server_that_goes_silent_is_left_and_asked_again(server, folder, monkeypatch):
    monkeypatch.setattr(download, "TIMEOUT", 0.2)
    server.ways = ["stall"]
    assert download_sam("vit_b", folder).read_bytes() == CONTENT
    assert len(server.paths) == 2 and server.ranges[1]


@pytest.mark.parametrize("way", ["well", "announce less"])
def test_wrong_bytes_are_named_and_do_not_poison_the_next_run(server, folder, way):
    server.content = CONTENT if way == "announce less" else b"<html>log in first</html>"
    server.ways = [way]
    refused("what came has SHA-256 .*: not the file that was asked for; nothing of it was kept", "vit_b", folder)
    assert files_in(folder) == {}
    server.content = CONTENT
    assert download_sam("vit_b", folder).read_bytes() == CONTENT


@pytest.mark.parametrize("status", [401, 403, 404, 410])
def test_a_refusal_is_final(server, folder, status):
    server.ways = [status]
    refused(f"{NAME}: the server answers {status} ", "vit_b", folder)
    assert len(server.paths) == 1 and files_in(folder) == {}


def test_a_server_in_trouble_is_asked_five_times(server, folder):
    server.ways = [500] * 9
    refused(
        r"5 connections did not bring the whole file \(the server answers 500 Internal Server Error\)$", "vit_b", folder
    )
    assert len(server.paths) == 5 and files_in(folder) == {}


def test_redirects_are_followed_to_http_only(server, folder, tmp_path):
    server.ways = [f"to {server.url}/elsewhere"]
    assert download_sam("vit_b", folder / "a").read_bytes() == CONTENT
    assert server.paths[-1] == "/elsewhere"
    (tmp_path / "secret").write_bytes(CONTENT)
    for address in ((tmp_path / "secret").as_uri(), "ftp://127.0.0.1/x"):
        server.ways = [f"to {address}"]
        refused("302|unknown url type", "vit_b", folder / "b")
    server.ways = [f"to {server.url}/again"] * 50
    refused("the server answers 302 ", "vit_b", folder / "b")
    assert files_in(folder / "b") == {}


def test_a_redirect_keeps_the_range(server, folder):
    folder.mkdir()
    (folder / f"{NAME}.part").write_bytes(CONTENT[:5000])
    server.ways = [f"to {server.url}/elsewhere"]
    assert download_sam("vit_b", folder).read_bytes() == CONTENT
    assert server.ranges == ["bytes=5000-"] * 2


def test_a_host_that_is_not_there(folder):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound and not listening: connections are refused
        address = f"http://127.0.0.1:{unused.getsockname()[1]}/x.pth"
        refused(r"x.pth: cannot be reached: .*refused", "vit_b", folder, url=address, sha256=WRONG)
    refused(
        "http://nowhere.invalid/x.pth: cannot be reached: ",
        "vit_b",
        folder,
        url="http://nowhere.invalid/x.pth",
        sha256=WRONG,
    )
    assert files_in(folder) == {}


def test_an_answer_that_is_not_http(folder):
    def answer(listener):
        connection, _ = listener.accept()
        with connection:
            connection.recv(4096)
            connection.sendall(b"220 ftp.example.org ready\r\n")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=answer, args=(listener,), daemon=True).start()
        address = f"http://127.0.0.1:{listener.getsockname()[1]}/x.pth"
        refused("x.pth: no sensible answer: 220", "vit_b", folder, url=address, sha256=WRONG)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is always full")  # noqa: PTH110
def test_a_full_disk_is_one_line(server, folder):
    folder.mkdir()
    (folder / f"{NAME}.part").symlink_to("/dev/full")
    refused(f"{NAME}: cannot be written: No space left on device; ", "vit_b", folder)
    assert len(server.paths) == 1 and not (folder / NAME).exists()


def test_a_folder_that_cannot_be_made_is_one_line(server, tmp_path):
    (tmp_path / "file").touch()
    refused("file: cannot be written: ", "vit_b", tmp_path / "file")
    assert server.paths == []


def test_two_downloads_do_not_write_into_one_file(server, folder):
    folder.mkdir()
    with (folder / f"{NAME}.part").open("ab") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        refused(r"pth.part: another process is downloading this file", "vit_b", folder)
        assert server.paths == []


def test_a_mirror_of_the_official_file_gets_its_name_and_others_keep_theirs(server, folder):
    assert download_sam("vit_b", folder, f"{server.url}/mirror?key=1", SHA256.upper()).name == NAME
    server.content = b"other weights"
    sha256 = hashlib.sha256(server.content).hexdigest()
    assert download_sam("vit_b", folder, f"{server.url}/a/med%20sam.pth?key=1", sha256).name == "med sam.pth"
    assert (folder / NAME).read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("url", "match"),
    [
        ("ftp://host/x.pth", "expected an address that starts with http:// or https://"),
        ("file:///etc/x.pth", "expected an address that starts with http:// or https://"),
        ("x.pth", "expected an address that starts with http:// or https://"),
        ("http://", "expected an address that starts with http:// or https://"),
        ("http:///x.pth", "expected an address that starts with http:// or https://"),
        ("http://[::1/x.pth", "expected an address that starts with http:// or https://"),
        ("http://host:port/x.pth", "expected an address that starts with http:// or https://"),
        ("https://host/", "ends in a file name with .pth"),
        ("https://host/..%2f..%2f.bashrc", "ends in a file name with .pth"),
        ("https://host/.hidden.pth", "ends in a file name with .pth"),
        ("https://host/a%0Ab.pth", "ends in a file name with .pth"),
        ("https://host/sam_vit_h_4b8939.pth", "has the name of official weights, but --sha256 is not theirs"),
        ("https://user:secret@host/x.pth", "^--url: holds a user name or a password"),
    ],
)
def test_addresses_that_cannot_be_right(folder, url, match):
    refused(match, "vit_b", folder, url=url, sha256=WRONG)
    assert not folder.exists()


def test_a_path_in_an_address_is_cut_to_its_name(server, folder):
    server.content = b"other weights"
    sha256 = hashlib.sha256(server.content).hexdigest()
    path = download_sam("vit_b", folder, f"{server.url}/..%2f..%2fevil.pth", sha256)
    assert path == folder / "evil.pth"


def test_messages_do_not_show_what_may_be_a_key(server, folder):
    server.ways = [403]
    address = f"{server.url}/x.pth?Signature=secret#secret"
    for url in (address, "https://user:secret@host/x", "ftp://secret@host/x.pth", "https://secret@/x.pth"):
        with pytest.raises(UserError) as error:
            download_sam("vit_b", folder, url, WRONG)
        assert "secret" not in str(error.value)


def test_an_address_and_a_hash_belong_together(folder):
    for url, sha256 in (("https://host/x.pth", None), (None, WRONG)):
        refused("--url and --sha256 belong together", "vit_b", folder, url=url, sha256=sha256)


def test_the_names_and_hashes_of_the_official_files_are_pinned():
    pins = {model_type: (size.file_name, size.sha256[:8]) for model_type, size in SAM_SIZES.items() if size.file_name}
    assert pins == {
        "vit_b": ("sam_vit_b_01ec64.pth", "ec2df627"),
        "vit_l": ("sam_vit_l_0b3195.pth", "3adcc431"),
        "vit_h": ("sam_vit_h_4b8939.pth", "a7bf3b02"),
    }
    assert all(len(SAM_SIZES[model_type].sha256) == 64 for model_type in pins)
    assert download.OFFICIAL_FOLDER == "https://dl.fbaipublicfiles.com/segment_anything/"
