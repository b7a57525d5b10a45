import threading
import time

import pytest
from PIL import Image

from cad.errors import UserError
from cad.prediction.pipeline import PixelBudget, WriteBehind, count_pixels, read_ahead


@pytest.mark.parametrize("threads", [0, 1, 3])
def test_groups_are_read_in_order_and_not_too_far_ahead(threads):
    started = []

    def read(item):
        started.append(item)
        time.sleep(0.001 * (item % 3))
        return item * 10

    groups = [[1, 2, 3], [4], [5, 6], [7], [8, 9]]
    found = []
    for group in read_ahead(iter(groups), read, threads, ahead=1):
        found.append(group)
        assert len(started) <= sum(map(len, groups[: len(found) + 1]))
    assert found == [[10, 20, 30], [40], [50, 60], [70], [80, 90]]


def test_reading_goes_on_while_the_model_computes():
    second_is_read = threading.Event()
    groups = read_ahead([[1], [2]], lambda item: second_is_read.set() if item == 2 else None, threads=1, ahead=1)
    next(groups)
    assert second_is_read.wait(5)
    groups.close()


def test_a_budget_keeps_large_images_apart_and_lets_one_of_any_size_in():
    budget, running, most = PixelBudget(100), set(), []
    lock = threading.Lock()

    def hold(pixels):
        with budget.held(pixels):
            with lock:
                running.add(pixels)
                most.append(sum(running))
            time.sleep(0.005)
            with lock:
                running.remove(pixels)

    threads = [threading.Thread(target=hold, args=(pixels,)) for pixels in (30, 31, 32, 33, 60, 500, 90)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(5)
    assert len(most) == 7 and max(value for value in most if value != 500) <= 100


def test_what_a_writing_thread_raises_is_raised_by_who_submits():
    def fail():
        raise UserError("the disk is full")

    done = []
    with pytest.raises(UserError, match="the disk is full"), WriteBehind(2, PixelBudget(10)) as writing:
        writing.submit(1, lambda: None, lambda: done.append(1))
        writing.submit(1, fail, lambda: done.append(2))
        while True:
            writing.submit(10, lambda: None, lambda: None)
    assert done == [1]


def test_all_jobs_are_done_at_the_end():
    done = []
    with WriteBehind(2, PixelBudget(3)) as writing:
        for number in range(20):
            writing.submit(1, lambda: time.sleep(0.001), lambda number=number: done.append(number))
    assert sorted(done) == list(range(20))


def test_pixels_are_counted_by_the_header(tmp_path):
    Image.new("L", (30, 20)).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"no image")
    assert count_pixels(tmp_path / "a.png") == 600 and count_pixels(tmp_path / "b.png") == 0
