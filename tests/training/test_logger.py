import json
import time
from pathlib import Path

import numpy as np
import pytest

from cad.errors import UserError
from cad.training.logger import PRIVATE, RunLog, wandb_mode


def test_auto_is_online_only_with_a_key(monkeypatch, tmp_path):
    assert wandb_mode("auto") == "offline"
    netrc = tmp_path / "netrc"
    netrc.write_text("machine api.wandb.ai login user password " + "k" * 40)
    monkeypatch.setenv("NETRC", str(netrc))
    assert wandb_mode("auto") == "online"
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.example.org")
    assert wandb_mode("auto") == "offline"
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    assert wandb_mode("auto") == "online"
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert wandb_mode("auto") == "disabled"
    monkeypatch.setenv("WANDB_MODE", "sometimes")
    with pytest.raises(UserError, match="WANDB_MODE=sometimes: expected one of online, offline, disabled"):
        wandb_mode("auto")
    assert wandb_mode("offline") == "offline"


def test_records_are_lines_of_json(tmp_path):
    log = RunLog(tmp_path, {"lr": 2e-4}, "tests")
    log.log_images("predictions", [("frog", np.zeros((2, 6, 3), np.uint8))], epoch=1)
    log.log({"epoch": 1, "train": {"dice": 0.5}, "seconds": 1.5})
    log.log({"epoch": 2, "train": {"dice": 0.75}, "seconds": 1.5})
    log.close()
    records = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [record["train"]["dice"] for record in records] == [0.5, 0.75]
    args = json.loads((tmp_path / "args.json").read_text())
    assert args["settings"] == {"lr": 2e-4}
    assert args["versions"].keys() >= {"torch", "numpy"}


def test_weights_and_biases_gets_the_numbers_and_pictures_but_no_host(monkeypatch, tmp_path):
    sent = {}

    class Run:
        def __init__(self, **options):
            sent["options"] = options
            sent["logged"] = []

        def log(self, values, step):
            sent["logged"].append((step, values))

        def finish(self):
            sent["finished"] = True

    monkeypatch.setattr("wandb.init", Run)
    log = RunLog(tmp_path, {"lr": 2e-4}, "my-project", "offline")
    log.log_images("predictions", [("frog", np.zeros((2, 6, 3), np.uint8))], epoch=1)
    log.log({"epoch": 1, "train": {"dice": 0.5}, "learning_rate": 0.1})
    log.close()
    assert sent["options"]["project"] == "my-project" and sent["options"]["mode"] == "offline"
    assert sent["options"]["config"] == {"lr": 2e-4}
    settings = sent["options"]["settings"]
    assert all(getattr(settings, name) == value for name, value in PRIVATE.items())
    assert sent["logged"][0][1]["predictions"][0]._caption == "frog"
    assert sent["logged"][1] == (1, {"epoch": 1, "train/dice": 0.5, "learning_rate": 0.1})
    assert sent["finished"]


def test_an_offline_run_holds_no_host_name_and_no_home(tmp_path):
    log = RunLog(tmp_path, {"lr": 2e-4}, "tests", "offline")
    log.log({"epoch": 1, "dice": 0.5})
    log.close()
    (file,) = (tmp_path / "wandb").rglob("*.wandb")
    for _ in range(200):  # wandb's own process may write on for a moment
        if b"hidden" in (stored := file.read_bytes()):
            break
        time.sleep(0.1)
    assert b"hidden" in stored
    host = Path("/etc/hostname")
    if host.exists() and len(host.read_text().strip()) > 3:
        assert host.read_text().strip().encode() not in stored
