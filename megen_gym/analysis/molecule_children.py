"""Child processes that read the bonds of molecules: one that hangs or crashes costs its molecule and nothing else.

Before each molecule a child sets the alarm that will end it, so that it also ends when the parent has been killed.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from ase import Atoms

from megen_gym.analysis.molecule_bonds import BondRules, Reading, read_bonds
from megen_gym.channel import open_channel
from megen_gym.children import Child, shared
from megen_gym.errors import InputError

EACH = 16
"""Molecules for which it is worth to start one child more."""

GRACE = 60.0
"""Seconds that a child may be late before it is killed from outside."""

SERVE = "megen_gym.analysis.molecule_children:serve"


def read_in_children(
    molecules: Sequence[tuple[int, Atoms]], rules: BondRules, limit: float | None, workers: int = 1
) -> Iterator[tuple[int, Reading]]:
    """Read the bonds of molecules in `workers` processes.

    Args:
        molecules: Number and molecule.
        rules: What counts as valid.
        limit: Seconds per molecule; None for no limit.
        workers: Processes.

    Yields:
        The number of a molecule and its reading, as they are ready; ``timeout`` and ``crash`` among the reasons.
    """
    patience = None if limit is None else limit + GRACE
    count = min(workers, -(-len(molecules) // EACH))
    children = [Child(SERVE, {"rules": asdict(rules), "limit": limit}, patience) for _ in range(count)]
    try:
        for (index, _), answer in shared(molecules, children, _question):
            yield index, decode(answer) if "died" not in answer else Reading(None, _reason(answer["code"], limit))
    except InputError as error:
        raise RuntimeError(f"a child process for bonds of molecules did not start: {error}") from None


def _question(piece: tuple[int, Atoms]) -> dict[str, Any]:
    return {"numbers": piece[1].numbers.tolist(), "positions": piece[1].positions.tolist()}


def _reason(code: int | None, limit: float | None) -> str:
    late = code is None or code == -signal.SIGALRM
    return f"timeout ({limit:g} s)" if late and limit else f"crash (exit code {code})"


def decode(fields: dict[str, Any]) -> Reading:
    """A reading from its JSON form."""
    bonds = tuple((int(i), int(j), float(order)) for i, j, order in fields["bonds"])
    rings = tuple((int(size), bool(aromatic), bool(fused)) for size, aromatic, fused in fields["rings"])
    return Reading(fields["smiles"], fields["reason"], bonds, rings)


def serve() -> None:
    """Child process: read rules and time limit, then molecules; answer for each."""
    from rdkit.rdBase import BlockLogs

    messages, answer = open_channel()
    settings = messages.get()
    rules, limit = BondRules(**settings["rules"]), settings["limit"] or 0.0
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGALRM])
    answer({"ready": True})
    silence = BlockLogs()
    while silence:
        question = messages.get()
        signal.setitimer(signal.ITIMER_REAL, limit)
        reading = read_bonds(question["numbers"], question["positions"], rules)
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        answer(asdict(reading))
