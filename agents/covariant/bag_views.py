"""What the agent sees of elements and compositions: plain counts, or the features and embeddings of chemistry."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from megen_gym.agents.covariant.canvas import Canvas
from megen_gym.agents.covariant.heads import mlp
from megen_gym.agents.covariant.settings import CovariantSettings
from megen_gym.agents.polysrl.compositions import Compositions
from megen_gym.agents.polysrl.elements import LAST, MAGPIE, check_elements, network_features
from megen_gym.agents.polysrl.network import CompositionNetwork, Shape
from megen_gym.errors import InputError
from megen_gym.structure import FloatArray, IntArray

PROPERTIES = (
    "MendeleevNumber", "MeltingT", "Column", "Row", "CovalentRadius", "Electronegativity", "NValence", "NdValence",
    "NUnfilled", "GSvolume_pa",
)  # fmt: skip
"""What stands for an element, standardised over the periodic table (Ward et al., npj Comput. Mater. 2, 16028)."""

MEMORY = 65536
"""Compositions whose embedding is remembered."""


class CountsView(nn.Module):
    """Elements as they are numbered, bags as counts and shares of each of the S symbols; nothing is learned.

    Attributes:
        size: 2 S.
        kinds: (S, S) the symbols themselves.
    """

    kinds: Tensor

    def __init__(self, symbols: int, scale: float) -> None:
        super().__init__()
        self.scale, self.size = scale, 2 * symbols
        self.register_buffer("kinds", torch.eye(symbols), persistent=False)

    def forward(self, canvas: Canvas) -> Tensor:
        """(B, 2 S) numbers of what is left over `scale`, and shares of it."""
        fraction = canvas.bag / canvas.bag.sum(-1, keepdim=True).clip(1)
        return torch.cat([canvas.bag / self.scale, fraction], -1)

    def element_head(self, inputs: int, width: int) -> nn.Module:
        """(B, inputs) -> (B, S) logits."""
        return mlp(inputs, width, self.size // 2)


class CompositionView(nn.Module):
    """Elements by their properties, and what is in the bag and on the canvas by a frozen composition encoder.

    Of each of the two: its size, the mean properties of its elements, and a learned projection of its embedding, the
    mean of the encoder's Gaussian with the mean and the spread of the logarithms of its widths. Embeddings are
    standardised by those of the pure elements, since those of alloys lie close together. Nothing has the embedding 0.

    No weight belongs to one element, so that elements never placed before, or never together, are seen by what they
    are like; weights fit a task of any symbols. Every composition is encoded once, as long as it is remembered.

    Args:
        numbers: (S,) atomic numbers of the symbols, X's 0 first.
        scale: Typical number of atoms.
        width: Of the projected embedding.
        network: The encoder; its weights stay as they are, and are part of the state dict.
        loaded: Whether the network has its weights; if not, :meth:`load_state_dict` must bring them.

    Attributes:
        size: 2 (1 + K + width).
        kinds: (S, K) a flag for X, one for any element, and its :data:`PROPERTIES`.

    Raises:
        InputError: for numbers that do not begin with X, or an element without features.
    """

    kinds: Tensor
    numbers: Tensor
    centre: Tensor
    spread: Tensor

    def __init__(
        self, numbers: IntArray, scale: float, width: int, network: CompositionNetwork, loaded: bool = True
    ) -> None:
        super().__init__()
        if numbers.ndim != 1 or len(numbers) < 2 or numbers[0] != 0 or (numbers[1:] <= 0).any():
            raise InputError(f"the atomic numbers of the symbols are {numbers.tolist()}; expected 0, then those above")
        check_elements(numbers, network.shape.element_features)
        self.scale, self.loaded = scale, loaded
        self.register_buffer("kinds", torch.from_numpy(element_kinds(numbers)).float(), persistent=False)
        self.register_buffer("numbers", torch.from_numpy(numbers), persistent=False)
        self.network = network.requires_grad_(False)
        length = network.shape.hidden_dim + 2
        self.register_buffer("centre", torch.zeros(length))
        self.register_buffer("spread", torch.ones(length))
        self.project = nn.Linear(length, width, bias=False)
        self.size = 2 * (1 + self.kinds.shape[1] + width)
        self._known, self._place = torch.zeros(0), dict[bytes, int]()
        if loaded:
            self._standardise()

    def forward(self, canvas: Canvas) -> Tensor:
        """(B, size) of what is left in the bag, then of what is on the canvas."""
        placed = nn.functional.one_hot(canvas.species, len(self.kinds)).sum(1)
        counts = torch.stack([canvas.bag, placed.to(canvas.bag)], 1)[..., 1:]
        total = counts.sum(-1, keepdim=True)
        mean = (counts / total.clip(1)) @ self.kinds[1:]
        embedding = self.project(self.embed(counts.flatten(0, 1))).view(len(counts), 2, -1)
        return torch.cat([total / self.scale, mean, embedding], -1).flatten(1)

    def element_head(self, inputs: int, width: int) -> nn.Module:
        """(B, inputs), (B, S) bag -> (B, S) logits."""
        return ElementHead(inputs, width, self.kinds, self.scale)

    @torch.no_grad()
    def embed(self, counts: Tensor) -> Tensor:
        """(R, H + 2) standardised embeddings of counts (R, S - 1), 0 for nothing."""
        if not self.loaded:
            raise InputError("the composition encoder of this policy has no weights yet; load the run's weights first")
        rows, which = np.unique(counts.cpu().numpy().astype(np.int32), axis=0, return_inverse=True)
        keys = [row.tobytes() for row in rows]
        if any(key not in self._place for key in keys):
            if len(self._place) + len(keys) > MEMORY:
                self._forget()
            new = np.array([row for row, key in enumerate(keys) if key not in self._place])
            found = self._encode(rows[new])
            self._place |= {keys[row]: len(self._place) + place for place, row in enumerate(new)}
            self._known = torch.cat([self._known.to(found), found])
        place = torch.tensor([self._place[key] for key in keys])[torch.from_numpy(which.reshape(-1))]
        return self._known[place.to(self._known.device)]

    def _encode(self, counts: IntArray) -> Tensor:
        """(R, H + 2) of different counts (R, S - 1), in one pass of the network."""
        found = self.centre.new_zeros(len(counts), len(self.centre))
        there = counts.sum(1) > 0
        if there.any():
            counts = counts[there] // np.gcd.reduce(counts[there], axis=1)[:, None]
            some = Compositions.of_counts(counts, self.numbers[1:].cpu().numpy())
            raw = self._raw(some.numbers, some.amounts)
            found[torch.from_numpy(there).to(found.device)] = (raw - self.centre) / self.spread
        return found

    def _raw(self, numbers: IntArray, amounts: FloatArray) -> Tensor:
        """(R, H + 2) mean, then mean and standard deviation of the log widths."""
        device = self.centre.device
        mean, log_std = self.network(torch.from_numpy(numbers).to(device), torch.from_numpy(amounts).to(self.centre))
        return torch.cat([mean, log_std.mean(1, keepdim=True), log_std.std(1, keepdim=True)], 1)

    @torch.no_grad()
    def _standardise(self) -> None:
        """Centre and spread from the pure elements; one spread for the whole mean, whose axes mean nothing alone."""
        every = np.arange(1, LAST + 1)
        every = every[network_features(self.network.shape.element_features)[every].any(1)]
        raw = self._raw(every[:, None], np.ones((len(every), 1)))
        self.centre.copy_(raw.mean(0))
        spread = raw.std(0)
        spread[:-2] = spread[:-2].square().mean().sqrt()
        self.spread.copy_(spread.clip(1e-6))

    def _forget(self) -> None:
        self._known, self._place = torch.zeros(0), {}

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> CompositionView:
        self._forget()
        return super()._apply(fn, recurse)  # type: ignore[no-any-return, no-untyped-call]

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self._forget()
        super()._load_from_state_dict(*args, **kwargs)
        self.loaded = True


class ElementHead(nn.Module):
    """One network that judges every element by its properties and by how much of it is left."""

    kinds: Tensor

    def __init__(self, inputs: int, width: int, kinds: Tensor, scale: float) -> None:
        super().__init__()
        self.scale = scale
        self.register_buffer("kinds", kinds, persistent=False)
        self.net = mlp(inputs + kinds.shape[1] + 2, width, 1)

    def forward(self, context: Tensor, bag: Tensor) -> Tensor:
        """(B, inputs) and atoms left (B, S) -> (B, S) logits."""
        size, symbols = bag.shape
        left = torch.stack([bag / self.scale, bag / bag.sum(-1, keepdim=True).clip(1)], -1)
        kinds = self.kinds.expand(size, -1, -1)
        logits: Tensor = self.net(torch.cat([context[:, None].expand(-1, symbols, -1), kinds, left], -1))
        return logits[..., 0]


def element_kinds(numbers: IntArray) -> FloatArray:
    """(S, 2 + P) of symbols with atomic `numbers` (S,): whether it is X, whether an element, and its properties.

    Raises:
        InputError: for an element without properties.
    """
    check_elements(numbers, "magpie")
    columns = [MAGPIE.index(name) for name in PROPERTIES]
    empty = (numbers == 0)[:, None]
    return np.concatenate([empty, ~empty, network_features("magpie")[numbers][:, columns]], 1)


def make_view(symbols: int, settings: CovariantSettings) -> CountsView | CompositionView:
    """What the settings ask for.

    Raises:
        InputError: for a composition encoder that cannot be read, or atomic numbers that do not fit the symbols.
    """
    s = settings
    if s.bag_encoder == "counts":
        return CountsView(symbols, s.bag_scale)
    numbers = np.array(s.numbers, dtype=np.int64)
    if len(numbers) != symbols:
        raise InputError(
            f"bag_encoder 'composition' was given the atomic numbers {numbers.tolist()} for {symbols} symbols; "
            "give one for each symbol, 0 for X"
        )
    if s.composition_shape is not None:
        empty = CompositionNetwork(Shape(**s.composition_shape))
        return CompositionView(numbers, s.bag_scale, s.width, empty, loaded=False)
    from megen_gym.agents.polysrl.model import CompositionEncoder

    network = CompositionEncoder.load(s.composition_encoder, s.composition_dir).network
    copied = CompositionNetwork(network.shape)
    copied.load_state_dict(network.state_dict())
    return CompositionView(numbers, s.bag_scale, s.width, copied)
