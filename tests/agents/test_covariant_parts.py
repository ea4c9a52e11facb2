"""The parts of the covariant agent: sphere, densities, encoder, geometry."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from e3nn import o3
from scipy.stats import chisquare
from torch import Tensor

from megen_gym.agents.covariant import CovariantSettings
from megen_gym.agents.covariant.canvas import FAR, Canvas, local_frames
from megen_gym.agents.covariant.distributions import MaskedCategorical, SphereDensity, WindowedMixture
from megen_gym.agents.covariant.encoder import Encoder, bessel
from megen_gym.agents.covariant.geometry import PlacementField, smallest
from megen_gym.agents.covariant.heads import DirectionHead
from megen_gym.agents.covariant.sphere import SphereGrid, degrees, harmonics, quadrature
from megen_gym.errors import InputError
from megen_gym.rules import GALLIUM_WINDOWS, PlacementRules


def random_canvas(dtype: torch.dtype, batch: int = 6, width: int = 8) -> Canvas:
    n_atoms = torch.arange(batch) % (width + 1)
    occupied = (torch.arange(width) < n_atoms[:, None]).to(dtype)
    return Canvas.from_observation(
        {
            "positions": 3 * torch.randn(batch, width, 3, dtype=dtype) * occupied[..., None],
            "species": occupied * torch.randint(1, 3, (batch, width)),
            "bag": torch.ones(batch, 3),
            "focus_mask": occupied,
            "element_mask": torch.ones(batch, 3),
        },
        dtype,
    )


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-3)])
@pytest.mark.parametrize("lmax", [1, 3, 4])
def test_encoder_turns_with_the_structure(dtype: torch.dtype, tolerance: float, lmax: int) -> None:
    torch.manual_seed(0)
    encoder = Encoder(3, lmax=lmax, layers=3).to(dtype)
    canvas, bag = random_canvas(dtype), torch.rand(6, 6, dtype=dtype)
    rotation = -o3.rand_matrix(dtype=dtype)
    turned = Canvas(**{**vars(canvas), "vectors": canvas.vectors @ rotation.T})
    before, after = encoder(canvas, bag), encoder(turned, bag)
    points, weights = quadrature(2 * lmax)
    # Y(R u) = D Y(u); e3nn's own D is exact to 1e-6 only.
    wigner = harmonics(lmax, points @ rotation.T.double()).T @ (harmonics(lmax, points) * weights[:, None])
    expected = torch.einsum("mn,nac->mac", wigner.to(dtype), before.fields)
    torch.testing.assert_close(after.fields, expected, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(after.scalars, before.scalars, rtol=tolerance, atol=tolerance)
    assert before.fields[1:].abs().max() > 0.1


def test_encoder_does_not_see_beyond_its_cutoff() -> None:
    near = torch.tensor([5.0, 5.9999, 6.0, 7.0], dtype=torch.float64)
    assert bessel(near, 8, 6.0).abs().amax(-1)[1:].max() < 1e-8
    assert bessel(near, 8, 6.0)[0].abs().max() > 0.05


def test_quadrature_is_exact() -> None:
    points, weights = quadrature(8)
    values = harmonics(4, points)
    torch.testing.assert_close(values.T @ (values * weights[:, None]), torch.eye(25, dtype=torch.float64))
    assert degrees(4).tolist() == [0] + [1] * 3 + [2] * 5 + [3] * 7 + [4] * 9


@pytest.mark.parametrize("cells", [8, 100, 1024])
def test_cells_are_equal_and_found_again(cells: int) -> None:
    grid = SphereGrid(cells, refine=4)
    assert abs(grid.size - cells) <= 0.1 * cells + 4
    every = torch.arange(grid.size)
    cell, _ = grid.locate(grid.centres)
    assert torch.equal(cell, every)
    cell, sub = grid.locate(grid.parts(every))
    assert torch.equal(cell, every[:, None].expand(-1, 16))
    assert torch.equal(sub, torch.arange(16).expand(grid.size, -1))
    uniform = torch.randn(200_000, 3)
    counts = torch.bincount(grid.locate(uniform / uniform.norm(dim=-1, keepdim=True))[0], minlength=grid.size)
    assert chisquare(counts.numpy()).pvalue > 1e-3


def test_grids_that_are_too_coarse_are_refused() -> None:
    with pytest.raises(InputError, match="too few"):
        SphereGrid(3)
    with pytest.raises(InputError, match="lmax is 0"):
        CovariantSettings(lmax=0)
    with pytest.raises(InputError, match="beta 0"):
        CovariantSettings(beta=0)


def make_sphere_density(beta: float | None, batch: int = 1) -> SphereDensity:
    torch.manual_seed(3)
    grid = SphereGrid(128, refine=3)
    head = DirectionHead(4, 3, 5, 8, 2, beta, grid).double()
    head.mix.weight.data.mul_(20)
    frame = o3.rand_matrix(batch, dtype=torch.float64)
    log_q = head.requires_grad_(False)(
        torch.randn(16, 1, 5).double().expand(-1, batch, -1), torch.ones(batch, 4).double(), frame
    )
    return SphereDensity(log_q, grid, lambda cell: torch.sin(cell[:, None] + torch.arange(9)).double(), frame)


@pytest.mark.parametrize("beta", [None, -10.0])
def test_directions_follow_their_density(beta: float | None) -> None:
    one = make_sphere_density(beta)
    grid = one.grid
    local = grid.parts(torch.arange(grid.size)).view(-1, 3)
    many = SphereDensity(one.log_p.expand(len(local), -1), grid, one.sub_logits, one.frame.expand(len(local), -1, -1))
    expected = many.log_prob(local @ one.frame[0].T).exp() * grid.area / grid.refine**2
    assert expected.sum().item() == pytest.approx(1, abs=1e-12)
    draws = SphereDensity(one.log_p.expand(50_000, -1), grid, one.sub_logits, one.frame.expand(50_000, -1, -1)).sample()
    assert torch.allclose(draws.norm(dim=-1), torch.ones(50_000, dtype=torch.float64))
    cell, sub = grid.locate(draws @ one.frame[0])
    counts = torch.bincount(cell * grid.refine**2 + sub, minlength=len(expected)).double()
    common = expected > 1e-4
    assert chisquare(counts[common], expected[common] / expected[common].sum() * counts[common].sum()).pvalue > 1e-3
    assert one.entropy().item() < math.log(4 * math.pi)


@pytest.mark.parametrize("beta", [None, -10.0])
def test_the_series_is_the_same_in_every_frame(beta: float | None) -> None:
    grid = SphereGrid(256)
    head = DirectionHead(4, 3, 5, 8, 2, beta, grid).double()
    fields, context = torch.randn(16, 2, 5).double(), torch.randn(2, 4).double()
    frame = o3.rand_matrix(2, dtype=torch.float64)
    series = head.coefficients(fields, context)
    q = ((harmonics(3, grid.centres @ frame.transpose(1, 2)) @ series) ** 2).sum(-1)
    expected = -beta * q if beta else torch.log(q + head.floor / (4 * math.pi))
    torch.testing.assert_close(head(fields, context, frame), expected)
    assert torch.allclose((series**2).sum((1, 2)), torch.ones(2, dtype=torch.float64))


def mixture(batch: int = 1, mean: float = 2.4) -> WindowedMixture:
    weight = torch.tensor([[1.0, 0.5, 1e-6, 0.2]]).expand(batch, -1)
    parameters = [[0.3, -0.2]], [[mean, 3.0]], [[0.1, 0.03]]
    logits, means, std = (torch.tensor(p).expand(batch, -1) for p in parameters)
    return WindowedMixture(logits, means, std, torch.linspace(2.3, 3.1, 5), weight)


@pytest.mark.parametrize("mean", [2.4, 1.0, 4.0])
def test_distances_follow_their_density(mean: float) -> None:
    points = torch.linspace(2.3, 3.1, 40_001)[:-1] + 1e-5
    p = mixture(len(points), mean).log_prob(points).exp().double()
    assert p.mean().item() * 0.8 == pytest.approx(1, abs=1e-3)
    draws = mixture(50_000, mean).sample()
    counts, _ = np.histogram(draws.numpy(), bins=40, range=(2.3, 3.1))
    expected = p.view(40, -1).mean(-1).numpy()
    common = expected > 1e-3
    expected = expected[common] / expected[common].sum() * counts[common].sum()
    assert chisquare(counts[common], expected).pvalue > 1e-3
    if 2.3 < mean < 3.1:
        exact = -(p * p.log()).mean().item() * 0.8
        assert mixture(1, mean).entropy().item() == pytest.approx(exact, abs=0.01)
        assert mixture(1, mean).log_prob(mixture(1, mean).mode()).exp() > 0.9 * p.max()


def test_categories_outside_the_mask_are_never_drawn() -> None:
    weight = torch.tensor([[1.0, 0.0, 2.0]]).expand(20_000, -1)
    choice = MaskedCategorical(torch.tensor([[0.0, 50.0, 0.5]]).expand(20_000, -1), weight)
    counts = torch.bincount(choice.sample(), minlength=3)
    share = 1 / (1 + 2 * math.exp(0.5))
    assert counts[1] == 0
    assert counts[0].item() / 20_000 == pytest.approx(share, abs=0.02)
    nothing = MaskedCategorical(torch.zeros(1, 3), torch.zeros(1, 3))
    assert torch.isfinite(nothing.log_p).all()


@pytest.mark.parametrize("n", [1, 2, 3, 5, 17, 18])
@pytest.mark.parametrize("k", [1, 2, 3, 5])
def test_smallest_is_a_sort(n: int, k: int) -> None:
    values = torch.rand(n, 50)
    torch.testing.assert_close(torch.stack(smallest(values, k)), values.sort(0)[0][:k])


@pytest.mark.parametrize("windows", [(), GALLIUM_WINDOWS])
def test_the_weight_agrees_with_the_rules(windows: tuple[tuple[float, float], ...]) -> None:
    rules = PlacementRules(2.0, 3.2, windows)
    field = PlacementField(rules, penalty=200, margin=0)
    n_atoms = torch.randint(0, 7, (4000,))
    distances = torch.where(torch.arange(6)[:, None] < n_atoms, 1.8 + 2 * torch.rand(6, 4000), FAR).double()
    valid = rules.valid(torch.where(distances < FAR, distances, torch.inf).T, n_atoms)
    weight = field.log_weight(distances**2, n_atoms)
    assert torch.equal(weight > -1e-9, valid)
    assert 20 < valid.sum() < 3000
    assert weight.min() > -200


@pytest.mark.parametrize("seed", [0, 1, 24, 121])
def test_frames_are_right_handed_and_turn_along(seed: int) -> None:
    """Seeds 24 and 121 hold three atoms almost in a line."""
    torch.manual_seed(seed)
    canvas = random_canvas(torch.float64)
    frames = local_frames(canvas.vectors, canvas.others)
    eye = torch.eye(3, dtype=torch.float64)
    torch.testing.assert_close(frames.transpose(1, 2) @ frames, eye.expand(len(frames), 3, 3))
    torch.testing.assert_close(torch.linalg.det(frames), torch.ones(len(frames), dtype=torch.float64))
    rotation: Tensor = o3.rand_matrix(dtype=torch.float64)
    turned = local_frames(canvas.vectors @ rotation.T, canvas.others)
    several = canvas.n_atoms[canvas.structure] > 2
    torch.testing.assert_close(turned[several], rotation @ frames[several])
