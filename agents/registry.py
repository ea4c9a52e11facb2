"""Policies by name: what a command line says, and the entrant that it means."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from megen_gym.envs.vector import StructureVectorEnv
from megen_gym.errors import InputError, nearest

_MADE, _SEARCH = "megen_gym.agents.makers", "megen_gym.agents.search"


class Kind(NamedTuple):
    """A kind of policy.

    Attributes:
        make: ``"module:function"``, called with the environment, `seed`, where it is trained `run` and `dir`, and
            options.
        manual: ``"module:Class"`` whose docstring is its manual page.
        trained: Whether it needs a trained run ("yes"), can have one ("may"), or learns nothing ("no").
        runs: ``"module:name"`` of what its runs are, where it has any.
    """

    make: str
    manual: str
    trained: str = "no"
    runs: str = f"{_MADE}:PPO_RUN"


KINDS: dict[str, Kind] = {
    "random": Kind(f"{_MADE}:random", "megen_gym.agents.baselines:RandomValid"),
    "greedy": Kind(f"{_MADE}:greedy", "megen_gym.agents.baselines:Greedy"),
    "compact": Kind(f"{_MADE}:compact", "megen_gym.agents.baselines:Compact"),
    "covariant": Kind(f"{_MADE}:covariant", "megen_gym.agents.covariant.policy:CovariantPolicy", "may"),
    "ppo": Kind(f"{_MADE}:ppo", f"{_SEARCH}.learner:Learner", "may"),
    "cryingan": Kind(
        f"{_MADE}:cryingan",
        "megen_gym.agents.cryingan.policy:CryinGANPolicy",
        "yes",
        "megen_gym.agents.cryingan.settings:KIND",
    ),
    "crystal_gpt": Kind(
        f"{_MADE}:crystal_gpt",
        "megen_gym.agents.crystal_gpt.policy:CrystalPolicy",
        "yes",
        "megen_gym.agents.crystal_gpt.model:KIND",
    ),
    "gschnet": Kind(
        f"{_MADE}:gschnet",
        "megen_gym.agents.gschnet.policy:GSchNetPolicy",
        "yes",
        "megen_gym.agents.gschnet.model:KIND",
    ),
    "basin_hopping": Kind(f"{_SEARCH}.hopping:BasinHopping", f"{_SEARCH}.hopping:BasinHopping"),
    "scipy_basin_hopping": Kind(f"{_SEARCH}.scipy_hopping:ScipyHopping", f"{_SEARCH}.scipy_hopping:ScipyHopping"),
    "minima_hopping": Kind(f"{_SEARCH}.hopping:MinimaHopping", f"{_SEARCH}.hopping:MinimaHopping"),
    "random_search": Kind(f"{_SEARCH}.random_search:RandomSearch", f"{_SEARCH}.random_search:RandomSearch"),
    "symmetric_search": Kind(f"{_SEARCH}.random_search:SymmetricSearch", f"{_SEARCH}.random_search:SymmetricSearch"),
    "regrow": Kind(f"{_SEARCH}.regrow:Regrow", f"{_SEARCH}.regrow:Regrow", "may"),
}
"""Name: its kind."""

_users: dict[str, Callable[..., Any]] = {}


def policy_names() -> list[str]:
    """Names that :func:`make_policy` knows, besides import paths.

    >>> "greedy" in policy_names()
    True
    """
    return sorted({*KINDS, *_users})


def describe(name: str) -> str:
    """The manual page of a policy.

    Raises:
        InputError: for an unknown name.
    """
    if name in _users:
        return inspect.getdoc(_users[name]) or ""
    if name not in KINDS:
        raise InputError(f"unknown policy {name!r}; {nearest(name, policy_names())}")
    return inspect.getdoc(_load(KINDS[name].manual)) or ""


def register(name: str, make: Callable[..., Any]) -> None:
    """Make a policy of your own known by name in this process; elsewhere, use ``"module:function"`` as the name.

    Args:
        name: Without ``.``, ``:``, ``@``, ``=`` and commas.
        make: Called with the vector environment, `seed` and options; returns a policy, or a search.

    Raises:
        InputError: for the name of a built-in policy, or one with such characters.
    """
    if name in KINDS:
        raise InputError(f"policy {name!r} is built in; register yours under another name")
    if not name or set(name) & set(".:@=, "):
        raise InputError(f"policy name {name!r} cannot be registered; give one without dots, colons, @, = and commas")
    _users[name] = make


def parse(spec: str) -> tuple[str, str | None]:
    """Name and run of ``NAME`` or ``NAME@RUN``.

    Raises:
        InputError: for an unknown name, a run where there can be none, or none where one is needed.

    >>> parse("covariant@newest"), parse("greedy")
    (('covariant', 'newest'), ('greedy', None))
    """
    name, at, run = spec.partition("@")
    if ":" in name or name in _users:
        return name, run or None
    if name not in KINDS:
        hint = nearest(name, policy_names())
        raise InputError(f"unknown policy {name!r}; {hint}; or give 'module:function' for one of your own")
    if at and not run:
        raise InputError(f"policy {spec!r} names no run; give {name}@RUN with a run's id, its folder, or newest")
    if run and KINDS[name].trained == "no":
        raise InputError(f"policy {name!r} is never trained and has no run {run!r}; give {name}")
    if not run and KINDS[name].trained == "yes":
        raise InputError(f"policy {name!r} has to be trained; give {name}@RUN with a run's id, its folder, or newest")
    return name, run or None


def run_folder(spec: str, dir: str | Path = "runs") -> Path | None:
    """The folder of the run that ``NAME@RUN`` means today; None for a policy without one.

    Raises:
        InputError: if there is no such run of that kind.
    """
    name, run = parse(spec)
    if run is None or name not in KINDS:
        return None
    found: Path = _load(KINDS[name].runs).find(run, dir).path
    return found.resolve()


def make_policy(spec: str, env: StructureVectorEnv, *, seed: int = 0, dir: str | Path = "runs", **options: Any) -> Any:
    """The policy or search that a command line means, for one environment.

    Args:
        spec: ``NAME``, ``NAME@RUN`` (see :func:`parse`), or ``module:function``.
        env: What it is to play; its reward is what a policy that looks at rewards looks at.
        seed: Of its own random numbers.
        dir: Folder of the runs.
        options: Of the policy.

    Raises:
        InputError: for an unknown name or option, or a policy that does not fit the environment.

    >>> from megen_gym.envs.vector import make_vec
    >>> make_policy("greedy", make_vec("LJCluster-v0", 1, n=7), k=5).k
    5
    """
    name, run = parse(spec)
    make = _users.get(name) or _load(KINDS[name].make if name in KINDS else name)
    trained = {"run": run, "dir": dir} if name in KINDS and KINDS[name].trained != "no" else {}
    if run is not None and not trained:
        trained = {"run": run}
    _check_options(spec, make, [*options, *trained])
    try:
        return make(env, seed=seed, **trained, **options)
    except InputError:
        raise
    except Exception as error:
        why = f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]
        raise InputError(
            f"policy {spec!r} cannot be made ({why}); it is called with the environment, seed=... and its options"
        ) from error


def _load(path: str) -> Any:
    module, _, name = path.partition(":")
    try:
        return getattr(importlib.import_module(module), name)
    except Exception as error:  # a module of the user may raise anything when it is imported
        if module.startswith("megen_gym."):
            raise
        raise InputError(
            f"the policy {path!r} cannot be imported ({error}); give 'module:function' of an importable module"
        ) from None


def _check_options(spec: str, make: Callable[..., Any], given: list[str]) -> None:
    if not callable(make):
        raise InputError(f"the policy {spec!r} is a {type(make).__name__}; give a function or class that makes one")
    parameters = inspect.signature(make).parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return
    known = [name for name in list(parameters)[1:] if name not in ("seed", "run", "dir")]
    for name in given:
        if name not in parameters:
            raise InputError(f"policy {spec!r} has no option {name!r}; {nearest(name, known)}")
