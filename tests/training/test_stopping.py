import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cad.errors import Interrupted
from cad.training import stopping
from cad.training.stopping import StopRequest

CODE = str(Path(stopping.__file__).parents[2])
WITH_WORKERS = """
import multiprocessing, os, signal, time
from cad.training.stopping import ignore_in_worker

def work(ready):
    ignore_in_worker(0)
    ready.set()
    time.sleep(600)

context = multiprocessing.get_context("fork")
ready = context.Event()
worker = context.Process(target=work, args=(ready,), daemon=True)
worker.start()
ready.wait()
for number in (signal.SIGINT, signal.SIGTERM):
    os.kill(worker.pid, number)
worker.join(0.5)
assert worker.is_alive()
"""  # at its end Python sends the worker a SIGTERM and waits for it


# The first signal reached this process and its worker, the second the worker alone.
WORKER_GONE = """
import os, signal, sys, time
from torch.utils.data import DataLoader
from cad.errors import run_script
from cad.training.stopping import StopRequest, ignore_in_worker

class Images:
    def __len__(self):
        return 8

    def __getitem__(self, number):
        if number:
            time.sleep(600)
        return number

def main():
    with StopRequest() as stop:
        loader = DataLoader(Images(), num_workers=1, prefetch_factor=1, worker_init_fn=ignore_in_worker)
        batches = iter(loader)
        next(batches)
        (worker,) = batches._workers
        os.kill(os.getpid(), signal.SIGTERM)
        for _ in range(2):
            os.kill(worker.pid, signal.SIGTERM)
            time.sleep(0.5)
        if sys.argv[1] == "step":
            stop.check("stopped and saved")
        next(batches)

sys.exit(run_script(main))
"""


@pytest.mark.parametrize(("during", "code"), [("step", 143), ("waiting", 130)])
def test_a_second_signal_to_the_workers_alone_is_no_defect(tmp_path, during, code):
    script = tmp_path / "script.py"
    script.write_text(WORKER_GONE)
    environment = os.environ | {"PYTHONPATH": CODE}
    done = subprocess.run(
        [sys.executable, script, during], env=environment, stderr=subprocess.PIPE, text=True, timeout=60
    )
    assert done.returncode == code
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_first_signal_is_a_request_and_the_second_ends_at_once(number, code, capfd):
    with StopRequest() as stop:
        stop.check("not asked")
        os.kill(os.getpid(), number)
        assert stop.signal == number
        assert "stopping after this step; once more ends at once" in capfd.readouterr().err
        with pytest.raises(Interrupted, match="saved") as stopped:
            stop.check("saved")
        assert stopped.value.exit_code == code
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)


def test_what_signals_did_before_they_do_again_afterwards():
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with StopRequest():
        assert signal.getsignal(signal.SIGINT) != before[0]
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_a_worker_ignores_signals_until_python_ends_it(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(WITH_WORKERS)
    done = subprocess.run([sys.executable, script], env=os.environ | {"PYTHONPATH": CODE}, timeout=60)
    assert done.returncode == 0


def test_under_torchrun_a_signal_soon_after_another_is_its_echo(monkeypatch):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with StopRequest() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.signal == signal.SIGTERM
        monkeypatch.setattr(stopping, "ECHO_SECONDS", 0)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize("number", StopRequest.SIGNALS)
def test_an_ignored_signal_stays_ignored_as_nohup_wants(number):
    before = signal.signal(number, signal.SIG_IGN)
    try:
        with StopRequest() as stop:
            os.kill(os.getpid(), number)
            assert stop.signal is None
        assert signal.getsignal(number) is signal.SIG_IGN
    finally:
        signal.signal(number, before)
