"""Ctrl-C and Slurm's warning: stop at the next safe point instead of anywhere.

The first SIGINT or SIGTERM is a request, which the run answers after its current step by saving its state; a second one
ends the process at once, which harms no file because each is written under another name and renamed.
"""

import math
import os
import signal
import time
from types import FrameType, TracebackType
from typing import Any

from cad.distributed import started_by_torchrun
from cad.errors import Interrupted

# torchrun hands on a signal that its processes may have got themselves: the second is the first one's echo.
ECHO_SECONDS = 10.0


class StopRequest:
    """While entered, the first SIGINT, SIGTERM or SIGHUP sets `signal`, and the second raises KeyboardInterrupt."""

    SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)  # the last is a lost connection

    def __init__(self) -> None:
        self.signal: int | None = None
        self._received_at = -math.inf
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "StopRequest":
        for number in self.SIGNALS:
            # Ignored ones stay so: nohup and background jobs of a script ask for that.
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._before[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, _: type[BaseException] | None, error: BaseException | None, __: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        # Two signals to a whole group can reach the processes that read images twice and this one once: they are gone.
        if self.signal is not None and isinstance(error, RuntimeError) and "DataLoader worker (pid" in str(error):
            raise KeyboardInterrupt from error

    def _receive(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if started_by_torchrun() and now - self._received_at < ECHO_SECONDS:
            return
        if self.signal is not None:
            raise KeyboardInterrupt
        self.signal, self._received_at = number, now
        # Not print: a signal may arrive in the middle of one.
        os.write(2, b"\nstopping after this step; once more ends at once\n")

    @property
    def exit_code(self) -> int:
        """The shell's exit code for the signal that was received."""
        return 128 + (self.signal or 0)

    def check(self, message: str) -> None:
        """Raise `Interrupted` with the message if a signal was received."""
        if self.signal is not None:
            raise Interrupted(message, self.exit_code)


def ignore_in_worker(_: int) -> None:
    """For the processes that read images: a signal to the whole group is for the process that trains to answer.

    A second SIGTERM ends them: Python sends them at its exit, and waits for ever for a process that ignores all. They
    end with 0, since for any other end PyTorch raises in the process that trains, wherever that is.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, _: signal.signal(number, lambda *_: os._exit(0)))
