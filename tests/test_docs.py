"""The pages: as new as the docstrings, complete, and everything in them runs, parses and leads somewhere."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from docs import build, commands
from docs.conf import CARDS, NAVIGATION
from megen_gym.agents.registry import policy_names
from megen_gym.rewards.registry import reward_names

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(str(path.relative_to(ROOT)) for path in [ROOT / "README.md", *DOCS.rglob("*.md")])
MADE = ("environments", "rewards", "policies")
TOGETHER = "The blocks of this page belong together"
CALCULATORS = {"emt", "gfn2", "lj", "tblite"}


def read(page: str) -> str:
    return (ROOT / page).read_text()


def python_blocks(page: str, slow: bool) -> list[str]:
    """Blocks marked ``python slow`` take minutes."""
    return re.findall(rf"^```python{' slow' if slow else ''}\n(.*?)^```", read(page), re.S | re.M)


def test_pages_follow_the_docstrings() -> None:
    made = build.written()
    stale = [name for name, text in made.items() if not (DOCS / name).is_file() or (DOCS / name).read_text() != text]
    assert not stale, "run: python docs/build.py"
    left = {str(path.relative_to(DOCS)) for folder in MADE for path in (DOCS / folder).glob("*.md")} - set(made)
    assert not left, "pages of things that are gone"


@pytest.mark.parametrize(
    ("section", "names"),
    [
        ("environments", set(build.environments())),
        ("rewards", set(reward_names()) - CALCULATORS),
        ("policies", set(policy_names())),
    ],
)
def test_everything_has_a_page_that_is_listed(section: str, names: set[str]) -> None:
    listed = set(re.findall(rf"\({section}/(\w+)\.md\)", read(f"docs/{section}.md")))
    assert names <= listed
    assert all((DOCS / section / f"{name}.md").is_file() for name in listed)


def test_calculators_have_the_page_of_calculators() -> None:
    assert all(f"`{name}`" in read("docs/rewards.md") for name in CALCULATORS & set(reward_names()))


def test_environments_have_gymnasiums_sections() -> None:
    wanted = [name for name in build.ORDER if name != "Info"]
    for slug in build.environments():
        headings = re.findall(r"^## (.*)$", read(f"docs/environments/{slug}.md"), re.M)
        assert [name for name in headings if name in wanted] == wanted, slug


def test_rewards_and_policies_have_examples() -> None:
    pages = [f"docs/rewards/{name}.md" for name in set(reward_names()) - CALCULATORS]
    pages += [f"docs/policies/{path.name}" for path in (DOCS / "policies").glob("*.md")]
    assert not [page for page in pages if not re.search(r"```(python|bash)", read(page))]


def run_blocks(page: str, slow: bool, folder: Path, patch: pytest.MonkeyPatch) -> None:
    """Run the blocks of a page in an empty folder; one that begins with a file's name becomes that file."""
    from megen_gym.rewards import registry

    patch.chdir(folder)
    patch.syspath_prepend(str(folder))
    patch.setattr(registry, "_users", dict(registry._users))
    before = set(sys.modules)
    shared: dict[str, object] = {}
    for block in python_blocks(page, slow):
        if file := re.match(r"# (\w+\.py)\n", block):
            (folder / file[1]).write_text(block)
        else:
            exec(compile(block, page, "exec"), shared if TOGETHER in read(page) else {})
    for name in set(sys.modules) - before:
        if (folder / f"{name}.py").is_file():
            del sys.modules[name]


@pytest.mark.parametrize("page", [page for page in PAGES if python_blocks(page, False)])
def test_the_python_of_a_page_runs(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_blocks(page, False, tmp_path, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if python_blocks(page, True)] or [None])
def test_the_slow_python_of_a_page_runs(page: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if page is not None:
        run_blocks(page, True, tmp_path, monkeypatch)


def test_the_readme_has_its_two_commands() -> None:
    text = "\n".join(commands.blocks(read("README.md"), "bash"))
    assert "make demo" in text
    assert "make test" in text
    assert commands.blocks(read("README.md"), "python")


def test_commands_of_the_pages_parse() -> None:
    wrong = {}
    for words in {tuple(words): words for page in PAGES for words in commands.commands(read(page))}.values():
        try:
            commands.check(words)
        except ValueError as error:
            wrong[" ".join(words)] = str(error)
    assert not wrong


def test_a_command_that_does_not_exist_is_noticed() -> None:
    for words in (["nowhere.py"], ["plot.py", "--nothing", "1"], ["plot.py", "--mode", "sideways"]):
        with pytest.raises(ValueError, match=r"nowhere|plot"):
            commands.check(words)


def test_options_of_the_tables_exist() -> None:
    """Where a table is said to be about a script, the options in its last column are the script's."""
    tables = re.findall(r"(?:the options|those|and) of `python ([^`]+)`:\n\n((?:\|.*\n)+)", read("docs/migrating.md"))
    assert len(tables) == read("docs/migrating.md").count("`:\n\n| there") >= 14
    for script, table in tables:
        known = commands.options(script)
        for row in table.splitlines()[2:]:
            there, here = re.split(r"(?<!\\)\|", row)[1:3]
            named = set(re.findall(r"`(--\w+)", here))
            assert named <= known, (script, row)
            assert named or re.search("gone|no such", here), (script, row)
            assert "`" in there or there.strip(), row


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", sorted({commands.program(words)[0] for page in PAGES for words in commands.commands(read(page))})
)
def test_scripts_of_the_pages_start(name: str) -> None:
    """In a process of their own; those without a command line are only there."""
    if name.startswith("-m") or "cli import run" in read(name):
        done = subprocess.run([sys.executable, *name.split(), "--help"], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert "usage:" in done.stdout


def anchors(page: Path) -> set[str]:
    """Of the headings of a page, as GitHub and the site make them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    text = re.sub(r"^```.*?^```", "", read(page), flags=re.S | re.M)
    for link in re.findall(r"(?<!`)\]\(([^)\s]+)\)", text):
        if re.match(r"\w+:", link):
            continue
        target, _, anchor = link.partition("#")
        path = (ROOT / page).parent / target if target else ROOT / page
        assert path.exists(), f"{page}: {link}"
        assert not anchor or anchor in anchors(path), f"{page}: {link}"


def test_every_page_is_in_the_navigation() -> None:
    named = {f"docs/{name.partition('<')[2].rstrip('>') or name}.md" for names in NAVIGATION.values() for name in names}
    listed = {f"docs/{folder}/{path.name}" for folder in MADE for path in (DOCS / folder).glob("*.md")}
    assert set(PAGES) - {"README.md", "docs/index.md"} <= named | listed
    assert all((ROOT / f"{card}.md").is_file() for card in CARDS)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("furo", reason="pip install megen-gym[docs]")
    pytest.importorskip("myst_parser")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-d", folder / "trees", "-c", DOCS, ROOT]
    done = subprocess.run([*command, folder / "html"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder / "html"


@pytest.mark.slow
def test_the_site_is_whole(site: Path) -> None:
    assert (site / "index.html").is_file()
    for page in PAGES:
        if page != "README.md":
            assert (site / page).with_suffix(".html").is_file(), page
    found = (site / "searchindex.js").read_text()
    assert "ga_cluster" in found
    assert "migrating" in found


@pytest.mark.slow
def test_the_site_asks_for_nothing_from_elsewhere(site: Path) -> None:
    loads = re.compile(r"<(?:script|img|iframe)[^>]*src=[\"'](?:https?:)?//|<link[^>]*href=[\"'](?:https?:)?//")
    styles = re.compile(r"(?:@import|url\()\s*[\"']?(?:https?:)?//")
    for path in site.rglob("*.html"):
        assert not loads.search(path.read_text()), path
    for path in site.rglob("*.css"):
        assert not styles.search(path.read_text()), path
