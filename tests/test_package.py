"""The package as it is installed: list of packages, import time and weight, README, no leftovers."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

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


PAGES = ("README.md", "docs/cryingan.md", "docs/crystal_gpt.md", "docs/gschnet.md", "docs/polysrl.md")


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / page).read_text(), re.S)


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")])
def test_the_python_of_a_page_runs(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for block in blocks(page, "python"):
        exec(compile(block, page, "exec"), {})


def test_the_readme_has_its_two_commands() -> None:
    text = "\n".join(blocks("README.md", "bash"))
    assert "make demo" in text
    assert "make test" in text
    assert blocks("README.md", "python")


def test_commands_of_the_pages_exist() -> None:
    text = "\n".join(block for page in PAGES for block in blocks(page, "bash"))
    for script in re.findall(r"python (\S+\.py)", text):
        assert (ROOT / script).exists(), script
    used: dict[str, set[str]] = {}
    for program, options in re.findall(r"python (\S+\.py|-m megen_gym \w+)(.*)", text):
        used.setdefault(program, set()).update(re.findall(r"--(\w+)", options))
    for program, names in used.items():
        help_text = subprocess.check_output([sys.executable, *program.split(), "--help"], text=True, cwd=ROOT)
        assert all(f"--{name}" in help_text for name in names), program


def test_docs_follow_the_docstrings() -> None:
    import runpy

    build = runpy.run_path(str(ROOT / "docs" / "build.py"), run_name="docs")
    for name in build["PAGES"]:
        assert (ROOT / "docs" / f"{name}.md").read_text() == build["page"](name), "run: python docs/build.py"
