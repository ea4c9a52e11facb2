"""The networks of the published CryinGAN, layer for layer.

B structures of N atoms, E elements. Only what they compute is published; that BatchNorm's `eps` is 0.8 there looks
like a slip (PyTorch's second argument is eps, not momentum) and makes an untrained generator put all atoms at one
point, so it is an argument here.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn


class LeakyReLU(nn.Module):
    """max(x, 0.2 x); its slope is a constant to autograd, which spares the gradient penalty a pass of zeros."""

    def forward(self, x: Tensor) -> Tensor:
        one, slope = (torch.full((), value, dtype=x.dtype, device=x.device) for value in (1.0, 0.2))
        return x * torch.where(x.detach() > 0, one, slope)


class PublishedGenerator(nn.Module):
    """z (B, latent_dim) -> fractions (B, N, 3) in (0, 1).

    Args:
        counts: Atoms of each element.
        latent_dim: Random numbers for a structure.
        gen_channels_1: Channels after the first layer.
        bn_eps: BatchNorm's eps; 0.8 as published.
    """

    def __init__(
        self, counts: tuple[int, ...], latent_dim: int = 64, gen_channels_1: int = 128, bn_eps: float = 0.8
    ) -> None:
        super().__init__()
        self.latent_size, self.atoms, self.channels = latent_dim, sum(counts), gen_channels_1
        self.l1 = nn.Sequential(nn.Linear(latent_dim, gen_channels_1 * self.atoms), nn.ReLU())
        self.map1 = self._layer(gen_channels_1, 256, (1, 3), bn_eps)
        self.map2 = self._layer(256, 512, (1, 1), bn_eps)
        self.map3 = self._layer(512, 256, (1, 1), bn_eps)
        self.map4 = nn.ConvTranspose2d(256, 1, (1, 1))
        _xavier(self)

    @staticmethod
    def _layer(channels_in: int, channels_out: int, kernel: tuple[int, int], eps: float) -> nn.Sequential:
        convolution = nn.ConvTranspose2d(channels_in, channels_out, kernel)
        return nn.Sequential(convolution, nn.BatchNorm2d(channels_out, eps), nn.ReLU(inplace=True))

    def forward(self, z: Tensor) -> Tensor:
        x = self.l1(z).view(len(z), self.channels, self.atoms).transpose(1, 2)
        for block in (self.map1, self.map2, self.map3):
            convolution, norm, activation = block
            assert isinstance(convolution, nn.ConvTranspose2d)
            rows = _pointwise(x, convolution)
            x = activation(norm(rows.flatten(0, -2)[..., None, None])).view(rows.shape)
        return torch.sigmoid(_pointwise(x, self.map4))[..., 0]


def _pointwise(x: Tensor, convolution: nn.ConvTranspose2d) -> Tensor:
    """A transposed convolution over single atoms, (..., C) -> (..., width, C'), or (..., C') where it is 1 wide.

    As matrix products with the channels last, which one CPU core does in two thirds of the time.
    """
    weight, bias = convolution.weight[:, :, 0], convolution.bias
    assert bias is not None
    channels, columns = weight.shape[1:]
    made = nn.functional.linear(x, weight.permute(2, 1, 0).flatten(0, 1), bias.repeat(columns))
    return made.view(*made.shape[:-1], columns, channels) if columns > 1 else made


class PublishedCritic(nn.Module):
    """A table with one row per atom (B, N, K) -> ten scores (B, 10): atoms one by one, the mean of each element, dense.

    With K = 3 the coordinate discriminator, with K = n_neighbors the distance discriminator.
    """

    def __init__(self, counts: tuple[int, ...], columns: int = 3) -> None:
        super().__init__()
        self.counts = counts
        self.conv1 = nn.Conv2d(1, 512, (1, columns))
        self.conv2 = nn.Conv2d(512, 512, (1, 1))
        self.conv3 = nn.Conv2d(512, 256, (1, 1))
        self.activation = LeakyReLU()
        size = 256 * len(counts)
        self.dense = nn.Sequential(nn.Linear(size, 1000), LeakyReLU(), nn.Linear(1000, 200), LeakyReLU())
        self.output = nn.Linear(200, 10)
        _xavier(self)

    def forward(self, table: Tensor) -> Tensor:
        x = table
        for layer in (self.conv1, self.conv2, self.conv3):
            x = self.activation(nn.functional.linear(x, layer.weight.flatten(1), layer.bias))
        pooled = torch.stack([part.mean(1) for part in torch.split(x, list(self.counts), 1)], -1)
        return cast(Tensor, self.output(self.dense(pooled.flatten(1))))


def _xavier(module: nn.Module) -> None:
    for layer in module.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
            nn.init.xavier_uniform_(layer.weight)
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)
