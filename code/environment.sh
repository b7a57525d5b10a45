# Sourced by run.sh, eval.sh and test.sh: find_python sets PYTHON to an interpreter that has what requirements.txt asks for,
# check_methods refuses unknown METHODS.
#
# PYTHON set by the user wins; else .venv beside run.sh, completed if it lacks something; else the active Python if it
# has everything; else .venv is made and filled, once.

find_python() {
    local root="$1" requirements="$2" check="$1/code/check_requirements.py" candidate
    if [ -n "${PYTHON:-}" ]; then
        if [ -e "$PYTHON" ]; then # absolute, for scripts that change the folder
            PYTHON="$(cd "$(dirname "$PYTHON")" && pwd)/$(basename "$PYTHON")"
        fi
        command -v "$PYTHON" >/dev/null || { echo "error: PYTHON=$PYTHON: no such program" >&2; return 2; }
        "$PYTHON" "$check" "$requirements" >&2 || { echo "error: PYTHON=$PYTHON lacks packages: $PYTHON -m pip install -r $requirements" >&2; return 2; }
        return 0
    fi
    if [ ! -x "$root/.venv/bin/python" ]; then
        for candidate in python python3 python3.13 python3.12 python3.11 python3.10; do
            if command -v "$candidate" >/dev/null && "$candidate" "$check" "$requirements" >/dev/null 2>&1; then
                PYTHON="$candidate"
                return 0
            fi
        done
        for candidate in python3 python python3.13 python3.12 python3.11 python3.10; do
            if command -v "$candidate" >/dev/null && "$candidate" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 14))' 2>/dev/null; then
                echo "set-up, once: making .venv with $("$candidate" --version) and filling it (PyTorch is large: several minutes)" >&2
                "$candidate" -m venv "$root/.venv" || { echo "error: $candidate cannot make a virtual environment (on Debian: apt install python3-venv)" >&2; return 2; }
                break
            fi
        done
        [ -x "$root/.venv/bin/python" ] || { echo "error: no Python 3.10 to 3.13 found; set PYTHON=/path/to/python" >&2; return 2; }
    fi
    PYTHON="$root/.venv/bin/python"
    if ! "$PYTHON" "$check" "$requirements" >&2; then
        echo "set-up: installing into $root/.venv" >&2
        "$PYTHON" -m pip install --quiet --disable-pip-version-check -r "$requirements" >&2 &&
            "$PYTHON" "$check" "$requirements" >&2 ||
            { echo "error: $root/.venv cannot be filled with what $requirements asks for" >&2; return 2; }
    fi
}

check_methods() {
    local method
    for method in $1; do
        case "$method" in
            cad | sa | decoder | zero_shot) ;;
            *) echo "error: METHODS=\"$1\": expected any of cad, sa, decoder and zero_shot, found $method" >&2; return 2 ;;
        esac
    done
}
