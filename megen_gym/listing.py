"""What the library has, by name: environments, rewards and policies; a list of them, or the manual page of one."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Sequence

import gymnasium as gym

from megen_gym.errors import InputError, nearest
from megen_gym.manual import columns, docstring, plain, summary

EXAMPLES = {
    "Cluster-v0": 'formula="Au13"',
    "CrystalSlots-v0": 'template="l12", free="species"',
    "CrystalWyckoff-v0": 'spacegroup=221, composition="BaTiO3"',
    "GaCluster-v0": "n=18",
    "LJCluster-v0": "n=13",
    "Molecule-v0": 'formula="C2H6O"',
}
"""Arguments that show what an environment is for; the others are made without any."""


def environment_ids() -> list[str]:
    """Ids of the registered environments of this library.

    >>> "GaCluster-v0" in environment_ids()
    True
    """
    return sorted(name for name, spec in gym.registry.items() if str(spec.entry_point).startswith("megen_gym."))


def example(env_id: str) -> str:
    """A line of Python that makes an environment.

    >>> example("GaCluster-v0")
    'gym.make("GaCluster-v0", n=18)'
    """
    return "gym.make({})".format(", ".join([f'"{env_id}"', *([EXAMPLES[env_id]] if env_id in EXAMPLES else [])]))


def envs(id: str | None = None) -> None:
    """List the environments, or show the manual page of one.

    Args:
        id: Id of an environment.
    """
    known = environment_ids()
    _check("environment", id, known)
    if id is not None:
        print(f"{id}\n\n{plain(docstring(str(gym.spec(id).entry_point)))}\n\nExample\n-------")
        print(f"import gymnasium as gym, megen_gym\nenv = {example(id)}")
        return
    entries = [(name, f"{summary(docstring(str(gym.spec(name).entry_point)))}\n{example(name)}") for name in known]
    _print("environments", entries, "python -m megen_gym envs ID")


def rewards(name: str | None = None) -> None:
    """List the rewards, or show the manual page of one.

    Args:
        name: Name of a reward.
    """
    from megen_gym.rewards.registry import reward_names

    known = reward_names()
    _check("reward", name, known)
    if name is None:
        entries = [(one, _reward_summary(one)) for one in known]
        _print("rewards", entries, "python -m megen_gym rewards NAME")
        print('An environment takes them as reward="NAME", reward_kwargs={...}; so does make_reward("NAME", ...).')
        print("The import path of an ASE calculator is a name too: ase.calculators.emt.EMT.")
        return
    place, path = _reward_place(name)
    print(f"{name}\n\n{plain(docstring(place))}\n\nArguments\n---------")
    module, _, attribute = place.partition(":")
    signature = inspect.signature(getattr(importlib.import_module(module), attribute))
    for parameter in signature.parameters.values():
        fixed = f"   (here {path})" if path is not None and parameter.name == "calculator" else ""
        print(f"  {_argument(parameter)}{fixed}")
    if path is not None:
        print("  and the arguments of the calculator")


def policies(name: str | None = None) -> None:
    """List the policies, or show the manual page of one.

    Args:
        name: Name of a policy.
    """
    from megen_gym.agents.registry import KINDS, describe, policy_names

    known = policy_names()
    _check("policy", name, known)
    if name is not None:
        print(f"{name}\n\n{plain(describe(name))}")
        return
    runs = {"yes": "NAME@RUN", "may": "NAME or NAME@RUN", "no": "NAME"}
    entries = []
    for one in known:
        text = summary(docstring(KINDS[one].manual) if one in KINDS else describe(one))
        trained = KINDS[one].trained if one in KINDS else "no"
        entries.append((runs[trained].replace("NAME", one), text))
    _print("policies", entries, "python -m megen_gym policies NAME")
    print("RUN is the id of a trained run, its folder, or newest.")


def _print(title: str, entries: Sequence[tuple[str, str]], page: str) -> None:
    """A list of names with one line or more beside each."""
    rows = []
    for name, text in entries:
        first, *others = text.splitlines() or [""]
        rows += [(name, first), *(("", other) for other in others)]
    print("\n".join([f"{title}:", "", *columns(rows), "", f"manual page: {page}"]))


def _check(what: str, name: str | None, known: Sequence[str]) -> None:
    if name is not None and name not in known:
        raise InputError(f"unknown {what} {name!r}; {nearest(name, known)}")


def _argument(parameter: inspect.Parameter) -> str:
    """As ``inspect`` writes it, but annotations that are strings without quotes."""
    stars = "**" if parameter.kind is parameter.VAR_KEYWORD else ""
    kind = parameter.annotation if isinstance(parameter.annotation, str) else str(parameter).partition(": ")[2]
    default = "" if parameter.default is parameter.empty else f" = {parameter.default!r}"
    return f"{stars}{parameter.name}: {kind}{default}"


def _reward_summary(name: str) -> str:
    place, path = _reward_place(name)
    return summary(docstring(place)) if path is None else f"calculator with {path}"


def _reward_place(name: str) -> tuple[str, str | None]:
    """``"module:Class"`` of a reward and, for a calculator's short name, the calculator's import path."""
    from megen_gym.rewards import registry
    from megen_gym.rewards.calculator import PRESETS

    if name in PRESETS:
        path, kwargs, _ = PRESETS[name]
        return str(registry.target_of("calculator")), f"{path} {kwargs.get('method', '')}".rstrip()
    target = registry.target_of(name)
    return (target if isinstance(target, str) else f"{target.__module__}:{target.__qualname__}"), None
