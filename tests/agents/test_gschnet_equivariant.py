"""Directions instead of distances to neighbours: symmetric, normalised, bounded, and learnable."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor

from megen_gym.agents.covariant.sphere import degrees, harmonics
from megen_gym.agents.gschnet.collate import Reach, packed, pairs_of
from megen_gym.agents.gschnet.directions import CURVATURE, DirectionDensity, Sphere, fibonacci, unit
from megen_gym.agents.gschnet.equivariant import EquivariantGSchNet
from megen_gym.agents.gschnet.grid import Bins, Grid
from megen_gym.agents.gschnet.network import Shape
from megen_gym.agents.gschnet.steps import Canvas, Steps

KINDS = np.array([121, 6, 6, 8, 1, 1])
PLACES = np.array(
    [[0.1, 0.2, -0.1], [0.0, 0.0, 0.0], [1.5, 0.0, 0.0], [2.0, 1.3, 0.2], [-0.5, 0.9, 0.3], [-0.4, -0.5, 0.9]]
)
TURN = Rotation.from_euler("zyx", [0.4, 1.1, -2.0]).as_matrix()
MIRROR = np.diag([1.0, 1.0, -1.0])
REACH = Reach(10.0, 5.0)


def canvas_of(places: np.ndarray = PLACES, kinds: np.ndarray = KINDS, focus: int = 1) -> Canvas:
    n = np.array([len(kinds)])
    row = np.zeros(1, dtype=np.int64)
    pairs = pairs_of(places[None], n, REACH)
    canvas = packed(places[None], kinds[None], row, n - 1, np.array([focus]), REACH, pairs=pairs)
    double = dataclasses.replace(pairs, distance=torch.from_numpy(distances(places)))
    focused = np.concatenate([np.zeros((1, 3)), places - places[focus]])
    return dataclasses.replace(canvas, pairs=double, place=torch.from_numpy(focused))


def distances(places: np.ndarray) -> np.ndarray:
    i, j = np.triu_indices(len(places), 1)
    return np.linalg.norm(places[i] - places[j], axis=1)


@pytest.fixture(scope="module")
def network() -> EquivariantGSchNet:
    torch.manual_seed(0)
    net = EquivariantGSchNet(Shape((1, 6, 8), features=16, n_interactions=2, head_hidden=16)).double()
    with torch.no_grad():
        net.weigh[-1].weight.mul_(30)
        net.mix.weight.mul_(30)
    return net.eval()


def density_of(network: EquivariantGSchNet, canvas: Canvas, number: int = 1) -> DirectionDensity:
    rows = network.rows(canvas, None)
    return network.density(canvas, rows, torch.tensor([0]), torch.tensor([number]))


@pytest.fixture(scope="module")
def points() -> Tensor:
    rng = np.random.default_rng(0)
    u = rng.standard_normal((1, 200, 3))
    u /= np.linalg.norm(u, axis=2, keepdims=True)
    return torch.from_numpy(u * rng.uniform(0.71, 1.69, (1, 200, 1)))


@pytest.mark.parametrize("by", [TURN, MIRROR, -np.eye(3), TURN @ MIRROR])
def test_the_density_turns_and_mirrors_with_the_molecule(
    network: EquivariantGSchNet, points: Tensor, by: np.ndarray
) -> None:
    before = density_of(network, canvas_of()).at(points)
    after = density_of(network, canvas_of(PLACES @ by.T)).at(points @ torch.from_numpy(by).T)
    assert before.std() > 0.5
    torch.testing.assert_close(after, before, atol=1e-8, rtol=0)


def test_the_order_of_atoms_does_not_matter(network: EquivariantGSchNet, points: Tensor) -> None:
    order = np.array([0, 3, 1, 5, 2, 4])
    before = density_of(network, canvas_of()).at(points)
    after = density_of(network, canvas_of(PLACES[order], KINDS[order], focus=2)).at(points)
    torch.testing.assert_close(after, before, atol=1e-8, rtol=0)


def test_it_tells_the_sides_of_a_plane_apart_only_where_something_does(
    network: EquivariantGSchNet, points: Tensor
) -> None:
    flat = PLACES * [1, 1, 0]
    other = points * torch.tensor([1.0, 1.0, -1.0])
    density = density_of(network, canvas_of(flat))
    torch.testing.assert_close(density.at(points), density.at(other), atol=1e-8, rtol=0)
    density = density_of(network, canvas_of())
    assert (density.at(points) - density.at(other)).abs().max() > 0.1


def test_the_type_and_distance_heads_are_those_of_the_plain_network(network: EquivariantGSchNet) -> None:
    canvas = canvas_of()
    rows = network.rows(canvas, None)
    density = density_of(network, canvas)
    torch.testing.assert_close(density.tables[0], network.distance_log_prob(rows[:1], torch.tensor([1])))
    radius, chance = network.first_radius(density, torch.tensor([0.3]))
    assert 0 <= radius.item() <= 6.7
    assert chance.item() < 0


@pytest.mark.parametrize("case", ["one row", "collinear", "on the focus"])
def test_gradients_are_finite_in_special_places(network: EquivariantGSchNet, case: str) -> None:
    places = {
        "one row": np.zeros((1, 3)),
        "collinear": np.array([[0.0, 0, 0], [0, 0, 1], [0, 0, 2.4], [0, 0, -1]]),
        "on the focus": np.array([[0.0, 0, 0], [0, 0, 0], [0, 0, 1.1]]),
    }[case]
    canvas = canvas_of(places, KINDS[: len(places)], focus=min(1, len(places) - 1))
    place = canvas.place.clone().requires_grad_()
    canvas = dataclasses.replace(canvas, place=place)
    new = torch.tensor([[0.0, 0.0, 1.1]], dtype=torch.float64)
    steps = Steps(canvas, torch.tensor([1]), torch.zeros(0, dtype=torch.long), torch.zeros(0), new)
    network.zero_grad()
    kinds, position = network.losses(steps)
    (kinds + position).backward()
    assert torch.isfinite(position)
    gradients = [p.grad for p in network.parameters() if p.grad is not None] + [place.grad]
    assert all(g is None or torch.isfinite(g).all() for g in gradients)
    assert network.n_targets(steps) == 1


def test_a_first_atom_has_a_distance_but_no_direction(network: EquivariantGSchNet) -> None:
    canvas = canvas_of(np.zeros((1, 3)), KINDS[:1], focus=0)
    losses = []
    for new in ([1.1, 0.0, 0.0], [0.0, 0.0, -1.1]):
        goal = torch.tensor([new], dtype=torch.float64)
        empty = torch.zeros(0)
        losses.append(network.losses(Steps(canvas, torch.tensor([6]), empty.long(), empty, goal))[1])
    assert losses[0] == losses[1]
    nothing = Steps(canvas, torch.tensor([0]), empty.long(), empty, goal)
    assert network.losses(nothing)[1] == 0
    assert network.n_targets(nothing) == 0


def test_the_sphere_resolves_the_sharpest_peak_it_allows() -> None:
    sphere = Sphere(5)
    rng = torch.Generator().manual_seed(0)
    n = unit(torch.randn(300, 3, generator=rng, dtype=torch.float64))
    peak = harmonics(5, n)[:, None] * torch.tensor([1.0, 1, 1, 1, 1, 1], dtype=torch.float64)[degrees(5)] * 1e4
    limited = sphere.limited(peak)
    at = torch.einsum("pcm,pm->p", limited, harmonics(5, n))
    share = (sphere.log_prob(limited).logsumexp(1).exp() - 1).abs().max()
    assert share < 1e-5
    log_z = (limited @ sphere.table.double()).logsumexp(2)[:, 0] + math.log(4 * math.pi / len(sphere.points))
    fine = fibonacci(200_000)
    exact = (limited[:5] @ harmonics(5, fine).T).logsumexp(2)[:, 0] + math.log(4 * math.pi / len(fine))
    assert (log_z - at).std() < 0.1
    assert (log_z[:5] - at[:5]).mean() == pytest.approx((exact - at[:5]).mean().item(), abs=0.05)


def test_slopes_and_curvatures_stay_below_their_bounds() -> None:
    sphere = Sphere(4)
    rng = torch.Generator().manual_seed(1)
    wild = torch.randn(20, 2, 25, generator=rng, dtype=torch.float64) * 1e3
    series = sphere.limited(wild)
    u = unit(torch.randn(20, 3, generator=rng, dtype=torch.float64))
    across = unit(torch.linalg.cross(u, torch.randn(20, 3, generator=rng, dtype=torch.float64)))
    t = torch.linspace(0, 2 * math.pi, 2001, dtype=torch.float64)
    circle = torch.cos(t)[:, None] * u[:, None] + torch.sin(t)[:, None] * across[:, None]
    f = torch.einsum("pcm,ptm->pct", series, harmonics(4, circle))
    slope = f.diff(dim=2).abs().amax(2) / t[1]
    curvature = f.diff(dim=2).diff(dim=2).abs().amax(2) / t[1] ** 2
    assert (slope <= sphere.slopes(series)).all()
    assert (curvature <= CURVATURE).all()
    assert curvature.max() > CURVATURE / 5


def random_density(size: int = 3) -> DirectionDensity:
    rng = torch.Generator().manual_seed(2)
    sphere = Sphere(5)
    series = sphere.limited(20 * torch.randn(size, 4, 36, generator=rng))
    tables = (4 * torch.randn(size, 1, 202, generator=rng)).log_softmax(2)
    return DirectionDensity(torch.zeros(size, 1, 3), tables, Bins(0.0, 6.7 / 201, 202), series, sphere)


def test_bounds_of_blocks_hold() -> None:
    grid, density = Grid(0.1, 0.7, 1.7), random_density()
    bound = density.bounds(grid.centres, grid.half)
    points = grid.voxels.flatten(0, 1).expand(3, -1, -1)
    value = density.at(points).view(3, *grid.inside.shape)
    assert (bound >= value.masked_fill(~grid.inside, -torch.inf).amax(2) - 1e-3).all()


@pytest.mark.parametrize("temperature", [1.0, 0.1])
def test_draws_follow_the_density(temperature: float) -> None:
    grid, density = Grid(0.1, 0.7, 1.7, tolerance=1e-4), random_density()
    places, chance = grid.draw(density, temperature, torch.rand(3, 2, generator=torch.Generator().manual_seed(3)))
    torch.testing.assert_close(grid.log_prob(density, temperature, places), chance, atol=1e-3, rtol=0)
    full = grid.all_log_prob(density, temperature).view(3, *grid.inside.shape)
    nearest = (grid.voxels - places[:, None, None]).norm(dim=3).masked_fill(~grid.inside, torch.inf)
    exact = full.flatten(1).gather(1, nearest.flatten(1).argmin(1, keepdim=True))[:, 0]
    torch.testing.assert_close(chance, exact.float(), atol=1e-2, rtol=0)
    torch.testing.assert_close(density[torch.tensor([2])].at(places[2:, None]), density.at(places[:, None])[2:])


@pytest.mark.slow
def test_it_learns_where_one_atom_goes() -> None:
    torch.manual_seed(0)
    net = EquivariantGSchNet(Shape((1, 6, 8), features=32, n_interactions=2, head_hidden=32))
    canvas = canvas_of()
    pairs = dataclasses.replace(canvas.pairs, distance=canvas.pairs.distance.float())  # type: ignore[type-var,union-attr]
    canvas = dataclasses.replace(canvas, place=canvas.place.float(), pairs=pairs)
    new = torch.tensor([[-0.4, -0.6, -0.8]])
    steps = Steps(canvas, torch.tensor([1]), torch.zeros(0, dtype=torch.long), torch.zeros(0), new)
    optimizer = torch.optim.Adam(net.parameters(), 3e-3)
    first = net.losses(steps)[1].item()
    for _ in range(150):
        optimizer.zero_grad()
        loss = net.losses(steps)[1]
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    assert 7 < first < 12
    assert loss.item() < 0.3
    place, _ = Grid(0.05, 0.7, 1.7).draw(density_of(net, canvas), 1e-4, torch.rand(1, 2))
    assert (place - new).norm() < 0.06
