"""The covariant agent: one pass that draws an action, or scores one, for every structure of a batch."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from megen_gym.actions import FocalCodec, Placement
from megen_gym.agents.covariant.bag_views import ElementHead, make_view
from megen_gym.agents.covariant.canvas import Canvas, local_frames
from megen_gym.agents.covariant.distributions import MaskedCategorical, SphereDensity, WindowedMixture, settle
from megen_gym.agents.covariant.encoder import Encoder, Features
from megen_gym.agents.covariant.geometry import PlacementField
from megen_gym.agents.covariant.heads import DirectionHead, DistanceHead, mlp, pool
from megen_gym.agents.covariant.settings import CovariantSettings
from megen_gym.agents.covariant.sphere import SphereGrid
from megen_gym.rules import PlacementRules

ALMOST_NONE = 1e-6
"""Weight of a focus or a distance with no room beside it: drawn only if there is room nowhere."""


class Verdict(NamedTuple):
    """What the agent does with, or says about, a batch of observations.

    Attributes:
        action: (B, 6) in the box.
        value: (B, 1) expected return.
        log_prob: (B,) nats; density in Å and steradian.
        entropy: (B,) nats, of each choice given the ones before it.
    """

    action: Tensor
    value: Tensor
    log_prob: Tensor
    entropy: Tensor


class CovariantAgent(nn.Module):
    """Focus, element, distance and direction of the next atom, from features that turn with the structure.

    p(action) = p(focus) p(element | focus) p(distance | focus, element) p(direction | focus, element, distance).
    Turning, shifting or renumbering the structure leaves probabilities, entropy and value as they are (Simm, Pinsler,
    Csányi, Hernández-Lobato, ICLR 2021, openreview jEYKjPE1xYN; MeGen: Mach. Learn.: Sci. Technol. 4, 025032,
    doi 10.1088/2632-2153/acdc03). Unlike there, the densities are confined to where the placement rules leave room.
    On an empty canvas only the element counts; after the element X (stop) only focus and element.

    Args:
        symbols: Number of symbols, X included.
        settings: Sizes and rules.
    """

    edges: Tensor
    middles: Tensor
    around: Tensor

    def __init__(self, symbols: int, settings: CovariantSettings) -> None:
        super().__init__()
        s, width = settings, settings.width
        self.view = make_view(symbols, s)
        kinds, whole = self.view.kinds.shape[1], 2 * width + self.view.size
        self.settings = settings
        self.codec = FocalCodec(*s.distance_range)
        rules = PlacementRules(s.min_distance, s.max_distance, s.windows)
        self.field = PlacementField(rules, s.penalty, s.margin)
        highest = min(s.max_distance, max((high for _, high in s.windows), default=s.max_distance))
        self.reach = s.distance_range[1] + min(highest, 2 * s.distance_range[1])
        self.grid = SphereGrid(s.cells, s.refine)
        self.encoder = Encoder(kinds, s.lmax, s.channels, s.layers, width, s.cutoff, s.num_radial, self.view.size)
        self.focus_head = mlp(width + whole, width, 1)
        self.element_head = self.view.element_head(width + whole, width)
        self.distance_head = DistanceHead(width + kinds, width, s.num_gaussians, *s.distance_range)
        context = width + kinds + s.distance_bins
        self.direction_head = DirectionHead(context, s.lmax, s.channels, width, s.series, s.beta, self.grid)
        self.value_head = mlp(whole, width, 1, gain=1.0)
        edges = torch.linspace(*s.distance_range, s.distance_bins + 1, dtype=torch.float64)
        self.register_buffer("edges", edges, persistent=False)
        self.register_buffer("middles", (edges[1:] + edges[:-1])[None] / 2, persistent=False)
        self.register_buffer("around", SphereGrid(s.coarse).centres, persistent=False)

    @property
    def dtype(self) -> torch.dtype:
        """Of the parameters; observations are converted to it."""
        return self.encoder.embed.weight.dtype

    def look(self, observation: dict[str, Tensor]) -> tuple[Canvas, Features, Tensor]:
        """The canvas, the features of its atoms, and the (B, 2 D + V) summary of each structure."""
        canvas = Canvas.from_observation(observation, self.dtype)
        bag = self.view(canvas)
        features = self.encoder(canvas, bag, self.view.kinds)
        return canvas, features, pool(features.scalars, canvas, bag, self.settings.bag_scale)

    def value(self, observation: dict[str, Tensor]) -> Tensor:
        """(B, 1) expected returns."""
        value: Tensor = self.value_head(self.look(observation)[2])
        return value

    def forward(
        self, observation: dict[str, Tensor], action: Tensor | None = None, deterministic: bool = False
    ) -> Verdict:
        """Draw an action (B, 6) for every observation, or score the one given."""
        canvas, features, whole = self.look(observation)
        given = self._read(action.to(self.dtype), canvas) if action is not None else None

        with torch.no_grad():
            frames = local_frames(canvas.vectors, canvas.others)
            around, present = canvas.surroundings(self.reach)
            local = around @ frames
            room = self._room(local, present, self.middles[:, 1::3]).mean(-1)
        logits = self.focus_head(torch.cat([features.scalars, whole[canvas.structure]], -1))[:, 0]
        focuses = MaskedCategorical(logits[canvas.row], canvas.focus_mask * room[canvas.row])
        focus = settle(focuses, given.focus if given else None, deterministic)

        node = canvas.row.gather(1, focus[:, None])[:, 0]
        scalars, frame, local, present = features.scalars[node], frames[node], local[node], present[node]
        elements = MaskedCategorical(self._judge(torch.cat([scalars, whole], -1), canvas.bag), canvas.element_mask)
        element = settle(elements, given.element if given else None, deterministic)

        context = torch.cat([scalars, self.view.kinds[element]], -1)
        with torch.no_grad():
            room = self._room(local, present, self.middles)
        logits, mean, std = self.distance_head(context)
        distances = WindowedMixture(logits, mean, std, self.edges, room)
        drawn = settle(distances, given.distance if given else None, deterministic)
        # What is drawn is scored as the stored action will be read, so that both see the same last digit.
        sketch = Placement(focus, element, drawn, frame[:, :, 2])
        distance = (given or self._read(self._write(sketch, canvas), canvas)).distance

        near = (distance[:, None] - self.middles.to(self.dtype)) * len(self.middles[0]) / self.distance_head.window
        log_q = self.direction_head(features.fields[:, node], torch.cat([context, torch.exp(-(near**2))], -1), frame)
        log_w = partial(self._log_w, local, present, distance[:, None])
        directions = SphereDensity(
            log_q + log_w(self.grid.centres), self.grid, lambda cell: log_w(self.grid.parts(cell)), frame
        )
        if given is None:
            action = self._write(sketch._replace(direction=settle(directions, None, deterministic)), canvas)
        assert action is not None
        direction = (given or self._read(action, canvas)).direction

        chosen = canvas.focus_mask.sum(-1) > 0
        anywhere = (canvas.n_atoms > 0) & (element > 0)
        where = distances.log_prob(distance) + directions.log_prob(direction)
        log_prob = torch.where(chosen, focuses.log_prob(focus), 0) + elements.log_prob(element)
        entropy = torch.where(chosen, focuses.entropy(), 0) + elements.entropy()
        return Verdict(
            action,
            self.value_head(whole),
            log_prob + torch.where(anywhere, where, 0),
            entropy + torch.where(anywhere, distances.entropy() + directions.entropy(), 0),
        )

    def _judge(self, context: Tensor, bag: Tensor) -> Tensor:
        """(B, S) logits of the elements."""
        head = self.element_head
        logits: Tensor = head(context, bag) if isinstance(head, ElementHead) else head(context)
        return logits

    def _write(self, placement: Placement, canvas: Canvas) -> Tensor:
        action: Tensor = self.codec.encode(placement, canvas.focus_mask, canvas.element_mask).clip(-1, 1)
        return action

    def _read(self, action: Tensor, canvas: Canvas) -> Placement:
        return self.codec.decode(action, canvas.focus_mask, canvas.element_mask)

    @torch.no_grad()
    def _log_w(self, local: Tensor, present: Tensor, distance: Tensor, directions: Tensor) -> Tensor:
        """(B, D) log weight of the directions at the distance (B, 1) from the foci."""
        return self.field.along(local, present, distance, directions.to(local.dtype))[:, 0]

    def _room(self, local: Tensor, present: Tensor, distances: Tensor) -> Tensor:
        """(F, R) share of the coarse directions in which the rules hold, at R distances from F foci; never zero."""
        log_w = self.field.along(local, present, distances.to(local.dtype), self.around.to(local.dtype))
        return log_w.exp_().mean(-1) + ALMOST_NONE
