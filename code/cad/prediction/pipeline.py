"""Reading ahead of the model and writing behind it, in threads: decoding and encoding images release Python's lock.

Memory is bounded by pixels, not by images: many small ones at a time, or one large one.
"""

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import TypeVar

from PIL import Image

from cad.datasets.pairs import FORMATS

# One image of 100 megapixels at a time; decoding takes up to 18 bytes a pixel, writing up to 10.
PIXELS_AT_ONCE = 2**27

Group = TypeVar("Group")
Item = TypeVar("Item")
Read = TypeVar("Read")


class PixelBudget:
    """At most so many pixels at once, or a single image of more."""

    def __init__(self, limit: int = PIXELS_AT_ONCE) -> None:
        self.limit = limit
        self._used = 0
        self._changed = threading.Condition()

    def take(self, pixels: int) -> None:
        """Wait until there is room for them."""
        with self._changed:
            self._changed.wait_for(lambda: self._used == 0 or self._used + pixels <= self.limit)
            self._used += pixels

    def give_back(self, pixels: int) -> None:
        with self._changed:
            self._used -= pixels
            self._changed.notify_all()

    @contextmanager
    def held(self, pixels: int) -> Iterator[None]:
        """Take them while something runs."""
        self.take(pixels)
        try:
            yield
        finally:
            self.give_back(pixels)


def count_pixels(path: Path) -> int:
    """Pixels of an image file by its header; 0 where it cannot be read, which decoding will say better."""
    try:
        with Image.open(path, formats=FORMATS) as image:
            return image.width * image.height
    except Exception:  # whatever a decoder makes of arbitrary bytes
        return 0


def read_ahead(
    groups: Iterable[list[Item]], read: Callable[[Item], Read], threads: int, ahead: int
) -> Generator[list[Read], None, None]:
    """Read groups of items in threads and give them in order, at most `ahead` groups before they are asked for.

    With 0 threads, everything is read when it is asked for.
    """
    remaining = iter(groups)
    if threads == 0:
        yield from ([read(item) for item in group] for group in remaining)
        return
    pool = ThreadPoolExecutor(threads, thread_name_prefix="read")
    try:
        waiting: deque[list[Future[Read]]] = deque()
        while True:
            for group in islice(remaining, ahead + 1 - len(waiting)):
                waiting.append([pool.submit(read, item) for item in group])
            if not waiting:
                return
            yield [future.result() for future in waiting.popleft()]
    finally:
        pool.shutdown(cancel_futures=True)


class WriteBehind:
    """Runs jobs in threads. A context manager, at whose end all of them are done.

    `submit` waits while the jobs before it hold too many pixels, and raises what one of them raised.
    """

    def __init__(self, threads: int, budget: PixelBudget) -> None:
        self._budget = budget
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="write")
        self._errors: list[BaseException] = []

    def submit(self, pixels: int, job: Callable[[], None], done: Callable[[], None]) -> None:
        """Run a job that holds so many pixels until it is done, then call `done`."""
        self._raise_errors()
        self._budget.take(pixels)
        self._pool.submit(self._run, pixels, job, done)

    def _run(self, pixels: int, job: Callable[[], None], done: Callable[[], None]) -> None:
        try:
            job()
            done()
        except BaseException as error:  # raised again where it is seen
            self._errors.append(error)
        finally:
            self._budget.give_back(pixels)

    def _raise_errors(self) -> None:
        if self._errors:
            raise self._errors[0]

    def __enter__(self) -> "WriteBehind":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown()
        if error is None:
            self._raise_errors()
