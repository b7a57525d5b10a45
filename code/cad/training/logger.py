"""The log of a run: `runs/<start time>/log.jsonl` always, Weights & Biases beside it.

Weights & Biases never asks for a login: without a configured key the run is kept offline, in the run's folder, from
where `wandb sync` can send it later.
"""

import contextlib
import errno
import io
import json
import netrc
import os
import shutil
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import wandb

from cad.errors import UserError
from cad.files import hide_home_in_file, write_json
from cad.training.unfinished import LOG_FILE, SETTINGS_FILE, lock
from cad.versions import installed_versions


def wandb_mode(asked: str) -> str:
    """What `auto` means here: WANDB_MODE if it is set, else online with a configured key, else offline."""
    if asked != "auto":
        return asked
    if mode := os.environ.get("WANDB_MODE"):
        if mode not in WANDB_MODES:
            raise UserError(f"WANDB_MODE={mode}: expected one of {', '.join(WANDB_MODES)}")
        return mode
    return "online" if os.environ.get("WANDB_API_KEY") or _key_in_netrc() else "offline"


def _key_in_netrc() -> bool:
    """Whether `wandb login` has left a key in ~/.netrc (or $NETRC) for the server in use."""
    host = urlsplit(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).netloc
    try:
        return netrc.netrc(os.environ.get("NETRC")).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False


WANDB_MODES = ("online", "offline", "disabled")
# What Weights & Biases would send beside the numbers, switched off unless --wandb_details asks for it.
PRIVATE: dict[str, Any] = {
    "disable_git": True,
    "disable_code": True,
    "save_code": False,
    "host": "hidden",
    "x_disable_meta": True,
    "x_disable_stats": True,
    "x_disable_machine_info": True,
    "x_save_requirements": False,
}


class NoLog:
    """The log of a process that is not the first of several: nothing."""

    wandb_id = None

    def log(self, record: dict[str, Any]) -> None:
        pass

    def log_images(self, key: str, pictures: list[tuple[str, np.ndarray]], epoch: int) -> None:
        pass

    def close(self) -> None:
        pass


class RunLog:
    """Writes each record of a run as one line of JSON, and the same numbers to Weights & Biases.

    Args:
        folder: the run's folder; its name is the run's name.
        settings: plain values, kept as args.json and as the W&B configuration.
        wandb_flag: auto, online, offline or disabled.
        wandb_details: also send git state, code path and host details to W&B.
        wandb_id: of the run at W&B, where it is resumed.
        epochs_done: records of earlier epochs that a resumed run keeps; later ones are cut off, since their epochs are
            trained again.

    Raises:
        UserError: the run is under way in another process, its log lacks an epoch, or W&B cannot be reached.
    """

    def __init__(
        self,
        folder: Path,
        settings: dict[str, Any],
        project_name: str,
        wandb_flag: str = "disabled",
        wandb_details: bool = False,
        wandb_id: str | None = None,
        epochs_done: int = 0,
    ) -> None:
        self.folder = folder
        if not (folder / SETTINGS_FILE).exists():
            try:
                write_json(folder / SETTINGS_FILE, {"settings": settings, "versions": installed_versions()})
            except UserError:
                folder.rmdir()  # nothing has happened in this run
                raise
        self._file = open_log(folder, epochs_done)
        self.mode = wandb_mode(wandb_flag)
        resumed = wandb_id is not None
        try:
            self._wandb = wandb.init(
                project=project_name,
                name=folder.name,
                id=wandb_id,
                resume="allow" if resumed and self.mode == "online" else None,
                dir=str(folder.resolve()),  # for the process of wandb, which may stand in another folder
                mode=self.mode,  # type: ignore[arg-type]  # a Literal there
                config=settings,
                settings=wandb.Settings(**({} if wandb_details else PRIVATE) | {"silent": True, "console": "off"}),
            )
        except wandb.Error as error:
            self._file.close()
            if not resumed:
                shutil.rmtree(folder)  # nothing has happened in this run
            advice = "; --wandb offline needs no account" if self.mode == "online" else ""
            raise UserError(f"--wandb {wandb_flag}: {error}{advice}") from error
        self.wandb_id: str | None = getattr(self._wandb, "id", None)

    def log(self, record: dict[str, Any]) -> None:
        """Append one record of plain values; nested dictionaries become `group/name` in W&B."""
        line = (json.dumps(record, allow_nan=False) + "\n").encode()
        whole = os.fstat(self._file.fileno()).st_size
        try:
            if self._file.write(line) != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(self._file.fileno())
        except OSError as error:
            self._file.truncate(whole)  # no part of a line stays
            raise UserError(f"{self.folder / LOG_FILE}: cannot be written: {error.strerror}") from error
        flat: dict[str, Any] = {}
        for name, value in record.items():
            if isinstance(value, dict):
                flat.update({f"{name}/{key}": inner for key, inner in value.items()})
            else:
                flat[name] = value
        self._wandb.log(flat, step=record.get("epoch"))

    def log_images(self, key: str, pictures: list[tuple[str, np.ndarray]], epoch: int) -> None:
        """Send captioned pictures (H, W, 3) uint8 to W&B, as part of the record of `epoch`: call it before `log`."""
        if self.mode != "disabled":
            self._wandb.log({key: [wandb.Image(array, caption=name) for name, array in pictures]}, step=epoch)

    def close(self) -> None:
        try:
            self._wandb.finish()
            for file in self.folder.glob("wandb/*run-*/logs/*.log"):  # wandb's own notes name the folder they are in
                hide_home_in_file(file)
        finally:
            with contextlib.suppress(OSError):  # what could not be written has been reported
                self._file.close()  # last: it unlocks the run


def open_log(folder: Path, epochs_done: int) -> io.FileIO:
    """Open a run's log behind its first `epochs_done` records, without what follows them, and lock it.

    Unbuffered, so that what could not be written is not written later.

    Raises:
        UserError: another process has it, or it holds fewer records.
    """
    path = folder / LOG_FILE
    file = path.open("a+b", buffering=0)
    if not lock(file):
        time.sleep(1)  # another process may only be looking whether it is locked
        if not lock(file):
            file.close()
            raise UserError(f"{folder}: this run is under way in another process")
    file.seek(0)
    lines = file.readlines()[:epochs_done]
    if len(lines) < epochs_done:
        file.close()
        raise UserError(f"{path}: holds {len(lines)} epochs, the saved state {epochs_done}; start a new run")
    file.truncate(sum(map(len, lines)))
    return file
