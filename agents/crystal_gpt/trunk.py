"""The causal transformer: pre-normalised blocks with a cache of keys and values."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional


@dataclass
class Cache:
    """Keys and values (B, H, T, D) of each block for the tokens so far."""

    keys: list[Tensor] = field(default_factory=list)
    values: list[Tensor] = field(default_factory=list)

    def rows(self, index: Tensor) -> Cache:
        """The cache of some of the sequences."""
        return Cache([key[index] for key in self.keys], [value[index] for value in self.values])


class Block(nn.Module):
    """Attention and perceptron, each behind a layer normalisation and around a shortcut."""

    def __init__(self, width: int, heads: int, key: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.before, self.between = nn.LayerNorm(width), nn.LayerNorm(width)
        self.inward = nn.Linear(width, 3 * heads * key)
        self.outward = nn.Linear(heads * key, width)
        self.perceptron = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.drop = nn.Dropout(dropout)

    def forward(self, tokens: Tensor, cache: Cache | None = None, index: int = 0) -> Tensor:
        """(B, T, W) tokens, seen with those in the cache, which grows by them."""
        batch, length, _ = tokens.shape
        mixed = self.inward(self.before(tokens)).view(batch, length, 3, self.heads, -1)
        query, key, value = mixed.permute(2, 0, 3, 1, 4)
        if cache is not None:
            if index < len(cache.keys):
                key = torch.cat([cache.keys[index], key], 2)
                value = torch.cat([cache.values[index], value], 2)
                cache.keys[index], cache.values[index] = key, value
            else:
                cache.keys.append(key)
                cache.values.append(value)
        dropout = self.dropout if self.training else 0.0
        seen = functional.scaled_dot_product_attention(query, key, value, dropout_p=dropout, is_causal=length > 1)
        tokens = tokens + self.drop(self.outward(seen.transpose(1, 2).reshape(batch, length, -1)))
        out: Tensor = tokens + self.drop(self.perceptron(self.between(tokens)))
        return out


class Trunk(nn.Module):
    """Blocks and a last normalisation; a token sees itself and those before it."""

    def __init__(self, layers: int, width: int, heads: int, key: int, dropout: float) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(width, heads, key, dropout) for _ in range(layers))
        self.last = nn.LayerNorm(width)
        for block in self.blocks:
            assert isinstance(block, Block)
            for linear in (block.outward, block.perceptron[2]):
                assert isinstance(linear, nn.Linear)
                nn.init.normal_(linear.weight, std=0.02 / (2 * layers) ** 0.5)
                nn.init.zeros_(linear.bias)

    def forward(self, tokens: Tensor, cache: Cache | None = None) -> Tensor:
        """(B, T, W) from tokens (B, T, W); one at a time, or all at once into an empty cache."""
        for index, block in enumerate(self.blocks):
            tokens = block(tokens, cache, index)
        out: Tensor = self.last(tokens)
        return out
