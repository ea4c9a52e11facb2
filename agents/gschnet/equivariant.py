"""G-SchNet with directions: where an atom goes is a distance and a direction from the focus, after Symphony.

The type comes from the same SchNet as before. Around the focus the atoms that decide are written in spherical
harmonics, rho_klm = sum_j w_kl(h_j, type, r_j) Y_lm(r_j); products of these functions (of e3nn's real harmonics) see
angles, torsions and handedness, and what comes out are the coefficients of the logarithm of a density of directions.
Coefficients keep the natural parity (-1)^l: turn or mirror a molecule, and its density turns or mirrors with it.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from megen_gym.agents.covariant.encoder import DegreeLinear, Layer
from megen_gym.agents.covariant.sphere import harmonics
from megen_gym.agents.gschnet.conditions import Conditioning
from megen_gym.agents.gschnet.directions import DirectionDensity, Sphere, unit
from megen_gym.agents.gschnet.layers import linear, perceptron
from megen_gym.agents.gschnet.network import GSchNet, Shape
from megen_gym.agents.gschnet.steps import Canvas, Steps

SCALE = 10.0
"""Coefficients of densities as sharp as bond angles are some hundred times those of features."""

START = 0.01
"""Times the first weights of what atoms say directly, so that densities begin even."""


class EquivariantGSchNet(GSchNet):
    """Types, and distances and directions from the focus, of the next atom.

    Args:
        shape: Sizes.
        conditioning: Embeds what is asked of a molecule; None for nothing.

    Attributes:
        lmax, channels, series: Largest degree, functions around the focus, functions that the density is a sum of.
        spread: Radians by which target directions are smeared; bins of distances have about the same width.
    """

    lmax = 5
    channels = 24
    series = 4
    n_radial = 16
    width = 128
    spread = 0.035

    def __init__(self, shape: Shape, conditioning: Conditioning | None = None) -> None:
        super().__init__(shape, conditioning)
        size = shape.features + (0 if conditioning is None else conditioning.features)
        each = (self.channels + self.series) * (self.lmax + 1)
        self.weigh = perceptron(size + self.n_radial, shape.head_hidden, each, 3)
        self.context = linear(size, self.width)
        self.layers = nn.ModuleList(Layer(self.lmax, self.channels, self.channels, self.width) for _ in range(2))
        self.gates = nn.ModuleList(linear(self.width, self.channels * (self.lmax + 1)) for _ in range(2))
        self.mix = DegreeLinear(self.lmax, self.channels, self.series, START)
        self.sphere = Sphere(self.lmax)
        with torch.no_grad():
            cast(Tensor, self.weigh[-1].weight).view(self.lmax + 1, -1, shape.head_hidden)[:, self.channels :] *= START

    def n_targets(self, steps: Steps) -> int:
        """Placed atoms, which the second loss is a mean over."""
        return int((steps.next_number > 0).sum())

    def coefficients(self, canvas: Canvas, rows: Tensor, placing: Tensor, number: Tensor) -> Tensor:
        """(P, C, M) of the density of directions on the canvases `placing` (P,), see :meth:`density`."""
        which = placing.new_full((canvas.n_canvases,), -1)
        which[placing] = torch.arange(len(placing), device=placing.device)
        row = (which[canvas.seen_canvas] >= 0).nonzero()[:, 0]
        owner = which[canvas.seen_canvas[row]]
        asked = self._asked(rows, number, placing)
        place = canvas.place[row].to(rows.dtype)
        weights = self.weigh(torch.cat([self._asked(rows, number[owner], row), self._radial(place)], 1))
        weights = weights.view(len(row), self.lmax + 1, -1).index_select(1, self.sphere.degree)
        terms = harmonics(self.lmax, unit(place))[..., None] * weights
        total = terms.new_zeros(len(placing), *terms.shape[1:]).index_add(0, owner, terms)
        fields, direct = total.transpose(0, 1).split([self.channels, self.series], 2)
        scalars, found = self.context(asked), None
        for layer, gate in zip(self.layers, self.gates, strict=True):
            found, scalars = layer(found, fields, scalars)
            gates = gate(scalars).view(len(placing), self.lmax + 1, -1).transpose(0, 1)
            fields = found * (1 + gates)[self.sphere.degree]
        series = SCALE * (direct + self.mix(fields)).transpose(0, 1).transpose(1, 2)
        return self.sphere.limited(series)

    def density(self, canvas: Canvas, rows: Tensor, placing: Tensor, number: Tensor) -> DirectionDensity:
        """Where atoms of atomic numbers (P,) go on the canvases `placing` (P,), ascending.

        Args:
            canvas: S canvases.
            rows: (Q, F) of :meth:`rows`.
            placing: Canvases.
            number: Of the new atoms.
        """
        series = self.coefficients(canvas, rows, placing, number)
        tables = self.distance_log_prob(rows[placing], number)[:, None]
        places = rows.new_zeros(len(placing), 1, 3)
        return DirectionDensity(places, tables, self.shape.distance_bins, series, self.sphere)

    def losses(self, steps: Steps, given: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Of the next type, nats per step; of the distance and the direction, nats of divergence per placed atom.

        Args:
            steps: What was done; of first atoms only the distance counts.
            given: (B, C) embedded conditions.
        """
        canvas = steps.canvas
        rows = self.rows(canvas, given)
        types = self.type_log_prob(rows, canvas.seen_canvas, canvas.n_canvases)
        type_loss = -types.gather(1, self.lookup[steps.next_number][:, None]).mean()
        placing = (steps.next_number > 0).nonzero()[:, 0]
        if not len(placing):
            return type_loss, type_loss.new_zeros(())
        new = steps.new_place[placing].to(rows.dtype)
        total = divergence(
            self.labels(new.norm(dim=1)), self.distance_log_prob(rows[placing], steps.next_number[placing])
        )
        turns = canvas.row_node[canvas.focus_row[placing]] > 0
        if turns.any():
            later = placing[turns]
            series = self.coefficients(canvas, rows, later, steps.next_number[later])
            target = self.sphere.target(unit(new[turns]), self.spread)
            total = total + divergence(target, self.sphere.log_prob(series))
        return type_loss, total / len(placing)

    def _asked(self, rows: Tensor, number: Tensor, which: Tensor) -> Tensor:
        """(T, F) rows `which` (T,) times the embeddings of atomic numbers (T,)."""
        chosen = self.next_type(number)
        return rows[which] * nn.functional.pad(chosen, (0, rows.shape[1] - chosen.shape[1]), value=1.0)

    def _radial(self, place: Tensor) -> Tensor:
        """(T, n_radial) Gaussians of the distances to the focus."""
        cutoff = self.shape.prediction_cutoff
        centres = torch.linspace(0.0, cutoff, self.n_radial, dtype=place.dtype, device=place.device)
        distance = torch.sqrt((place**2).sum(1, keepdim=True) + 1e-12)
        return torch.exp(-0.5 * ((distance - centres) * ((self.n_radial - 1) / cutoff)) ** 2)


def divergence(target: Tensor, log_prob: Tensor) -> Tensor:
    """Nats, summed over distributions (P, K)."""
    return (torch.xlogy(target, target) - target * log_prob).sum()
