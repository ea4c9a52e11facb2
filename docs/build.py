"""Write the pages about environments, rewards, policies and analysis from the docstrings: ``python docs/build.py``.

One page per environment, reward and policy, and a page that lists them. A test fails when a page is older than its
docstring. :mod:`pages` says what there is, :mod:`docstrings` turns a docstring into Markdown.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import gymnasium as gym

import megen_gym  # noqa: F401
from docs.docstrings import markdown, prose, summary
from docs.examples import POLICY, REWARD, competing
from docs.pages import ANALYSIS, ENVIRONMENTS, GROUPS, POLICIES
from megen_gym.agents.registry import KINDS
from megen_gym.rewards import registry

HERE = Path(__file__).resolve().parent

ORDER = ("Description", "Action space", "Observation space", "Rewards", "Starting state", "Episode end", "Info",
         "Arguments", "Version history")  # fmt: skip
"""Sections of an environment's page: Gymnasium's, and what `info` holds."""

INTRO = {
    "environments": "After `import megen_gym`: `gym.make(id, ...)`, or `gym.make_vec(id, num_envs, ...)` for many at "
    "once. Every argument can be written in JSON. `python -m megen_gym envs GaCluster-v0` prints a page in a terminal.",
    "rewards": "A reward is chosen by its name: `gym.make(..., reward=name, reward_kwargs={...})`, "
    "`make_reward(name, ...)`, or `--reward name --reward_kwargs '{...}'` on a command line. `module:Class` names one "
    "of [yours](extending.md), and the import path of an ASE calculator is a name too.",
    "policies": "A policy is anything with Stable-Baselines3's "
    "`predict(observation, state, episode_start, deterministic)`; SB3 models are policies as they are, and so is "
    "[one of yours](extending.md). Names in brackets are those of `python -m megen_gym policies` and of the arena; "
    "searches, such as basin hopping, compete there too.",
    "examples": "Scripts in `examples/`, short enough to be read and changed; `--help` tells the arguments where there "
    "are any. What three of them bring is [measured](benchmarks.md#combinations).",
    "analysis": "Structures of one cell and one composition beside a reference, with bootstrap intervals and what the "
    "data reach: `python -m megen_gym analyse gen.extxyz --reference train.extxyz --out judged`. In Python:",
}


def load(place: str) -> Callable[..., Any]:
    """The thing at ``"module:name"``."""
    module, _, name = place.partition(":")
    return getattr(importlib.import_module(module), name)  # type: ignore[no-any-return]


def environments() -> dict[str, tuple[str, Callable[..., Any]]]:
    """(id, class) of every registered environment of this library, by the name of its page."""
    found = {}
    for spec in gym.registry.values():
        if str(spec.entry_point).startswith("megen_gym."):
            slug = re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", spec.id.partition("-")[0]).lower()
            found[slug] = (spec.id, load(str(spec.entry_point)))
    return found


def rewards() -> dict[str, Callable[..., Any]]:
    """Class of every built-in reward, in the order of the list."""
    listed = [name for group in groups().values() for name in group]
    return {name: load(registry._BUILT_IN[name]) for name in listed}


def groups() -> dict[str, tuple[str, ...]]:
    """The built-in rewards by group."""
    known = {name for group in GROUPS.values() for name in group}
    made = {title: tuple(name for name in group if name in registry._BUILT_IN) for title, group in GROUPS.items()}
    others = tuple(name for name in registry._BUILT_IN if name not in known)
    return made | ({"Others": others} if others else {})


def policies() -> dict[str, tuple[str, tuple[Callable[..., Any], ...]]]:
    """(title, what is on the page) of every policy."""
    table = dict(POLICIES) | {name: (name, ()) for name in KINDS if name not in POLICIES}
    return {name: (title, tuple(map(load, row or (KINDS[name].manual,)))) for name, (title, row) in table.items()}


def adapters() -> dict[str, tuple[str, tuple[Callable[..., Any], ...]]]:
    """(title, what is on the page) of what stands beside the environments."""
    return {slug: (title, tuple(map(load, places))) for slug, (title, places) in ENVIRONMENTS.items()}


def targets() -> dict[str, str]:
    """Page, from docs/, of every class that has one."""
    pages = {made.__name__: f"environments/{slug}.md" for slug, (_, made) in environments().items()}
    pages |= {made.__name__: f"rewards/{name}.md" for name, made in rewards().items()}
    for folder, table in (("environments", adapters()), ("policies", policies())):
        pages |= {thing.__name__: f"{folder}/{slug}.md" for slug, (_, row) in table.items() for thing in row}
    return pages


def below(links: Mapping[str, str]) -> dict[str, str]:
    """The same links from a page in a folder."""
    return {name: f"../{page}" for name, page in links.items()}


def environment_page(id: str, made: Callable[..., Any], links: Mapping[str, str]) -> str:
    """Sections in Gymnasium's order; those that are "as in" another environment are taken from it."""
    first, own = chapters(made)
    text = [f"# {id}", path(made), prose(first, links)]
    text += [f"```python\nimport gymnasium as gym\nimport megen_gym\n\n{make(id)}\n```"]
    for name in (*ORDER, *(other for other in own if other not in ORDER)):
        if name in own:
            text += [f"## {name}", prose(own[name], links)]
    return "\n\n".join(text) + "\n"


def make(id: str) -> str:
    """Two lines of Python."""
    return f'env = gym.make("{id}")\nobservation, info = env.reset(seed=0)'


def chapters(made: Callable[..., Any]) -> tuple[str, dict[str, str]]:
    """First sentence and text by heading of an environment's docstring."""
    first, *parts = re.split(r"^## ", inspect.getdoc(made) or "", flags=re.M)
    found: dict[str, str] = {}
    for part in parts:
        heading, _, body = part.partition("\n")
        names = [name.strip().capitalize() for name in heading.split(",")]
        other = re.match(r"As in :class:`\.?([\w.]+)`\.\s*", body)
        base = chapters(named(other[1]))[1] if other else {}
        rest = body[other.end() :].strip() if other and base else body.strip()
        for place, name in enumerate(names):
            said = [base.get(name, ""), rest if place == 0 or not base else ""]
            found[name] = "\n\n".join(text for text in said if text)
    return first.strip(), found


def named(name: str) -> Callable[..., Any]:
    """The environment's class of this name."""
    return {made.__name__: made for _, made in environments().values()}[name.rpartition(".")[2]]


def path(thing: Callable[..., Any]) -> str:
    """Where to import it from."""
    return f"`{thing.__module__}.{thing.__qualname__}`"


def page(title: str, things: tuple[Callable[..., Any], ...], links: Mapping[str, str], example: str = "") -> str:
    """A page about one thing, and about what belongs to it."""
    text = [f"# {title}", path(things[0]), markdown(things[0], links, 2, example)]
    for thing in things[1:]:
        text += [f"## {thing.__name__}", path(thing), markdown(thing, links, 3)]
    return "\n\n".join(text) + "\n"


def listing(title: str, rows: Mapping[str, str]) -> str:
    """A table of links."""
    head = [f"## {title}", ""] if title else []
    return "\n".join([*head, "| name | what it is |", "| --- | --- |", *(f"| {a} | {b} |" for a, b in rows.items())])


def scripts() -> str:
    """The page of the examples: what each says of itself."""
    rows = {}
    for file in sorted((HERE.parent / "examples").glob("*.py")):
        text = ast.get_docstring(ast.parse(file.read_text())) or ""
        said = " ".join(text.partition("\n\n")[0].split())
        said = re.sub(r": ``python examples/\w+\.py``\.$", ".", said)
        rows[f"`{file.name}`"] = prose(said, {})
    return "\n\n".join(["# Examples", INTRO["examples"], listing("", rows)]) + "\n"


def written() -> dict[str, str]:
    """Every page that is made here, by its path from docs/."""
    links = targets()
    inner = below(links)
    made: dict[str, str] = {}
    lists: dict[str, list[str]] = {"environments": [], "rewards": [], "policies": []}
    rows = {}
    for slug, (id, thing) in environments().items():
        made[f"environments/{slug}.md"] = environment_page(id, thing, inner)
        rows[f"[{id}](environments/{slug}.md)"] = summary(thing, links)
    lists["environments"] += [listing("", rows)]
    for folder, table, heading in (("environments", adapters(), "Many at once"), ("policies", policies(), "")):
        rows = {}
        for slug, (title, things) in table.items():
            made[f"{folder}/{slug}.md"] = page(
                title, things, inner, POLICY.get(slug) or (competing(slug) if slug in KINDS else "")
            )
            short = f" (`{slug}`)" if slug in KINDS and slug != title else ""
            rows[f"[{title}]({folder}/{slug}.md){short}"] = summary(things[0], links)
        lists[folder] += [listing(heading, rows)]
    for name, thing in rewards().items():
        made[f"rewards/{name}.md"] = page(name, (thing,), inner, REWARD.get(name, ""))
    for title, names in groups().items():
        rows = {f"[{name}](rewards/{name}.md)": summary(rewards()[name], links) for name in names}
        lists["rewards"] += [listing(title, rows)]
    short = ", ".join(f"`{name}`" for name in registry._CALCULATORS)
    lists["rewards"] += [f"{short} are short names of calculators: [calculator](rewards/calculator.md)."]
    for name, parts in lists.items():
        made[f"{name}.md"] = "\n\n".join([f"# {name.capitalize()}", INTRO[name], *parts]) + "\n"
    text = ["# Analysis", INTRO["analysis"]]
    for title, place in ANALYSIS.items():
        text += [f"## {title}", path(load(place)), markdown(load(place), links, 3)]
    return made | {"analysis.md": "\n\n".join(text) + "\n", "examples.md": scripts()}


if __name__ == "__main__":
    for name, text in written().items():
        (HERE / name).parent.mkdir(exist_ok=True)
        (HERE / name).write_text(text)
