"""The examples in the docstrings."""

import doctest
import importlib
import pkgutil
import tomllib
from pathlib import Path

import pytest

PACKAGES = tomllib.loads((Path(__file__).resolve().parents[1] / "pyproject.toml").read_text())["tool"]["setuptools"]
MODULES = sorted(
    {
        f"{name}.{module.name}"
        for name in PACKAGES["packages"]
        for module in pkgutil.iter_modules([str(Path(importlib.import_module(name).__file__).parent)])
        if not module.ispkg
    }
    | set(PACKAGES["packages"])
)


@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples(name: str) -> None:
    failed, _ = doctest.testmod(importlib.import_module(name), optionflags=doctest.NORMALIZE_WHITESPACE)
    assert failed == 0


def test_there_are_examples() -> None:
    finder = doctest.DocTestFinder(exclude_empty=True)
    found = [test for name in MODULES for test in finder.find(importlib.import_module(name)) if test.examples]
    assert len(found) >= 10
