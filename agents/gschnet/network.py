"""The network of G-SchNet: features of a canvas, and from them what is placed next and how far from what.

After Gebauer et al., Nat. Commun. 13, 973 (2022), in the sizes of schnetpack-gschnet 1.1: 1,170,768 weights for five
elements.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from megen_gym.agents.gschnet.collate import Reach
from megen_gym.agents.gschnet.conditions import Conditioning
from megen_gym.agents.gschnet.grid import Bins, DistanceDensity
from megen_gym.agents.gschnet.layers import perceptron
from megen_gym.agents.gschnet.schnet import SchNet
from megen_gym.agents.gschnet.steps import Canvas, Steps

BINS_PER_ANGSTROM = 30


@dataclass(frozen=True)
class Shape:
    """Sizes.

    Attributes:
        atom_types: Atomic numbers that may be placed; the stop type follows them.
        model: By distances to neighbours, or by direction and distance from the focus.
        features, n_interactions, n_rbf: Of SchNet.
        model_cutoff, prediction_cutoff, placement_cutoff: Å.
        smooth: Whether filters fade towards the cut-off.
        head_layers, head_hidden: Of the perceptrons that decide.
        min_dist, max_dist: Å, span of the distance bins; by default up to the sum of the last two cut-offs.
        n_bins: By default 30 per Å, and one.
        average_type_distributions: Average what the rows say of the next type instead of multiplying it.
        label_width: Smearing of target distances in widths of a bin, squared and times two; below 0.01 for none.
        origin: Whether there is an origin token.
        origin_type, focus_type, stop_type: Atomic numbers that stand for the tokens.
    """

    atom_types: tuple[int, ...]
    model: Literal["schnet", "equivariant"] = "schnet"
    features: int = 128
    n_interactions: int = 9
    n_rbf: int = 25
    model_cutoff: float = 10.0
    prediction_cutoff: float = 5.0
    placement_cutoff: float = 1.7
    smooth: bool = True
    head_layers: int = 5
    head_hidden: int = 256
    min_dist: float = 0.0
    max_dist: float | None = None
    n_bins: int | None = None
    average_type_distributions: bool = False
    label_width: float = 0.1
    origin: bool = True
    origin_type: int = 121
    focus_type: int = 122
    stop_type: int = 123

    @property
    def farthest(self) -> float:
        """Å, centre of the last distance bin."""
        return self.prediction_cutoff + self.placement_cutoff if self.max_dist is None else self.max_dist

    @property
    def bins(self) -> int:
        """Number of distance bins."""
        if self.n_bins is not None:
            return self.n_bins
        return math.ceil(BINS_PER_ANGSTROM * self.farthest) + 1

    @property
    def distance_bins(self) -> Bins:
        """Of the distances to a new atom."""
        return Bins(self.min_dist, self.bin_width, self.bins)

    @property
    def bin_width(self) -> float:
        """Å between the centres of distance bins."""
        return (self.farthest - self.min_dist) / (self.bins - 1)


class GSchNet(nn.Module):
    """Types and distances of the next atom.

    Args:
        shape: Sizes.
        conditioning: Embeds what is asked of a molecule; None for nothing.
    """

    lookup: Tensor

    def __init__(self, shape: Shape, conditioning: Conditioning | None = None) -> None:
        super().__init__()
        self.shape, self.conditioning = shape, conditioning
        self.schnet = SchNet(
            shape.features, shape.n_interactions, shape.n_rbf, shape.model_cutoff, shape.smooth, shape.focus_type
        )
        self.n_types = len(shape.atom_types) + 1
        extra = 0 if conditioning is None else conditioning.features
        self.type_head = perceptron(shape.features + extra, shape.head_hidden, self.n_types, shape.head_layers)
        self.distance_head = perceptron(shape.features + extra, shape.head_hidden, shape.bins, shape.head_layers)
        self.next_type = nn.Embedding(130, shape.features)
        lookup = torch.full((130,), -1)
        lookup[list(shape.atom_types)] = torch.arange(len(shape.atom_types))
        lookup[0] = lookup[shape.stop_type] = len(shape.atom_types)
        self.register_buffer("lookup", lookup, persistent=False)

    @property
    def reach(self) -> Reach:
        """How far the network looks."""
        s = self.shape
        return Reach(s.model_cutoff, s.prediction_cutoff, s.origin, s.origin_type)

    def embed(self, values: Mapping[str, Tensor]) -> Tensor | None:
        """(B, C) what is asked of the molecules, from each condition's values (B, K); None without conditions."""
        return None if self.conditioning is None else self.conditioning(values)

    def n_targets(self, steps: Steps) -> int:
        """Rows that the second loss is a mean over."""
        return len(steps.target_row)

    def rows(
        self, canvas: Canvas, given: Tensor | None, tables: Tensor | None = None, at_zero: Tensor | None = None
    ) -> Tensor:
        """(Q, F) features of the rows that decide, with those of the conditions beside them.

        Args:
            canvas: S canvases of B molecules.
            given: (B, C) embedded conditions.
            tables, at_zero: Filters, where they are known already.
        """
        seen: Tensor = self.schnet(canvas, tables, at_zero).index_select(0, canvas.seen_row)
        if given is None:
            return seen
        return torch.cat([seen, given.index_select(0, canvas.molecule[canvas.seen_canvas])], 1)

    def type_log_prob(self, rows: Tensor, seen_canvas: Tensor, n_canvases: int) -> Tensor:
        """(S, types + 1) what comes next, stop last: the normalised product (or mean) of what each row says."""
        each = torch.log_softmax(self.type_head(rows), 1)
        if self.shape.average_type_distributions:
            total = each.new_zeros(n_canvases, self.n_types).index_add(0, seen_canvas, each.exp())
            return torch.log(total / total.sum(1, keepdim=True))
        return torch.log_softmax(each.new_zeros(n_canvases, self.n_types).index_add(0, seen_canvas, each), 1)

    def distance_log_prob(self, rows: Tensor, number: Tensor) -> Tensor:
        """(T, bins) distances of a new atom of atomic number (T,) to the nodes of rows (T, F)."""
        chosen = self.next_type(number)
        if chosen.shape[1] < rows.shape[1]:
            chosen = torch.cat([chosen, chosen.new_ones(len(rows), rows.shape[1] - chosen.shape[1])], 1)
        return torch.log_softmax(self.distance_head(rows * chosen), 1)

    def density(self, canvas: Canvas, rows: Tensor, placing: Tensor, number: Tensor) -> DistanceDensity:
        """Where atoms of atomic numbers (P,) go on the canvases `placing` (P,), ascending.

        Args:
            canvas: S canvases.
            rows: (Q, F) of :meth:`rows`.
            placing: Canvases.
            number: Of the new atoms.
        """
        which = canvas.seen_canvas.new_full((canvas.n_canvases,), -1)
        which[placing] = torch.arange(len(placing), device=placing.device)
        row = (which[canvas.seen_canvas] >= 0).nonzero()[:, 0]
        row = row[which[canvas.seen_canvas[row]].argsort(stable=True)]
        owner = which[canvas.seen_canvas[row]]
        count = torch.bincount(owner, minlength=len(placing))
        slot = torch.arange(len(row), device=row.device) - (count.cumsum(0) - count)[owner]
        width = int(count.max())
        places = rows.new_zeros(len(placing), width, 3)
        places[owner, slot] = canvas.place[row].to(rows.dtype)
        tables = rows.new_zeros(len(placing), width, self.shape.bins)
        tables = tables.index_put((owner, slot), self.distance_log_prob(rows[row], number[owner]))
        return DistanceDensity(places, tables, self.shape.distance_bins)

    def first_radius(self, density: DistanceDensity, uniform: Tensor | None) -> tuple[Tensor, Tensor]:
        """Å from the origin (P,) of the first atom, drawn among the distance bins, and its log-probability (P,).

        Args:
            density: Of the origin and the focus token upon it.
            uniform: (P,) random numbers; None for the likeliest bins.
        """
        line = density.tables.sum(1).double().log_softmax(1)
        total = line.exp().cumsum(1)
        index = line.argmax(1) if uniform is None else (total <= uniform[:, None] * total[:, -1:]).sum(1)
        index = index.clamp(max=line.shape[1] - 1)
        return density.bins.low + density.bins.width * index, line.gather(1, index[:, None])[:, 0]

    def first_log_prob(self, density: DistanceDensity, radius: Tensor) -> Tensor:
        """(P,) log-probability of first atoms (P,) Å from the origin, see :meth:`first_radius`."""
        line = density.tables.sum(1).double().log_softmax(1)
        return line.gather(1, density.bins.index(radius)[:, None])[:, 0]

    def labels(self, distance: Tensor) -> Tensor:
        """(T, bins) target distributions of distances (T,) in Å."""
        shape = self.shape
        centres = torch.linspace(shape.min_dist, shape.farthest, shape.bins, device=distance.device)
        clamped = distance.clamp(shape.min_dist, shape.farthest)[:, None]
        if shape.label_width < 0.01:
            return nn.functional.one_hot((clamped - centres).abs().argmin(1), shape.bins).to(distance.dtype)
        smeared = torch.exp(-((clamped - centres) ** 2) / (shape.label_width * shape.bin_width))
        return smeared / smeared.sum(1, keepdim=True)

    def losses(self, steps: Steps, given: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Published losses: of the next type, nats per step; of the distances, nats of divergence per row.

        Args:
            steps: What was done.
            given: (B, C) embedded conditions.
        """
        canvas = steps.canvas
        rows = self.rows(canvas, given)
        types = self.type_log_prob(rows, canvas.seen_canvas, canvas.n_canvases)
        type_loss = -types.gather(1, self.lookup[steps.next_number][:, None]).mean()
        if not len(steps.target_row):
            return type_loss, type_loss.new_zeros(())
        number = steps.next_number[canvas.seen_canvas[steps.target_row]]
        predicted = self.distance_log_prob(rows.index_select(0, steps.target_row), number)
        target = self.labels(steps.target)
        divergence = torch.xlogy(target, target) - target * predicted
        return type_loss, divergence.sum() / len(target)
