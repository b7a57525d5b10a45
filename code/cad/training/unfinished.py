"""Runs that were cut off: what can be resumed, and whether something is running it right now.

A run under way keeps `runs/<start time>/resume.pth` and holds a lock on its log; the operating system lets go of the
lock when the process ends, however it ends. A finished run has no resume.pth.
"""

import fcntl
import json
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

RESUME_FILE = "resume.pth"
LOG_FILE = "log.jsonl"
SETTINGS_FILE = "args.json"


@dataclass(frozen=True)
class UnfinishedRun:
    """A run that can be resumed; `epochs_done` of `epochs` are in its log."""

    folder: Path
    method: str
    epochs_done: int
    epochs: int

    def __str__(self) -> str:
        return f"{self.folder.name} ({self.method}, {self.epochs_done} of {self.epochs} epochs)"


def unfinished_runs(runs: Path) -> list[UnfinishedRun]:
    """The runs below `runs` that were cut off and that nothing is running, the newest last."""
    found = []
    for state in runs.glob(f"*/{RESUME_FILE}"):
        try:
            saved_at = state.stat().st_mtime
            settings = json.loads((state.parent / SETTINGS_FILE).read_text(encoding="utf-8"))["settings"]
            with (state.parent / LOG_FILE).open("r+b") as log:  # NFS locks only what can be written
                if lock(log):
                    done = sum(line.endswith(b"\n") for line in log)
                    run = UnfinishedRun(state.parent, settings["method"], done, settings["epoch"])
                    found.append((saved_at, run))
        except (OSError, ValueError, KeyError, TypeError):
            continue  # not a whole run of ours: nothing to offer
    return [run for _, run in sorted(found, key=lambda each: each[0])]


def newest_unfinished(runs: Path, method: str) -> UnfinishedRun | None:
    """The newest of them that trains this method."""
    of_method = [run for run in unfinished_runs(runs) if run.method == method]
    return of_method[-1] if of_method else None


def lock(file: IO[Any]) -> bool:
    """Lock an open file until it is closed or the process ends; False where another process has it locked."""
    try:
        # Not flock: processes that read images would share its lock, and keep it for seconds after the run was killed.
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    except OSError:
        return True  # a file system without locks: nobody can be told apart
    return True
