"""SAM's official weights from the network, when somebody asks for them: resumed, verified, renamed into place.

The file grows beside its target as `<name>.part`. Only bytes with the expected SHA-256 get the target's name, and a
file that is already there is never replaced.
"""

import fcntl
import os
import re
import time
import urllib.request
from collections.abc import Callable
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import BinaryIO
from urllib.error import HTTPError, URLError
from urllib.parse import unquote, urlsplit

from tqdm import tqdm

from cad.encoders.sam import SAM_SIZES, hash_file
from cad.errors import UserError

OFFICIAL_FOLDER = "https://dl.fbaipublicfiles.com/segment_anything/"
TRIES = 5  # connections that one call makes at most
WAIT = 1.0  # seconds before the second connection; each further one waits twice as long
TIMEOUT = 30.0  # seconds without a byte
_BLOCK = 1 << 20


def download_sam(
    model_type: str,
    folder: Path,
    url: str | None = None,
    sha256: str | None = None,
    say: Callable[[str], None] = print,
) -> Path:
    """Put SAM's weights into a folder, and return their path; nothing is fetched where they are already there.

    Args:
        model_type: a key of `SAM_SIZES` that has official weights.
        folder: is made where it is missing.
        url: http or https address to use instead of the official one; needs `sha256`. Bytes that are not the official
            ones keep the file name of the address.
        sha256: 64 hexadecimal digits.

    Raises:
        UserError: a file of that name with another content is there, the address cannot be read or holds something
            else, or the disk does not take it.
    """
    size = SAM_SIZES[model_type]
    if (url is None) != (sha256 is None):
        raise UserError("--url and --sha256 belong together: only the official files' SHA-256 are known here")
    url, expected = url or OFFICIAL_FOLDER + size.file_name, (sha256 or size.sha256).lower()
    _check_address(url)
    name = size.file_name if expected == size.sha256 else _own_name(url)
    target = folder / name
    if target.exists():
        found = hash_file(target)
        if found != expected:
            raise UserError(
                f"{target}: is there already, with SHA-256 {found[:12]}... where {expected[:12]}... is expected; move "
                "it away and run again"
            )
        say(f"{target}: is there already, SHA-256 as expected")
        return target
    say(f"{_shown(url)} -> {target}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _fetch(url, target, expected, say)
    except OSError as error:  # the network's errors have been handled
        raise UserError(
            f"{error.filename or target}: cannot be written: {error.strerror or error}; what has arrived is kept in "
            f"{_part_of(target).name}, from which the next run goes on"
        ) from error
    say(f"{target}: SHA-256 as expected")
    return target


def _check_address(url: str) -> None:
    try:
        parts = urlsplit(url)
        sound = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 0) >= 0
    except ValueError:  # brackets or a port that cannot be read
        sound = False
    if not sound:
        raise UserError(f"--url {_shown(url)}: expected an address that starts with http:// or https:// and a host")
    if parts.username is not None or parts.password is not None:
        raise UserError("--url: holds a user name or a password, which is not supported; fetch the file by other means")


def _own_name(url: str) -> str:
    """The file name at the end of an address. It is a name, never a path, and not one of the official ones."""
    name = Path(unquote(_shown(url))).name
    if not name.endswith(".pth") or name.startswith(".") or not name.isprintable() or "\\" in name:
        raise UserError(f"--url {_shown(url)}: expected an address that ends in a file name with .pth")
    if name in {size.file_name for size in SAM_SIZES.values()}:
        raise UserError(f"--url {_shown(url)}: has the name of official weights, but --sha256 is not theirs")
    return name


def _shown(url: str) -> str:
    """An address for messages, without what may be a secret: a user's name and password, and what follows `?`."""
    return re.sub(r"//[^/]*@", "//", re.split("[?#]", url)[0])


def _part_of(target: Path) -> Path:
    return target.with_name(f"{target.name}.part")


def _fetch(url: str, target: Path, sha256: str, say: Callable[[str], None]) -> None:
    """Connect until the partial file has the SHA-256, then rename it into place."""
    part = _part_of(target)
    with part.open("ab") as file:
        _lock(file, part)
        try:
            for attempt in range(TRIES):
                if attempt:
                    time.sleep(WAIT * 2 ** (attempt - 1))
                problem = _try_once(url, file, part, sha256)
                if problem is None:
                    part.rename(target)
                    return
                if attempt < TRIES - 1:
                    say(f"{_shown(url)}: {problem}; trying again")
        finally:
            kept = _size(file)
            if not kept:
                part.unlink(missing_ok=True)
    raise UserError(
        f"{_shown(url)}: {TRIES} connections did not bring the whole file ({problem})"
        + (f"; {kept:,} bytes are kept in {part.name}, from which the next run goes on" if kept else "")
    )


def _try_once(url: str, file: BinaryIO, part: Path, sha256: str) -> str | None:
    """One connection. Returns None where the partial file is now whole and right, else why to try again.

    Raises:
        UserError: trying again would bring nothing.
        OSError: the disk does not take it.
    """
    resumed = _size(file)
    broken = _receive(url, file, resumed, part.stem)
    file.flush()
    os.fsync(file.fileno())
    found = hash_file(part)
    if found == sha256 or broken:
        return None if found == sha256 else broken
    # Whole, and wrong: thrown away, so that it is in nobody's way. Of two parts the older may be the wrong one.
    _empty(file)
    wrong = f"what came has SHA-256 {found[:12]}... where {sha256[:12]}... is expected"
    if resumed:
        return f"together with the part of an earlier run, {wrong}; starting over"
    raise UserError(f"{_shown(url)}: {wrong}: not the file that was asked for; nothing of it was kept")


def _size(file: BinaryIO) -> int:
    return os.fstat(file.fileno()).st_size


def _empty(file: BinaryIO) -> None:
    file.truncate(0)
    file.seek(0)


def _lock(file: BinaryIO, part: Path) -> None:
    """Keep other processes out: one that still wrote into the file after it was verified would damage it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(file.fileno()), part.stat()):
            return
    except (BlockingIOError, FileNotFoundError):
        pass
    raise UserError(f"{part}: another process is downloading this file; wait for it")


def _receive(url: str, file: BinaryIO, offset: int, name: str) -> str | None:
    """Append what the server has beyond `offset`; return why it ended early, or None.

    Raises:
        UserError: the server refuses, or there is none.
        OSError: the disk does not take it.
    """
    try:
        response = _open(url, offset)
    except HTTPError as error:
        error.close()
        if error.code == 416:
            return None  # there is nothing beyond: the hash says what that is worth
        if error.code >= 500 or error.code == 429:
            return f"the server answers {error.code} {_one_line(error.reason)}"
        raise UserError(f"{_shown(url)}: the server answers {error.code} {_one_line(error.reason)}") from error
    except URLError as error:
        raise UserError(f"{_shown(url)}: cannot be reached: {_one_line(error.reason)}") from error
    except ConnectionError as error:
        return f"the connection broke off ({error})"
    except TimeoutError:
        return f"no answer within {TIMEOUT:g} s"
    except (HTTPException, ValueError) as error:
        raise UserError(f"{_shown(url)}: no sensible answer: {_one_line(error)}") from error
    with response:
        if response.status == 206 and not response.headers.get("Content-Range", "").startswith(f"bytes {offset}-"):
            _empty(file)
            return "the server sent another part of the file than was asked for"
        if offset and response.status != 206:  # the whole file comes, whatever was asked for
            offset = 0
            _empty(file)
        return _copy(response, file, offset, name)


def _one_line(reason: object) -> str:
    """Words that may be the server's, short enough for a message."""
    return " ".join(str(reason).split())[:200]


def _open(url: str, offset: int) -> HTTPResponse:
    """Ask for a file from a byte on. Redirects are followed, but never to ftp: or file:."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler,
        urllib.request.HTTPHandler,
        urllib.request.HTTPSHandler,
        urllib.request.HTTPDefaultErrorHandler,
        urllib.request.HTTPRedirectHandler,
        urllib.request.HTTPErrorProcessor,
        urllib.request.UnknownHandler,
    ):
        opener.add_handler(handler())
    request = urllib.request.Request(url, headers={"User-Agent": "sam-cad"})
    if offset:
        request.add_header("Range", f"bytes={offset}-")
    response: HTTPResponse = opener.open(request, timeout=TIMEOUT)
    return response


def _copy(response: HTTPResponse, file: BinaryIO, offset: int, name: str) -> str | None:
    """Append a response to the file; return why it ended early, or None."""
    announced = response.length  # None where the server does not say
    total, received = announced and offset + announced, 0
    with tqdm(total=total, initial=offset, desc=name, unit="B", unit_scale=True, disable=None, leave=False) as progress:
        while True:
            try:
                block = response.read1(_BLOCK)
            except TimeoutError:
                return f"no byte within {TIMEOUT:g} s"
            except (OSError, HTTPException) as error:
                return f"the connection broke off ({error})"
            if not block:
                break
            file.write(block)
            received += len(block)
            progress.update(len(block))
    if announced is not None and received < announced:
        return f"the connection broke off after {received:,} of {announced:,} bytes"
    return None
