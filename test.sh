#!/usr/bin/env bash
# Run ruff, mypy and the tests. Arguments go to pytest; --slow adds the slow tests.
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
source "$root/code/environment.sh"
find_python "$root" "$root/requirements-dev.txt"
cd "$root"
"$PYTHON" -m ruff check
"$PYTHON" -m ruff format --check
"$PYTHON" -m mypy
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" # a process for each core, so a thread for each process
exec "$PYTHON" -m pytest -n auto --maxprocesses 4 "$@"
