import os
import signal

import pytest

from cad.errors import Interrupted
from cad.training.stopping import StopRequest


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
