import os
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import app
import pytest
from predicted import write_weights


def test_a_missing_gradio_is_one_line(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert app.main([]) == 2
    assert capsys.readouterr().err == "error: the package gradio is missing: pip install gradio\n"


def test_wrong_flags_are_one_line(tmp_path, capsys):
    with pytest.raises(SystemExit):
        app.main(["--port", "70000"])
    assert "expected a port from 1 to 65535, found '70000'" in capsys.readouterr().err
    pytest.importorskip("gradio", reason="gradio is not installed: pip install gradio")
    assert app.main(["--checkpoint", str(tmp_path / "missing.pth")]) == 2
    assert "missing.pth: no such file" in capsys.readouterr().err


@pytest.mark.slow
def test_it_serves_this_machine_until_interrupted(tmp_path):
    pytest.importorskip("gradio", reason="gradio is not installed: pip install gradio")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    weights = write_weights(tmp_path / "w.pth")
    command = [sys.executable, app.__file__, "--checkpoint", weights, "--port", str(port), "--device", "cpu"]
    (tmp_path / "temporary").mkdir()
    environment = os.environ | {"TMPDIR": str(tmp_path / "temporary"), "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        said = process.stdout.readline()
        while said and f"http://127.0.0.1:{port}" not in said:
            said = process.stdout.readline()
        with urllib.request.urlopen(f"http://127.0.0.1:{port}") as answer:
            assert answer.status == 200
        process.send_signal(signal.SIGINT)
        _, complaints = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode in (0, 130) and "Traceback" not in complaints
    assert not list(Path(tmp_path / "temporary").glob("sam-cad-*"))
