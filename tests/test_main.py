"""``python -m megen_gym``: its commands, what they list, and which script they run."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from ase import Atoms
from script_checks import refusal

from megen_gym import io, runs
from megen_gym.__main__ import COMMANDS, main
from megen_gym.agents.registry import policy_names
from megen_gym.families import GENERATE, TRAIN, Family, command_line
from megen_gym.listing import environment_ids, example
from megen_gym.manual import WIDTH, columns, docstring, plain, summary
from megen_gym.rewards.registry import reward_names

FAMILIES = [(verb, name) for verb, known in (("train", TRAIN), ("generate", GENERATE)) for name in known]


def said(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """What a command prints."""
    main(words)
    return capsys.readouterr().out


def helped(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    with pytest.raises(SystemExit) as end:
        main([*words, "--help"])
    assert not end.value.code
    return capsys.readouterr().out


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The one sentence with which a command ends."""
    return refusal(lambda: main(words), capsys).rstrip("\n")


def test_lists_need_no_torch() -> None:
    code = (
        "import sys; from megen_gym.__main__ import main\n"
        "for words in ([], ['envs'], ['rewards'], ['policies'], ['train'], ['generate'], ['envs', 'GaCluster-v0']):\n"
        "    main(words)\n"
        "print('heavy:', sorted(set(sys.modules) & {'torch', 'dscribe', 'matplotlib', 'e3nn', 'scipy'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.splitlines()[-1] == "heavy: []"
    assert max(map(len, done.stdout.splitlines())) <= WIDTH


def test_the_overview_names_all_commands(capsys: pytest.CaptureFixture[str]) -> None:
    text = said(capsys)
    assert text == said(capsys, "--help")
    for name, command in COMMANDS.items():
        assert f"  {name} " in text
        assert command.purpose in text
    assert "did you mean 'envs'?" in refused(capsys, "env")


@pytest.mark.parametrize(
    ("command", "names"),
    [("envs", environment_ids()), ("rewards", reward_names()), ("policies", policy_names())],
    ids=["envs", "rewards", "policies"],
)
def test_a_list_has_all_names_and_each_has_a_page(
    command: str, names: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    text = said(capsys, command)
    assert set(names) <= set(re.findall(r"^  ([\w-]+)", text, re.M))
    for name in names:
        page = said(capsys, command, name)
        assert page.startswith(f"{name}\n")
        assert len(page.splitlines()) > 2
        assert ":class:" not in page
        doctest = re.compile(r"^(>>>.*(\n.+)*)", re.M)
        assert max(map(len, doctest.sub("", page).splitlines())) <= WIDTH
    assert f"Known: {sorted(names)[0]}" in refused(capsys, command, "no_such_thing_at_all")
    assert "did you mean" in refused(capsys, command, names[0][:-1])


@pytest.mark.parametrize("env_id", environment_ids())
def test_examples_of_environments_run(env_id: str, capsys: pytest.CaptureFixture[str]) -> None:
    env = eval(example(env_id), {"gym": gym})
    env.reset(seed=0)
    assert example(env_id) in said(capsys, "envs")
    assert f"env = {example(env_id)}" in said(capsys, "envs", env_id)


def test_a_reward_of_a_calculator_says_which(capsys: pytest.CaptureFixture[str]) -> None:
    assert "ase.calculators.emt.EMT" in said(capsys, "rewards")
    page = said(capsys, "rewards", "emt")
    assert "calculator: str   (here ase.calculators.emt.EMT)" in page
    assert "  relax_steps: int = 0\n" in page


@pytest.mark.parametrize("name", [name for name, command in COMMANDS.items() if not command.plain])
def test_help_has_an_example_with_options_that_exist(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = helped(capsys, name)
    shown = text.split("example:\n")[1].strip()
    assert shown == f"python -m megen_gym {name} {COMMANDS[name].example}"
    for option in re.findall(r"--\w+", shown):
        assert f"{option} " in text


@pytest.mark.parametrize(("verb", "name"), FAMILIES)
def test_families_take_the_options_of_their_script(verb: str, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    family = (TRAIN if verb == "train" else GENERATE)[name]
    before = sys.argv
    text = helped(capsys, verb, name)
    assert sys.argv is before
    assert text.startswith(f"usage: python -m megen_gym {verb} {name} ")
    for option in re.findall(r"--\w+", family.example):
        assert f"{option} " in text
    assert f"python -m megen_gym {verb} {name} {family.example}\n" in said(capsys, verb)
    module, _, function = family.target.partition(":")
    script = ast.parse(Path(str(importlib.import_module(module).__file__)).read_text())
    assert ast.unparse(script.body[-1]).splitlines()[-1].strip() in (f"{function}()", f"run({function})")


def test_unknown_families(capsys: pytest.CaptureFixture[str]) -> None:
    assert "did you mean 'gschnet'?" in refused(capsys, "train", "gschent")
    assert "unknown family 'ppo' for generate" in refused(capsys, "generate", "ppo")


def test_the_script_sees_its_own_words(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    fake: Any = ModuleType("fake_script")
    fake.main = lambda: seen.append(sys.argv)

    def typed(size: int, name: str = "a") -> None:
        seen.append((size, name))

    fake.typed = typed
    monkeypatch.setitem(sys.modules, "fake_script", fake)
    monkeypatch.setitem(TRAIN, "plain", Family("fake_script:main", "", ""))
    monkeypatch.setitem(TRAIN, "typed", Family("fake_script:typed", "", ""))
    main(["train", "plain", "--a", "1"])
    main(["train", "typed", "--size", "3"])
    assert seen == [["python -m megen_gym train plain", "--a", "1"], (3, "a")]


def test_wrong_options_of_a_family_are_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "did you mean 'mlp'?" in refused(capsys, "train", "ppo", "--policy", "mpl")
    assert "see --help" in refused(capsys, "train", "dart", "--datasets", "a.xyz")
    asked = ["--condition", "gap=1", "--condition", "n_atoms=9"]
    assert str(tmp_path / "none") in refused(capsys, "generate", "gschnet", "--dir", str(tmp_path / "none"), *asked)


def test_structures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = runs.create(tmp_path / "runs", {"name": "ppo", "symbols": "X,Ga"})
    trimer = Atoms("Ga3", [[0, 0, 0], [2.6, 0, 0], [1.3, 2.25, 0]])
    told: dict[str, Any] = {"energy": [-1.0, -1.0], "n_start": [0, 0], "valid": [True, True], "policy": ["mlp"] * 2}
    io.append_structures(run.path / "structures_eval.extxyz", [trimer, trimer], told)
    text = said(capsys, "structures", str(tmp_path / "runs"), "--unique", "--valid_only", "--cif", str(tmp_path / "c"))
    assert "dropped: duplicate" in text
    assert len(list((tmp_path / "c").iterdir())) == 1
    assert "stands after an option" in refused(capsys, "structures", "--dir", "runs", "more")


def test_the_command_line_comes_back() -> None:
    before = sys.argv
    with pytest.raises(RuntimeError, match="stop"), command_line("a", ["b"]):
        raise RuntimeError("stop")
    assert sys.argv is before


def test_docstrings_are_found_without_running_code() -> None:
    before = set(sys.modules)
    assert docstring("megen_gym.derive_wyckoff:hall_numbers")
    assert "megen_gym.derive_wyckoff" not in set(sys.modules) - before
    with pytest.raises(LookupError, match="'Nothing'"):
        docstring("megen_gym.bags:Nothing")
    with pytest.raises(LookupError, match=r"megen_gym\.nothing"):
        docstring("megen_gym.nothing:Nothing")


def test_summaries() -> None:
    assert summary("Reward of X (Mach. Learn. 4, 2). And more.") == "Reward of X (Mach. Learn. 4, 2)."
    assert summary("Pays this:\n\nE = 1") == "Pays this"
    assert summary("Goes on\nin a second line. Third.") == "Goes on in a second line."
    assert summary("") == ""


def test_plain_text() -> None:
    text = """First :class:`~megen_gym.bags.Bags` line.

    ## Title
    | a | b |
    | --- | --- |
    | ``x \\| y`` | a long cell that has to be wrapped |

    Args:
        first: One of many words that need two lines here.
        second: Short.

    * a bullet that is long enough for two lines
    * another

    >>> print("a very long line of a doctest stays as it is, for it is code")
    """
    assert plain(text, 40).splitlines() == [
        "First Bags line.",
        "",
        "Title",
        "-----",
        "  a      b",
        "  -----  -------------------------------",
        "  x | y  a long cell that has to be",
        "         wrapped",
        "",
        "Args:",
        "    first: One of many words that need",
        "        two lines here.",
        "    second: Short.",
        "",
        "* a bullet that is long enough for two",
        "  lines",
        "* another",
        "",
        '>>> print("a very long line of a doctest stays as it is, for it is code")',
    ]
    rng = np.random.default_rng(0)
    for _ in range(20):
        cells = [["w" * int(size) for size in rng.integers(0, 90, 3)] for _ in range(4)]
        assert max(map(len, columns(cells, 60))) <= 60


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--jobs", "2.5"], "jobs is 2.5; give a whole number"),
        (["--relax", "maybe"], "relax is maybe; give true or false"),
        (["--known_minimum", "low"], "known_minimum is low; give a number or null"),
        (["--env_kwargs", '{"n":'], """env_kwargs is {"n":; give JSON such as '{"name": 1}' or null"""),
    ],
)
def test_values_of_another_type_are_told_in_a_sentence(
    words: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert told in refused(capsys, "compare", *words)
