"""``python -m megen_gym train FAMILY ...`` and ``generate FAMILY ...``: the scripts of the agents by name."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from megen_gym.cli import run
from megen_gym.errors import InputError, nearest
from megen_gym.manual import columns


class Family(NamedTuple):
    """One script.

    Attributes:
        target: ``"module:function"``: the script's command line, or the typed function whose options it takes.
        purpose: What it does.
        example: Options of an example.
    """

    target: str
    purpose: str
    example: str


_AGENTS = "megen_gym.agents"
TRAIN = {
    "cryingan": Family(f"{_AGENTS}.cryingan.train:main", "CryinGAN: crystals of one cell", "--training_data my.extxyz"),
    "crystal_gpt": Family(f"{_AGENTS}.crystal_gpt.train:main", "crystal_gpt: crystals of any cell", "--data perov.csv"),
    "dart": Family(
        "megen_gym.rewards.dart.train:main",
        "DART: the energy model behind GaCluster-v0",
        "--dataset labels.extxyz --output weights.npz",
    ),
    "gschnet": Family(f"{_AGENTS}.gschnet.train:main", "G-SchNet: molecules", "--data molecules.db --conditions gap"),
    "polysrl": Family(f"{_AGENTS}.polysrl.train:main", "PolySRL: embeddings of compositions", "--data structures.csv"),
    "ppo": Family(f"{_AGENTS}.ppo_train:main", "PPO: a policy for any environment", "--n 18 --num_steps 60000"),
}
GENERATE = {
    "cryingan": Family(f"{_AGENTS}.cryingan.generate:main", "crystals of a trained CryinGAN", "--n_struc 1000"),
    "crystal_gpt": Family(
        f"{_AGENTS}.crystal_gpt.sample:main", "crystals of a trained crystal_gpt", "--spacegroup 221 --n 1000"
    ),
    "gschnet": Family(
        f"{_AGENTS}.gschnet.generate:main", "molecules of a trained G-SchNet", "--n_molecules 1000 --condition gap=4.0"
    ),
}


def train(words: Sequence[str]) -> None:
    """Train a family with the options of its script."""
    dispatch("train", TRAIN, words)


def generate(words: Sequence[str]) -> None:
    """Generate with a trained family and the options of its script."""
    dispatch("generate", GENERATE, words)


def dispatch(verb: str, families: Mapping[str, Family], words: Sequence[str]) -> None:
    """Run the script that the first word names, in this process, with the other words as its command line.

    Args:
        verb: The command.
        families: Its scripts by name.
        words: Name and options; none, or ``--help``, for the list of names.

    Raises:
        InputError: for an unknown name.
    """
    if not words or words[0] in ("-h", "--help"):
        rows = [(name, family.purpose) for name, family in families.items()]
        print(f"usage: python -m megen_gym {verb} FAMILY ...\n\nfamilies:\n")
        print("\n".join([*columns(rows), "", "examples:", ""]))
        for name, family in families.items():
            print(f"  python -m megen_gym {verb} {name} {family.example}")
        print(f"\npython -m megen_gym {verb} FAMILY --help lists its options")
        return
    if words[0] not in families:
        raise InputError(f"unknown family {words[0]!r} for {verb}; {nearest(words[0], families)}")
    module, _, name = families[words[0]].target.partition(":")
    function = getattr(importlib.import_module(module), name)
    with command_line(f"python -m megen_gym {verb} {words[0]}", words[1:]):
        if inspect.signature(function).parameters:
            run(function)
        else:
            function()


@contextmanager
def command_line(program: str, words: Sequence[str]) -> Iterator[None]:
    """Let this process have another command line for a while, as scripts read it.

    >>> with command_line("train", ["--n", "3"]):
    ...     sys.argv
    ['train', '--n', '3']
    """
    before = sys.argv
    sys.argv = [program, *words]
    try:
        yield
    finally:
        sys.argv = before
