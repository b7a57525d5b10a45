"""docs/TUTORIAL.md: its commands, run as written in a copy of the project."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TUTORIAL = (ROOT / "docs" / "TUTORIAL.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"(<!-- not run: .+ -->\n)?```bash\n(.*?)```", re.DOTALL)
COMMANDS = [commands for skipped, commands in BLOCK.findall(TUTORIAL) if not skipped]


def test_pictures_and_links_of_the_tutorial_are_there():
    targets = re.findall(r"\]\(([^)#:]+)\)", TUTORIAL)
    assert len(targets) > 3 and all((ROOT / "docs" / target).exists() for target in targets)


@pytest.mark.slow
def test_the_tutorial_runs_as_written(tmp_path):
    project, programs = tmp_path / "project", tmp_path / "bin"
    left_out = shutil.ignore_patterns("__pycache__", "runs", "*.pth")
    for name in ("code", "docs", "checkpoints"):
        shutil.copytree(ROOT / name, project / name, ignore=left_out)
    programs.mkdir()
    (programs / "python").write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    (programs / "python").chmod(0o755)
    environment = os.environ | {"PATH": f"{programs}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
    assert len(COMMANDS) >= 5
    for commands in COMMANDS:
        done = subprocess.run(
            ["bash", "-e", "-c", commands], cwd=project, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, commands + done.stdout + done.stderr
    assert len(list((project / "results" / "masks").glob("*.png"))) == 10
    assert len(list((project / "results" / "overlays").glob("*.jpg"))) == 10
    assert (project / "checkpoints" / "sam_nuclei.pth").is_file()
    assert list((project / "runs").glob("*-eval/report.html"))
