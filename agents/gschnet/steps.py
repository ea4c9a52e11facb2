"""Batches of building steps as the network sees them: packed rows, and each pair distance of a molecule once.

In the order of placement the canvas before a step is a *prefix* of the molecule. All steps of a molecule therefore
share one set of pair distances, and messages of all of them are one matrix product per channel.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, TypeVar

import torch
from torch import Tensor


@dataclass(frozen=True)
class Pairs:
    """Distances between the nodes of B molecules, each pair once.

    Attributes:
        index: (B, K, K) pair of two nodes; the number of pairs P where there is none.
        distance: (I,) Å.
        image: (I,) pair of each distance where pairs have several periodic images; None where I = P.
    """

    index: Tensor
    distance: Tensor
    image: Tensor | None = None


@dataclass(frozen=True)
class Canvas:
    """S canvases (steps) of B molecules, as packed rows.

    Node 0 of a molecule is the origin token, node k the k-th atom placed. Every canvas also has a focus token that sits
    on its focus node; the focus tokens come first among the packed rows, then the nodes of canvas 0, 1, ...

    Attributes:
        species: (B, K) atomic number of each node, the origin's type for node 0, 0 for padding.
        molecule: (S,) row among the molecules.
        slot: (S,) counts the canvases of a molecule.
        row_canvas: (R,) canvas of each node row.
        row_node: (R,) node of each node row.
        focus_row: (S,) node row on which the focus token sits.
        seen_canvas: (Q,) canvas of each row that decides.
        seen_row: (Q,) packed row of it, focus tokens included.
        place: (Q, 3) Å, where the rows that decide are, seen from the focus.
        slots: Canvases of a molecule at most.
        pairs: Distances between the nodes; None where the filters are known already.
    """

    species: Tensor
    molecule: Tensor
    slot: Tensor
    row_canvas: Tensor
    row_node: Tensor
    focus_row: Tensor
    seen_canvas: Tensor
    seen_row: Tensor
    place: Tensor
    slots: int
    pairs: Pairs | None = None

    @property
    def n_canvases(self) -> int:
        """S."""
        return len(self.molecule)


@dataclass(frozen=True)
class Steps:
    """What is to be learned: canvases and what was done next.

    Attributes:
        canvas: Before each step.
        next_number: (S,) atomic number that was placed, 0 for stop.
        target_row: (T,) index into the rows that decide (`seen_*`), of those in which an atom was placed.
        target: (T,) Å, distance of the new atom to each.
        new_place: (S, 3) Å, where the new atom is seen from the focus; anything where none was placed.
    """

    canvas: Canvas
    next_number: Tensor
    target_row: Tensor
    target: Tensor
    new_place: Tensor


B = TypeVar("B", Pairs, Canvas, Steps)


def moved(batch: B, device: torch.device | str) -> B:
    """The same batch on another device."""
    values: dict[str, Any] = {}
    for field in fields(batch):  # type: ignore[arg-type]
        value = getattr(batch, field.name)
        if isinstance(value, Tensor):
            value = value.to(device)
        elif isinstance(value, Pairs | Canvas):
            value = moved(value, device)  # type: ignore[type-var]
        values[field.name] = value
    return type(batch)(**values)
