"""The grid around the focus: its voxels, the bound on what is left out, draws, and the published distribution."""

import runpy
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import chisquare
from torch import Tensor

from megen_gym.agents.gschnet.grid import Bins, DistanceDensity, Grid
from megen_gym.errors import InputError

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
published: Any = SimpleNamespace(**runpy.run_path(str(BENCHMARKS / "published_gschnet.py")))
BINS = Bins(0.0, 6.7 / 201, 202)
CENTRES = torch.arange(202) * BINS.width


def density(tables: Tensor, places: Tensor) -> DistanceDensity:
    """Of log-probabilities (P, R, bins) and places (P, R, 3)."""
    return DistanceDensity(places, tables.log_softmax(2), BINS)


def flat(rng: torch.Generator) -> DistanceDensity:
    """Nothing is known."""
    return density(torch.zeros(2, 3, 202), 2 * torch.randn(2, 3, 3, generator=rng))


def peaks(rng: torch.Generator) -> DistanceDensity:
    """Two sharp places at opposite sides of the focus, equally likely."""
    places = torch.tensor([[[0.0, 0, 0], [2.0, 0, 0], [0.0, 3, 0], [0, 0, 0.5]]])
    tables = torch.full((1, 4, 202), -60.0)
    for row in range(4):
        for point in ([1.3, 0.2, 0.1], [-0.9, -0.9, 0.4]):
            at = (places[0, row] - torch.tensor(point)).norm()
            tables[0, row] = torch.logaddexp(tables[0, row], -((CENTRES - at) ** 2) / 0.003)
    return density(tables, places)


def spikes(rng: torch.Generator) -> DistanceDensity:
    """Bins that have nothing to do with their neighbours."""
    return density(6 * torch.randn(3, 12, 202, generator=rng), 2 * torch.randn(3, 12, 3, generator=rng))


def smooth(rng: torch.Generator) -> DistanceDensity:
    """Like that of a trained network."""
    places = 1.5 * torch.randn(4, 9, 3, generator=rng)
    new = torch.nn.functional.normalize(torch.randn(4, 1, 3, generator=rng), dim=2) * 1.4
    return density(-((CENTRES - (places - new).norm(dim=2, keepdim=True)) ** 2) / 0.02, places)


@pytest.mark.parametrize(("spacing", "count"), [(0.05, 153_058), (0.1, 19_114)])
def test_the_grid_has_the_published_voxels(spacing: float, count: int) -> None:
    grid = Grid(spacing, 0.7, 1.7)
    assert grid.n_voxels == count
    mine = grid.voxels.flatten(0, 1)[grid.inside.flatten()].numpy()
    theirs = published.grid_points(spacing).numpy()
    order = [np.lexsort(np.round(points / spacing).T) for points in (mine, theirs)]
    np.testing.assert_allclose(mine[order[0]], theirs[order[1]], atol=1e-6)


def test_the_whole_distribution_is_the_published_one() -> None:
    grid, rng = Grid(0.1, 0.7, 1.7), torch.Generator().manual_seed(1)
    one = spikes(rng)
    found = grid.all_log_prob(one, 0.1)[:, grid.inside.flatten()]
    points = published.grid_points(0.1)
    place = {tuple(point): k for k, point in enumerate(np.round(points.numpy() / 0.1).astype(int).tolist())}
    mine = np.round(grid.voxels.flatten(0, 1)[grid.inside.flatten()].numpy() / 0.1).astype(int).tolist()
    at = [place[tuple(point)] for point in mine]
    for row in range(len(one)):
        theirs = published.full_grid_log_prob(one.tables[row], one.places[row], torch.zeros(3), 0.1, 0.1)[at]
        wrong = (found[row] - theirs).abs() > 1e-2  # a distance on the edge between two bins is rounded either way
        assert wrong.float().mean() < 2e-3
        assert (found[row].exp() - theirs.exp()).abs().sum() / 2 < 1e-3


@pytest.mark.parametrize("tolerance", [1e-2, 1e-3])
@pytest.mark.parametrize("temperature", [0.1, 1.0, 10.0])
@pytest.mark.parametrize("kind", [flat, peaks, spikes, smooth])
def test_no_more_is_left_out_than_the_tolerance(
    kind: Callable[[torch.Generator], DistanceDensity], temperature: float, tolerance: float
) -> None:
    """The distance to the full distribution is the share left out, which is summed up in double precision."""
    grid = Grid(0.1, 0.7, 1.7, tolerance)
    one = kind(torch.Generator().manual_seed(0))
    every = grid.all_log_prob(one, temperature).double().view(len(one), len(grid.voxels), -1)
    every = every - every.flatten(1).logsumexp(1)[:, None, None]
    masses, chosen = grid._masses(one, temperature)
    for row in range(len(one)):
        kept = chosen[row][masses[row] > -torch.inf]
        assert len(kept.unique()) == len(kept)
        left = 1 - every[row, kept].exp().sum()
        assert left <= 1.01 * tolerance + 1e-6
        if kind is flat or temperature == 10.0:
            continue
        shares = masses[row][masses[row] > -torch.inf].double().log_softmax(0)
        true = every[row, kept].logsumexp(1)
        distance = (shares.exp() - true.exp()).abs().sum() / 2 + left / 2
        assert distance <= 1.01 * tolerance + 1e-4


def test_little_is_evaluated_of_a_peaked_density() -> None:
    grid = Grid(0.05, 0.7, 1.7)
    masses, _ = grid._masses(smooth(torch.Generator().manual_seed(0)), 0.1)
    assert (masses > -torch.inf).sum(1).max() < len(grid.voxels) / 4


def test_bounds_hold_for_every_voxel() -> None:
    grid, rng = Grid(0.1, 0.7, 1.7), torch.Generator().manual_seed(2)
    for one in (spikes(rng), peaks(rng), smooth(rng)):
        values = one.at(grid.voxels.flatten(0, 1).expand(len(one), -1, -1)).view(len(one), len(grid.voxels), -1)
        assert (one.bounds(grid.centres, grid.half) >= values.amax(2)).all()


@pytest.mark.parametrize("kind", [peaks, smooth, spikes])
def test_draws_follow_the_distribution(kind: Callable[[torch.Generator], DistanceDensity]) -> None:
    grid, rng = Grid(0.3, 0.7, 1.7), torch.Generator().manual_seed(3)
    one, size = kind(rng)[torch.tensor([0])], 2500
    many = DistanceDensity(one.places.expand(size, -1, -1), one.tables.expand(size, -1, -1), BINS)
    temperature = 5.0
    place, log_prob = grid.draw(many, temperature, torch.rand(size, 2, generator=rng, dtype=torch.float64))
    voxels = grid.voxels.flatten(0, 1)
    at = torch.cdist(place, voxels).masked_fill(~grid.inside.flatten(), torch.inf).argmin(1)
    torch.testing.assert_close(voxels[at], place)
    expected = grid.all_log_prob(one, temperature)[0].double()
    torch.testing.assert_close(log_prob.double(), expected[at], atol=2e-3, rtol=0)
    often = expected.exp() * size >= 5
    counts = torch.bincount(at, minlength=len(voxels))
    found = torch.cat([counts[often], counts[~often].sum()[None]]).numpy()
    wanted = torch.cat([expected.exp()[often], expected.exp()[~often].sum()[None]]).numpy() * size
    keep = wanted > 1e-6
    assert chisquare(found[keep], wanted[keep] * found[keep].sum() / wanted[keep].sum()).pvalue > 1e-4
    assert often.sum() > 3


def test_log_prob_is_that_of_the_draw_and_has_a_gradient() -> None:
    grid, rng = Grid(0.1, 0.7, 1.7), torch.Generator().manual_seed(4)
    one = smooth(rng)
    place, drawn = grid.draw(one, 0.2, torch.rand(4, 2, generator=rng))
    torch.testing.assert_close(grid.log_prob(one, 0.2, place), drawn, atol=1e-4, rtol=1e-4)
    nudged = place + 0.02 * torch.rand(4, 3, generator=rng)
    torch.testing.assert_close(grid.log_prob(one, 0.2, nudged), drawn, atol=1e-4, rtol=1e-4)
    tables = one.tables.double().requires_grad_()
    grid.log_prob(DistanceDensity(one.places, tables, BINS), 0.2, place).sum().backward()
    step, up = 1e-4, torch.randn(tables.shape, generator=rng, dtype=torch.float64)
    with torch.no_grad():
        values = [
            grid.log_prob(DistanceDensity(one.places, tables + sign * step * up, BINS), 0.2, place).sum()
            for sign in (1, -1)
        ]
    assert tables.grad is not None
    assert float((tables.grad * up).sum()) == pytest.approx(float(values[0] - values[1]) / (2 * step), rel=1e-3)


def test_the_random_numbers_decide_alone() -> None:
    grid, rng = Grid(0.1, 0.7, 1.7), torch.Generator().manual_seed(5)
    one, uniform = spikes(rng), torch.rand(3, 2, generator=rng)
    first, again = grid.draw(one, 0.1, uniform), grid.draw(one, 0.1, uniform)
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    for row in range(3):
        alone = grid.draw(one[torch.tensor([row])], 0.1, uniform[[row]])
        assert torch.equal(alone[0][0], first[0][row])
    for edge in (0.0, 1 - 1e-9):
        place, chance = grid.draw(one, 0.1, torch.full((3, 2), edge, dtype=torch.float64))
        assert ((place.norm(dim=1) >= 0.699) & (place.norm(dim=1) <= 1.701)).all()
        assert chance.isfinite().all()


@pytest.mark.parametrize(
    ("spacing", "nearest", "farthest", "sentence"),
    [
        (0.0, 0.7, 1.7, "grid_spacing 0.0"),
        (-0.1, 0.7, 1.7, "give a spacing above 0"),
        (float("nan"), 0.7, 1.7, "give a spacing above 0"),
        (0.1, 1.7, 1.7, "and a smaller distance"),
        (0.1, -0.1, 1.7, "grid_distance_min -0.1"),
        (1.5, 0.7, 1.4, "no voxel between 0.7 and 1.4"),
        (1e-4, 0.7, 1.7, "more voxels than fit"),
        (float("inf"), 0.7, 1.7, "no voxel"),
    ],
)
def test_grids_that_are_none_are_refused(spacing: float, nearest: float, farthest: float, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        Grid(spacing, nearest, farthest)
