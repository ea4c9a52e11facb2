"""The package as it is installed: list of packages, import time and weight, no leftovers. Pages: test_docs.py."""

import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def test_package_list_equals_the_tree() -> None:
    listed = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"])
    found = set()
    for top, name in (("megen_gym", "megen_gym"), ("agents", "megen_gym.agents"), ("rewards", "megen_gym.rewards")):
        for init in (ROOT / top).rglob("__init__.py"):
            inner = init.parent.relative_to(ROOT / top).parts
            found.add(".".join((name, *inner)))
    assert listed == found


def test_import_is_light() -> None:
    code = "import sys, megen_gym; print(sorted(set(sys.modules) & {'torch', 'dscribe', 'matplotlib', 'e3nn'}))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


def test_modules_stay_readable() -> None:
    for folder in ("megen_gym", "agents", "rewards"):
        for path in (ROOT / folder).rglob("*.py"):
            assert len(path.read_text().splitlines()) <= 500, path
