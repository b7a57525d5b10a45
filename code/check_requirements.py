"""Say which packages of a requirements file this Python lacks; exit code 1 if any. Standard library only.

python code/check_requirements.py requirements.txt
"""

import operator
import re
import sys
from importlib import metadata
from pathlib import Path

COMPARE = {
    ">=": operator.ge,
    "<=": operator.le,
    "<": operator.lt,
    ">": operator.gt,
    "==": operator.eq,
    "!=": operator.ne,
}


def numbers(version: str) -> tuple[int, ...]:
    """The release numbers of a version, without trailing zeros: 2.6.0+cpu -> (2, 6)."""
    release = re.match(r"\d+(\.\d+)*", version)
    parts = [int(part) for part in release.group().split(".")] if release else []
    while parts and parts[-1] == 0:
        parts.pop()
    return tuple(parts)


def unmet(file: Path) -> list[str]:
    """The requirements of a file, and of the files it includes by -r, that are not met, each with what was found."""
    problems = []
    for line in file.read_text(encoding="utf-8").splitlines():
        line = line.split("#")[0].strip()
        if line.startswith("-r "):
            problems += unmet(file.parent / line[3:].strip())
        elif line:
            name = re.split(r"[^A-Za-z0-9._-]", line)[0]
            try:
                found = metadata.version(name)
            except metadata.PackageNotFoundError:
                problems.append(f"{line} (not installed)")
                continue
            wanted = re.findall(r"(>=|<=|==|!=|<|>)\s*([0-9][^,\s]*)", line)
            if not all(COMPARE[sign](numbers(found), numbers(version)) for sign, version in wanted):
                problems.append(f"{line} (found {found})")
    return problems


if __name__ == "__main__":
    if not (3, 10) <= sys.version_info < (3, 14):
        sys.exit(f"Python {sys.version.split()[0]}: expected 3.10 to 3.13")
    missing = unmet(Path(sys.argv[1]))
    if missing:
        sys.exit(f"missing: {', '.join(missing)}")
