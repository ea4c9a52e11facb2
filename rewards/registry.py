"""Rewards by name: what an environment, a command line or a JSON file says, and the object that it means."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from megen_gym.errors import InputError, nearest
from megen_gym.rewards.base import Reward

Target = str | Callable[..., Reward]

_BUILT_IN: dict[str, str] = {
    "calculator": "megen_gym.rewards.calculator:CalculatorReward",
    "composition": "megen_gym.rewards.composition:CompositionReward",
    "contacts": "megen_gym.rewards.penalties:ContactReward",
    "dart": "megen_gym.rewards.dart.reward:Dart",
    "density": "megen_gym.rewards.crystals:DensityReward",
    "discriminator": "megen_gym.rewards.discriminator:DiscriminatorReward",
    "distance": "megen_gym.rewards.penalties:DistanceReward",
    "lennard_jones": "megen_gym.rewards.lennard_jones:LennardJones",
    "megen": "megen_gym.rewards.megen:MegenReward",
    "molecule_valid": "megen_gym.rewards.molecules:MoleculeValidReward",
    "novelty": "megen_gym.rewards.novelty:NoveltyReward",
    "property": "megen_gym.rewards.property:PropertyReward",
    "soap_ridge": "megen_gym.rewards.dart.soap:SoapRidge",
    "sum": "megen_gym.rewards.combine:SumReward",
    "target": "megen_gym.rewards.molecules:TargetReward",
    "valid": "megen_gym.rewards.crystals:ValidReward",
    "volume_per_atom": "megen_gym.rewards.crystals:VolumeReward",
}
_CALCULATORS = ("emt", "gfn2", "lj", "tblite")
_users: dict[str, Target] = {}


def reward_names() -> list[str]:
    """Names that :func:`make_reward` knows, besides import paths.

    >>> reward_names()
    ['calculator', 'composition', 'contacts', 'dart', 'density', 'discriminator', 'distance', 'emt', 'gfn2',
    'lennard_jones', 'lj', 'megen', 'molecule_valid', 'novelty', 'property', 'soap_ridge', 'sum', 'target', 'tblite',
    'valid', 'volume_per_atom']
    """
    return sorted({*_BUILT_IN, *_CALCULATORS, *_users})


def target_of(name: str) -> Target:
    """``"module:Class"`` of a built-in reward, or what was registered under a name; short names of calculators are
    rewards of the class that "calculator" means.

    Raises:
        InputError: for an unknown name.
    """
    target = _BUILT_IN.get("calculator" if name in _CALCULATORS else name) or _users.get(name)
    if target is None:
        raise InputError(f"unknown reward {name!r}; {nearest(name, reward_names())}")
    return target


def register(name: str, target: Target) -> None:
    """Make a reward of your own known by name in this process.

    A child process (a `SubprocVecEnv`, say) does not see it; there, use ``"module:Class"`` as the name.

    Args:
        name: Without ``.`` and ``:``, which mark import paths.
        target: A class or function that returns a :class:`Reward`, or its place as ``"module:Class"``.

    Raises:
        InputError: for the name of a built-in reward, or one that looks like an import path.
    """
    if name in _BUILT_IN or name in _CALCULATORS:
        raise InputError(f"reward {name!r} is built in; register yours under another name")
    if not name or set(name) & set(".: "):
        raise InputError(f"reward name {name!r} cannot be registered; give one without dots, colons and spaces")
    if isinstance(target, str) and ":" not in target:
        raise InputError(f"reward {name!r} points to {target!r}; expected a class or 'module:Class'")
    _users[name] = target


def make_reward(name: str, **kwargs: Any) -> Reward:
    """The reward called `name`, built with `kwargs`.

    Args:
        name: One of :func:`reward_names`; ``"module:Class"`` for a :class:`Reward` of yours; or the dotted import path
            of an ASE calculator, ``"ase.calculators.emt.EMT"``.
        kwargs: Arguments of the reward; for calculators by short name or path also those of the calculator.

    Raises:
        InputError: for an unknown name (with the nearest known one) or arguments that the reward does not take.

    >>> make_reward("ase.calculators.emt.EMT", relax_steps=5).settings.relax_steps
    5
    """
    if not isinstance(name, str):
        raise InputError(
            f"a reward is chosen by its name, not by a {type(name).__name__}; {nearest('', reward_names())}"
        )
    if name in _CALCULATORS or ("." in name and ":" not in name):
        from megen_gym.rewards.calculator import calculator_reward

        return calculator_reward(name, **kwargs)
    target = _BUILT_IN.get(name) or _users.get(name) or (name if ":" in name else None)
    if target is None:
        raise InputError(
            f"unknown reward {name!r}; {nearest(name, reward_names())}, or the import path of a calculator"
        )
    factory = _resolve(name, target) if isinstance(target, str) else target
    _check_arguments(name, factory, kwargs)
    reward = factory(**kwargs)
    if not isinstance(reward, Reward):
        raise InputError(f"reward {name!r} is a {type(reward).__name__}; derive it from megen_gym.rewards.Reward")
    return reward


def reward_from_spec(spec: str | Mapping[str, Any]) -> Reward:
    """The reward of a JSON-able description: a name, or ``{"name": ..., **kwargs}``.

    >>> reward_from_spec({"name": "contacts", "strength": 2.0}).strength
    2.0
    """
    if isinstance(spec, str):
        return make_reward(spec)
    if not isinstance(spec, Mapping) or "name" not in spec:
        raise InputError(f"the reward description {spec!r} has no name; expected a name or {{'name': ..., **kwargs}}")
    return make_reward(**spec)


def _resolve(name: str, target: str) -> Callable[..., Any]:
    module, _, attribute = target.partition(":")
    if name in _BUILT_IN:  # a package missing there is a broken installation and keeps its own message
        return getattr(importlib.import_module(module), attribute)  # type: ignore[no-any-return]
    try:
        factory = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise InputError(
            f"reward {name!r} cannot be imported from {target!r} ({error}); check module and class"
        ) from None
    if not callable(factory):
        raise InputError(f"reward {name!r} at {target!r} is a {type(factory).__name__}; expected a class or a function")
    return factory  # type: ignore[no-any-return]


def _check_arguments(name: str, factory: Callable[..., Any], kwargs: Mapping[str, Any]) -> None:
    try:
        parameters = inspect.signature(factory).parameters
    except ValueError:  # some classes written in C do not tell
        return
    known = [key for key, p in parameters.items() if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]
    if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        for key in kwargs:
            if key not in known:
                raise InputError(f"reward {name!r} has no option {key!r}; {nearest(key, known)}")
    missing = [key for key in known if parameters[key].default is inspect.Parameter.empty and key not in kwargs]
    if missing:
        raise InputError(f"reward {name!r} needs {', '.join(missing)}; known options: {', '.join(known)}")
