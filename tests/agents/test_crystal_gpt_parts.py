"""The densities and the network of crystal_gpt: they are normalised, and count what they should."""

import math
from collections.abc import Iterator
from dataclasses import fields, replace
from itertools import pairwise, product

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from megen_gym.agents.crystal_gpt.cells import LatticeDensity
from megen_gym.agents.crystal_gpt.conditions import Given, Known
from megen_gym.agents.crystal_gpt.encoding import Sites
from megen_gym.agents.crystal_gpt.network import CrystalGPT, Shape
from megen_gym.agents.crystal_gpt.periodic import (
    Kind,
    Mixture,
    choose,
    draw,
    log_density,
    von_mises,
    wrapped_normal,
)
from megen_gym.crystals import CrystalBatch
from megen_gym.lattices import FREE, cells_of, completed, family_of
from megen_gym.wyckoff import LETTERS, space_group, wyckoff_table

KINDS: tuple[Kind, ...] = ("von_mises", "wrapped_normal")
SMALL = Shape(n_max=4, layers=2, width=32, heads=2, key=8, hidden=32)
FAMILIES = {"triclinic": 2, "monoclinic": 14, "orthorhombic": 62, "tetragonal": 123, "hexagonal": 166, "cubic": 225}


@pytest.fixture(autouse=True)
def _double() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def mixture(spreads: list[float], rows: int = 1, seed: int = 0) -> Mixture:
    generator = torch.Generator().manual_seed(seed)
    count = len(spreads)
    logits = torch.randn(rows, count, generator=generator)
    location = 20 * torch.rand(rows, count, generator=generator) - 10
    return Mixture(logits, location, torch.tensor(spreads).expand(rows, -1).clone())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("spreads", [[1e-3], [0.02, 0.4], [1.0, 3.0], [6.0], [1e-3, 0.05, 0.7, 6.0], [40.0]])
def test_densities_on_the_circle_integrate_to_one(kind: Kind, spreads: list[float]) -> None:
    angle = torch.linspace(0, 2 * math.pi, 40_001)[:-1]
    some = Mixture(*(part.expand(len(angle), -1) for part in mixture(spreads)))
    density = log_density(kind, angle, some).exp()
    assert float(density.mean() * 2 * math.pi) == pytest.approx(1, abs=1e-7)
    torch.testing.assert_close(log_density(kind, angle + 2 * math.pi, some).exp(), density, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("spread", [1e-3, 0.01, 0.3, 1.0, 2.5, 6.0])
def test_von_mises_is_that_of_scipy(spread: float) -> None:
    delta = np.linspace(-1, 1, 41) * min(5 * spread, math.pi)
    found = von_mises(torch.from_numpy(delta + 1.3), torch.tensor(1.3), torch.tensor(spread))
    np.testing.assert_allclose(found.numpy(), stats.vonmises.logpdf(delta, spread**-2), rtol=1e-7, atol=1e-7)
    single = von_mises(torch.from_numpy(delta).float(), torch.tensor(0.0).float(), torch.tensor(spread).float())
    np.testing.assert_allclose(single.numpy(), stats.vonmises.logpdf(delta, spread**-2), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("spread", [1e-3, 0.3, 2.5, 6.0])
def test_the_wrapped_normal_is_the_sum_of_all_its_turns(spread: float) -> None:
    delta = np.linspace(-1, 1, 21) * min(5 * spread, math.pi)
    turns = delta[:, None] + 2 * np.pi * np.arange(-12, 13)
    expected = np.log(stats.norm.pdf(turns, scale=spread).sum(1))
    found = wrapped_normal(torch.from_numpy(delta + 0.4), torch.tensor(0.4), torch.tensor(spread))
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_of_circle_densities(kind: Kind) -> None:
    angle = torch.tensor([0.3, 2.0, 5.5], requires_grad=True)
    some = mixture([0.05, 0.6, 3.0], 3)
    some.location[:, 0] = angle.detach() + 0.04
    parts = [part.clone().requires_grad_(True) for part in some]
    assert torch.autograd.gradcheck(lambda a, *rest: log_density(kind, a, Mixture(*rest)), (angle, *parts))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("spreads", [[2e-3], [0.1, 0.6], [0.02, 1.5, 6.0]])
def test_draws_follow_the_density(kind: Kind, spreads: list[float]) -> None:
    count = 20_000
    some = Mixture(*(part.expand(count, -1) for part in mixture(spreads, seed=3)))
    drawn = draw(kind, some, 1.0, np.random.default_rng(5)).numpy()
    assert drawn.min() >= 0
    assert drawn.max() < 2 * np.pi
    grid = torch.linspace(0, 2 * math.pi, 200_001)
    wide = Mixture(*(part[:1].expand(len(grid), -1) for part in some))
    steps = log_density(kind, grid, wide).exp().numpy() * float(grid[1])
    below = np.concatenate([[0], np.cumsum((steps[1:] + steps[:-1]) / 2)])
    assert stats.kstest(drawn, lambda x: np.interp(x, grid.numpy(), below)).pvalue > 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_temperature_divides_concentrations(kind: Kind) -> None:
    count, spread, hot = 20_000, 0.2, 2.25
    some = Mixture(torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 4.0]]), torch.tensor([[spread, spread]]))
    drawn = draw(kind, Mixture(*(part.expand(count, -1) for part in some)), hot, np.random.default_rng(0)).numpy()
    low = drawn < 2.5
    assert low.mean() == pytest.approx(1 / (1 + math.exp(-1 / hot)), abs=0.015)
    law = stats.vonmises(hot**-1 * spread**-2, 1.0) if kind == "von_mises" else stats.norm(1.0, spread * hot**0.5)
    assert stats.kstest(drawn[low], law.cdf).pvalue > 1e-3


def test_spreads_end_at_the_widest() -> None:
    far = draw(
        "von_mises", Mixture(*(torch.full((5000, 1), x) for x in (0.0, 1.0, 1e9))), 1.0, np.random.default_rng(0)
    )
    assert torch.isfinite(far).all()
    assert stats.kstest(far.numpy() / (2 * np.pi), "uniform").statistic < 0.05


def test_choices_have_the_frequencies_of_their_weights() -> None:
    logits = torch.tensor([0.5, -torch.inf, 2.0, -1.0, 1.0])
    count = 40_000
    found = choose(logits.expand(count, -1), np.random.default_rng(1))
    seen = torch.bincount(found, minlength=5).numpy()
    expected = torch.softmax(logits, 0).numpy()
    assert seen[1] == 0
    assert stats.chisquare(seen[expected > 0], count * expected[expected > 0]).pvalue > 1e-3


@pytest.mark.parametrize(
    ("top_p", "kept"), [(0.5, [2]), (0.6, [2, 4]), (0.9, [0, 2, 4]), (1e-9, [2]), (1.0, [0, 2, 3, 4])]
)
def test_top_p_keeps_the_likeliest(top_p: float, kept: list[int]) -> None:
    weights = torch.tensor([0.15, 0.0, 0.55, 0.05, 0.25])
    found = choose(weights.log().expand(20_000, -1), np.random.default_rng(1), top_p)
    seen = torch.bincount(found, minlength=5).numpy()
    assert np.flatnonzero(seen).tolist() == kept
    share = weights.numpy()[kept] / weights.numpy()[kept].sum()
    if len(kept) > 1:
        assert stats.chisquare(seen[kept], 20_000 * share).pvalue > 1e-3


def density_of(counted: bool, seed: int = 0, ties: bool = True, floor: float = 1e-3) -> LatticeDensity:
    torch.manual_seed(seed)
    cell = LatticeDensity(16, 24, 3, counted, floor)
    last = cell.body[-1]
    assert isinstance(last, torch.nn.Linear)
    torch.nn.init.normal_(last.weight, std=0.2)
    with torch.no_grad():
        last.bias[-5:] = 1.0 if ties else -60.0
    for name in ("center", "scale"):
        setattr(cell, name, getattr(cell, name).double())
    return cell.double().eval()


def values(
    cell: LatticeDensity, group: int, lattice: np.ndarray, atoms: int, context: Tensor, floor: float = 0.0
) -> np.ndarray:
    """Densities of lattices (B, 6) in published units and degrees."""
    real = lattice.copy()
    real[:, :3] *= atoms ** (1 / 3)
    real[:, 3:] = np.deg2rad(real[:, 3:])
    size = len(real)
    numbers, counts = torch.full((size,), group), torch.full((size,), atoms)
    with torch.no_grad():
        log = cell.log_prob(context.expand(size, -1), numbers, torch.from_numpy(real), counts, floor)
    return log.exp().numpy()


def drawn_lattices(
    cell: LatticeDensity, group: int, atoms: int, context: Tensor, size: int, seed: int = 0
) -> np.ndarray:
    """(size, 6) published units and radians."""
    with torch.no_grad():
        lattice = cell.sample(
            context.expand(size, -1),
            torch.full((size,), group),
            torch.full((size,), atoms),
            np.random.default_rng(seed),
        ).numpy()
    return np.concatenate([lattice[:, :3] / atoms ** (1 / 3), lattice[:, 3:]], 1)


@pytest.mark.parametrize("counted", [True, False])
@pytest.mark.parametrize("atoms", [1, 8, 40])
def test_cubic_lattices_integrate_to_one(counted: bool, atoms: int) -> None:
    cell, context = density_of(counted, 1), torch.randn(1, 16)
    edge = np.exp(np.linspace(-6, 8, 60_001))
    lattice = completed(np.tile(edge[:, None], (1, 6)), np.full(len(edge), 5))
    density = values(cell, 221, lattice, atoms, context)
    assert np.trapezoid(density, edge) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(
    ("counted", "ties"),
    [(True, True), *(pytest.param(*case, marks=pytest.mark.slow) for case in ((True, False), (False, True))),
     (False, False)],
)  # fmt: skip
def test_tetragonal_lattices_integrate_to_one(counted: bool, ties: bool) -> None:
    cell, context, atoms = density_of(counted, 2, ties), torch.randn(1, 16), 6
    total = 0.0
    log_edges = np.linspace(-2.5, 4, 131)
    ratio = np.linspace(-5, 6, 701)
    if ties:  # the tie is about 1e-4 wide
        ratio = np.unique(np.concatenate([ratio, np.linspace(-1e-3, 1e-3, 401), np.linspace(-2e-2, 2e-2, 101)]))
    sums = []
    for log_a in log_edges:
        a = np.exp(log_a)
        c = a * np.exp(ratio)
        lattice = np.stack([np.full_like(c, a), np.full_like(c, a), c, *np.full((3, len(c)), 90.0)], 1)
        sums.append(np.trapezoid(values(cell, 123, lattice, atoms, context), c))
    total = np.trapezoid(sums, np.exp(log_edges))
    assert total == pytest.approx(1, abs=5e-3)


def other_density(drawn: np.ndarray, free: np.ndarray, shift: float, narrow: float) -> np.ndarray:
    """(B,) a plain density of lattices near the drawn ones: independent, but for the interval of gamma."""
    density = np.ones(len(drawn))
    alpha, beta = drawn[:, 3], drawn[:, 4]
    for index in np.flatnonzero(free):
        value = np.log(drawn[:, index]) if index < 3 else drawn[:, index]
        low, middle, high = np.quantile(value, [0.16, 0.5, 0.84])
        middle, spread = middle + shift * (high - low), narrow * max(high - low, 0.05)
        if index < 3:
            density = density * stats.norm.pdf(value, middle, spread) / drawn[:, index]
            continue
        ends = np.zeros(len(drawn)), np.full(len(drawn), np.pi)
        if index == 5:
            ends = np.abs(alpha - beta), np.minimum(alpha + beta, 2 * np.pi - alpha - beta)
        room = stats.norm.cdf(ends[1], middle, spread) - stats.norm.cdf(ends[0], middle, spread)
        density = density * stats.norm.pdf(value, middle, spread) / room
    return density


@pytest.mark.parametrize(
    ("counted", "ties"),
    [(True, True), *(pytest.param(*case, marks=pytest.mark.slow) for case in ((True, False), (False, True))),
     (False, False)],
)  # fmt: skip
@pytest.mark.parametrize("family", FAMILIES)
def test_lattices_are_drawn_from_their_density(family: str, counted: bool, ties: bool) -> None:
    """The mean of q / p over draws is one for every density q if p is what they are drawn from."""
    group, atoms, size = FAMILIES[family], 12, 30_000
    cell, context = density_of(counted, 4, ties, 0.02), torch.randn(1, 16)
    drawn = drawn_lattices(cell, group, atoms, context, size)
    lattice = np.concatenate([drawn[:, :3], np.rad2deg(drawn[:, 3:])], 1)
    density = values(cell, group, lattice, atoms, context)
    for shift, narrow in ((0.0, 0.4), (0.15, 0.25), (-0.1, 0.3)):
        weight = other_density(drawn, FREE[family_of(np.array(group))], shift, narrow) / density
        error = weight.std() / math.sqrt(size)
        assert error < 0.1
        assert abs(weight.mean() - 1) < 4.5 * error


@pytest.mark.parametrize("counted", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_lattice_is_a_cell_of_its_family(family: str, counted: bool) -> None:
    group, size = FAMILIES[family], 4000
    cell, index = density_of(counted, 3), family_of(np.array(FAMILIES[family]))
    with torch.no_grad():
        drawn = cell.sample(
            torch.randn(size, 16), torch.full((size,), group), torch.randint(1, 60, (size,)), np.random.default_rng(0)
        ).numpy()
    assert (drawn[:, :3] > 0).all()
    degrees = np.concatenate([drawn[:, :3], np.rad2deg(drawn[:, 3:])], 1)
    volume = np.linalg.det(cells_of(degrees))
    assert (volume > 0).all()
    whole = completed(degrees, np.full(size, index))
    np.testing.assert_array_equal(whole[:, :3], degrees[:, :3])
    np.testing.assert_allclose(whole[:, 3:], degrees[:, 3:], rtol=1e-14)
    if family in ("tetragonal", "hexagonal", "cubic"):
        np.testing.assert_array_equal(drawn[:, 1], drawn[:, 0])
    if family == "hexagonal":
        assert (drawn[:, 5] == np.deg2rad(120.0)).all()
    fixed = ~FREE[index][3:] & (np.array([90, 90, 120 if family == "hexagonal" else 90]) == 90)
    assert (drawn[:, 3:][:, fixed] == np.pi / 2).all()


@pytest.mark.parametrize("counted", [True, False])
def test_ties_make_equal_edges_and_known_angles(counted: bool) -> None:
    size, context = 20_000, torch.randn(1, 16)
    cell = density_of(counted, 5)
    drawn = drawn_lattices(cell, 62, 8, context, size)
    equal = np.abs(drawn[:, 1] / drawn[:, 0] - 1) < 1e-3
    with torch.no_grad():
        numbers = torch.zeros(size, 6)
        numbers[:, 0] = torch.from_numpy(np.log(drawn[:, 0])) if counted else torch.from_numpy(np.log(2 * drawn[:, 0]))
        real = torch.from_numpy(drawn * np.array([2, 2, 2, 1, 1, 1]))
        logits, location, _ = cell._mixture(
            context.expand(size, -1), torch.full((size,), 2), torch.ones(size, dtype=torch.long), numbers, real, 0.0
        )
        weight = torch.softmax(logits, 1)[:, 3 + 3].mean()
    assert float(weight) > 0.02
    assert equal.mean() == pytest.approx(float(weight), abs=0.02)
    assert float(location[0, 6]) == 0
    gamma = drawn_lattices(cell, 2, 8, context, size)[:, 3:]
    near = np.abs(gamma[:, :, None] - np.deg2rad([60.0, 90.0, 120.0])) < 1e-3
    assert (near.mean(0) > 0.005).all()
    assert (np.abs(gamma[:, 2] - gamma[:, 1]) < 1e-3).mean() > near[:, 2].any(1).mean() * 0.01


@pytest.mark.parametrize("counted", [True, False])
def test_the_floor_bounds_all_spreads(counted: bool) -> None:
    cell = density_of(counted, 6)
    size, atoms = 300, 8
    context = torch.randn(1, 16)
    drawn = drawn_lattices(cell, 2, atoms, context, size)
    for floor in (1e-3, 0.05, 0.3):
        row = torch.arange(size).repeat_interleave(6)
        index = torch.arange(6).repeat(size)
        real = torch.from_numpy(np.concatenate([drawn[:, :3] * 2, drawn[:, 3:]], 1))
        numbers = cell._numbers(real, torch.full((size,), atoms))
        zero = torch.zeros(len(row), dtype=torch.long)
        with torch.no_grad():
            _, location, spread = cell._mixture(
                context.expand(len(row), -1), zero, index, numbers[row], real[row], floor
            )
            unit = cell._unit(index, location, numbers[row], real[row])
        assert (spread >= floor * unit * (1 - 1e-9)).all()
        if not counted:
            continue
        edges = index < 3  # a spread s of log b is s b Å per atom
        log_edge = location + torch.where(index == 0, 0.0, numbers[row, 0])[:, None]
        published = spread * log_edge.exp()
        assert float(published[edges].min()) >= floor * (1 - 1e-9)
    lattice = np.concatenate([drawn[:, :3], np.rad2deg(drawn[:, 3:])], 1)
    ceiling = (2 * np.pi) ** -3 * 0.3**-6
    wide = values(cell, 2, lattice, atoms, context, 0.3)
    if counted:
        assert np.quantile(wide, 0.9) < ceiling * 5


def test_gradients_of_lattice_densities() -> None:
    cell, lattice = density_of(True, 7), torch.tensor([[4.1, 5.3, 6.2, 1.4, 1.8, 1.7], [3.9, 5.1, 7.0, 1.3, 1.6, 2.0]])
    context = torch.randn(2, 16, requires_grad=True)
    group, atoms = torch.tensor([2, 14]), torch.tensor([8, 4])
    lattice[1, [3, 5]] = math.pi / 2
    last = cell.body[-1]
    assert isinstance(last, torch.nn.Linear)
    with torch.no_grad():
        last.bias[-5:] = -60.0
    parameter = cell.body[3].weight
    cell._unit = lambda index, location, numbers, lattice: torch.ones_like(location)  # type: ignore[method-assign]
    assert torch.autograd.gradcheck(lambda x: cell.log_prob(x, group, lattice, atoms), (context,))
    total = cell.log_prob(context, group, lattice, atoms).sum()
    (slope,) = torch.autograd.grad(total, parameter)  # type: ignore[arg-type]
    assert torch.isfinite(slope).all()
    assert slope.abs().max() > 0


def test_fitting_takes_centres_and_scales_from_the_data() -> None:
    cell, rng = density_of(True), np.random.default_rng(0)
    size, atoms = 500, 8
    lattice = np.tile([5.0, 5.0, 5.0, np.pi / 2, np.pi / 2, np.pi / 2], (size, 1))
    lattice[:, 0] = 2 * np.exp(rng.normal(1.3, 0.15, size))
    lattice[:, 1] = lattice[:, 0] * np.exp(rng.normal(0.2, 0.4, size))
    lattice[:, 2] = lattice[:, 0]
    before = cell.center.clone(), cell.scale.clone()
    cell.fit(torch.from_numpy(lattice), torch.full((size,), 62), torch.full((size,), atoms))
    np.testing.assert_allclose(cell.center[:3].numpy(), [1.3, 0.2, 0.0], atol=0.06)
    np.testing.assert_allclose(cell.scale[:3].numpy(), [0.15, 0.4, 0.02], atol=0.03)
    torch.testing.assert_close(cell.center[3:], before[0][3:])
    torch.testing.assert_close(cell.scale[3:], before[1][3:])


def network(order: str = "first", n_max: int = 4, known: Known | None = None, seed: int = 0) -> CrystalGPT:
    torch.manual_seed(seed)
    model = CrystalGPT(replace(SMALL, order=order, n_max=n_max), known)  # type: ignore[arg-type]
    for linear in (model.to_letter, model.to_element):
        torch.nn.init.normal_(linear.weight, std=0.3)
    return model.double().eval()


def sites_of(group: list[int], letters: list[str], width: int = 4, seed: int = 0) -> Sites:
    """Random elements, coordinates and lattices on given letters."""
    rng, size = np.random.default_rng(seed), len(group)
    index = np.zeros((size, width), dtype=np.int64)
    for row, text in enumerate(letters):
        index[row, : len(text)] = [LETTERS.index(letter) + 1 for letter in text]
    elements = rng.integers(1, 119, index.shape) * (index > 0)
    numbers = np.array(group)
    lattice = completed(rng.uniform([3, 3, 3, 70, 70, 70], [9, 9, 9, 110, 110, 110], (size, 6)), family_of(numbers))
    batch = CrystalBatch(numbers, index, elements, rng.random((*index.shape, 3)) * (index > 0)[..., None], lattice)
    sites = Sites.of(batch)
    return replace(sites, angles=sites.angles.double())


def lists(number: int, n_max: int) -> list[str]:
    """All lists of letters that the rules allow."""
    group = space_group(number)
    full = {letter: not free.any() for letter, free in zip(group.letters, group.free, strict=True)}
    found = []
    for count in range(1, n_max + 1):
        for choice in product(group.letters, repeat=count):
            pairs = list(pairwise(choice))
            key = [LETTERS.index(letter) for letter in choice]
            if key == sorted(key) and not any(a == b and full[a] for a, b in pairs):
                found.append("".join(choice))
    return found


@pytest.mark.parametrize("order", ["first", "last"])
@pytest.mark.parametrize(("number", "n_max"), [(1, 3), (2, 3), (47, 2), (99, 3), (221, 2), (230, 3)])
def test_all_lists_of_letters_share_a_probability_of_one(order: str, number: int, n_max: int) -> None:
    """Elements and coordinates of the first sites are the same in all lists: only letters are summed over."""
    model, allowed = network(order, n_max), lists(number, n_max)
    sites = sites_of([number] * len(allowed), allowed, n_max)
    fixed = torch.tensor([[26] + [8] * (n_max - 1)]) * (sites.letters > 0)
    sites = replace(sites, elements=fixed, lattice=sites.lattice[:1].expand(len(sites), -1))
    sites = replace(sites, angles=torch.full_like(sites.angles, 0.7))
    with torch.no_grad():
        w = model.log_prob(sites).w
    assert torch.isfinite(w).all()
    assert float(w.exp().sum()) == pytest.approx(1, abs=1e-10)


@pytest.mark.parametrize(("number", "letters"), [(2, "aa"), (2, "ba"), (221, "cba"), (221, "fe"), (99, "ba")])
def test_letters_that_break_the_rules_have_no_likelihood(number: int, letters: str) -> None:
    with torch.no_grad():
        assert torch.isneginf(network().log_prob(sites_of([number], [letters])).w).all()
        good = "".join(sorted(set(letters)))
        assert torch.isfinite(network().log_prob(sites_of([number], [good])).w).all()


def test_letters_a_group_does_not_have_and_an_empty_list_have_no_likelihood() -> None:
    model = network()
    for number in (1, 47, 225):
        allowed = model.allowed_letters(torch.tensor([number]), torch.tensor([0]))[0]
        assert not allowed[0]
        assert allowed.sum() == len(space_group(number).letters)
    with torch.no_grad():
        assert torch.isneginf(model.log_prob(sites_of([1], ["ab"])).w).all()
        assert torch.isneginf(model.log_prob(sites_of([225, 225], ["", "a"])).w[0])


def test_the_end_is_free_once_the_list_is_full() -> None:
    longer, shorter = network(n_max=4), network(n_max=3)
    state = {name: value for name, value in longer.state_dict().items() if name != "index.weight"}
    state["index.weight"] = longer.index.weight[:5]
    shorter.load_state_dict(state)
    sites = sites_of([1], ["aaa"])
    with torch.no_grad():
        context, _ = longer.contexts(sites)
        allowed = longer.allowed_letters(sites.group, torch.ones(1, dtype=torch.long))
        end = torch.log_softmax(longer.letter_logits(context[:, 3], allowed), -1)[:, 0]
        long, short = longer.log_prob(sites), shorter.log_prob(sites)
    torch.testing.assert_close(long.w, short.w + end)
    for name in ("a", "xyz", "l"):
        torch.testing.assert_close(getattr(long, name), getattr(short, name))


@pytest.mark.parametrize("order", ["first", "last"])
def test_padding_and_companions_do_not_matter(order: str) -> None:
    model, letters = network(order), ["abj", "c", "ai", "kkkk", "m"]
    groups = [221, 225, 99, 194, 1]
    letters[4] = "a"
    letters[2] = "ab"
    sites = sites_of(groups, letters)
    with torch.no_grad():
        together = model.log_prob(sites)
        for row in range(len(sites)):
            alone = model.log_prob(sites[row : row + 1])
            for mine, other in zip(alone, together, strict=True):
                torch.testing.assert_close(mine[0], other[row], rtol=1e-10, atol=1e-10)
        spoilt = replace(sites, angles=torch.where(sites.letters[..., None] > 0, sites.angles, 2.2))
        for mine, other in zip(model.log_prob(spoilt), together, strict=True):
            torch.testing.assert_close(mine, other)


@pytest.mark.parametrize("order", ["first", "last"])
@pytest.mark.parametrize("site", [0, 1, 2, 3])
def test_decisions_do_not_see_what_comes_later(order: str, site: int) -> None:
    model, sites = network(order), sites_of([1], ["aaaa"])
    changed = replace(sites, elements=sites.elements.clone(), angles=sites.angles.clone())
    changed.elements[0, site] = 7
    changed.angles[0, site] += 0.5
    with torch.no_grad():
        (before, cell_before), (after, cell_after) = model.contexts(sites), model.contexts(changed)
    same = (before - after).abs().amax(-1)[0] < 1e-12
    assert same.tolist() == [index <= site for index in range(5)]
    assert bool(((cell_before - cell_after).abs().max() < 1e-12) == (order == "first"))
    warm = replace(sites, lattice=sites.lattice * 1.1)
    with torch.no_grad():
        moved = (model.contexts(warm)[0] - before).abs().max()
    assert bool(moved > 1e-6) == (order == "first")


def test_coordinates_are_decided_in_turn() -> None:
    """x does not see y and z, y does not see z."""
    model, sites = network(), sites_of([1], ["a"])
    index = torch.arange(3)
    chosen = torch.randn(1, 32).expand(3, -1)
    element = torch.full((3,), 6)
    with torch.no_grad():
        first = model.coordinate_mixture(chosen, element, index, sites.angles[0, :1].expand(3, -1))
        for axis in range(3):
            other = sites.angles[0, :1].clone()
            other[0, axis] += 1
            second = model.coordinate_mixture(chosen, element, index, other.expand(3, -1))
            same = (first.location - second.location).abs().amax(1) < 1e-12
            assert same.tolist() == [later <= axis for later in range(3)]


def dependent(number: int) -> list[str]:
    """Letters whose representative repeats a free coordinate, such as (x,2x,z)."""
    table, group = wyckoff_table(), space_group(number)
    rows = range(group.positions.start, group.positions.stop)
    return [
        letter
        for letter, row in zip(group.letters, rows, strict=True)
        if (table.basis[row] != 0).sum() > table.free[row].sum()
    ]


@pytest.mark.parametrize("number", [156, 164, 166, 191, 194, 225, 99])
def test_dependent_coordinates_do_not_count(number: int) -> None:
    letters, table = dependent(number), wyckoff_table()
    assert letters
    model, sites = network(), sites_of([number] * len(letters), letters)
    row = model.positions.row(sites.group, sites.letters[:, 0])
    place = table.representative(row.numpy(), sites.angles[:, 0].numpy() / (2 * np.pi)) * 2 * np.pi
    angles = sites.angles.clone()
    angles[:, 0] = torch.from_numpy(place)
    whole = replace(sites, angles=angles)
    none = replace(sites, angles=sites.angles * model.positions.free[row][:, None])
    with torch.no_grad():
        parts = model.log_prob(sites)
        for other in (whole, none):
            for mine, theirs in zip(parts, model.log_prob(other), strict=True):
                torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("order", ["first", pytest.param("last", marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("number", "letters"), [(1, "a"), (166, "ah"), (225, "e"), (99, "g"), (14, "ae")])
def test_the_density_of_a_site_integrates_to_one(order: str, kind: Kind, number: int, letters: str) -> None:
    """Over the free coordinates of the last site, behind one without free coordinates or none."""
    torch.manual_seed(2)
    model = CrystalGPT(replace(SMALL, order=order, coordinate=kind, floor=0.4)).double().eval()  # type: ignore[arg-type]
    torch.nn.init.normal_(model.to_coordinate.weight, std=0.3)
    group, last = space_group(number), len(letters) - 1
    free = group.free[group.letters.index(letters[-1])]
    side = {1: 400, 2: 60, 3: 20}[int(free.sum())]
    steps = (torch.arange(side) + 0.5) / side * 2 * math.pi
    grid = torch.stack(torch.meshgrid(*[steps] * int(free.sum()), indexing="ij"), -1).view(-1, int(free.sum()))
    sites = sites_of([number], [letters])[torch.zeros(len(grid), dtype=torch.long)]
    sites.angles[:, last, torch.from_numpy(np.flatnonzero(free))] = grid
    with torch.no_grad():
        log = torch.cat([model.log_prob(sites[rows]).xyz for rows in torch.arange(len(grid)).split(2000)])
    assert log.std() > 0.05
    assert float(log.exp().mean() * (2 * math.pi) ** int(free.sum())) == pytest.approx(1, abs=2e-3)


def test_elements_share_a_probability_of_one() -> None:
    model, sites = network(), sites_of([225] * 118, ["a"] * 118)
    sites = replace(sites, elements=torch.arange(1, 119)[:, None] * (sites.letters > 0))
    with torch.no_grad():
        sites = replace(sites, lattice=sites.lattice[:1].expand(118, -1))
        assert float(model.log_prob(sites).a.exp().sum()) == pytest.approx(1, abs=1e-10)


def given_of(model: CrystalGPT, sites: Sites, properties: list[list[float]]) -> Given:
    """All about crystals, in float64."""
    torch.set_default_dtype(torch.float32)
    given = Given.of(sites, torch.tensor(properties), model.positions)
    torch.set_default_dtype(torch.float64)
    return Given(*(getattr(given, part.name).double() for part in fields(given)))


def test_an_unconditional_model_does_not_see_conditions() -> None:
    model, sites = network(), sites_of([221, 1], ["abc", "a"])
    given = given_of(model, sites, [[], []])
    with torch.no_grad():
        for mine, other in zip(model.log_prob(sites), model.log_prob(sites, given), strict=True):
            torch.testing.assert_close(mine, other)


KNOWN = Known(("gap", "energy"), (1.0, -2.0), (0.5, 3.0), ("composition", "elements", "n_atoms"))


@pytest.mark.parametrize("order", ["first", "last"])
def test_conditions_matter_and_missing_ones_are_no_values(order: str) -> None:
    model, sites = network(order, known=KNOWN), sites_of([221, 1], ["abc", "a"])
    given = given_of(model, sites, [[1.0, 2.0], [0.3, math.nan]])
    none = Given.none(2, 2)
    with torch.no_grad():
        base = model.log_prob(sites, none).total
        torch.testing.assert_close(model.log_prob(sites).total, base, msg="None is the same as nothing given")
        seen = [base]
        for name in ("properties", "composition", "elements", "n_atoms"):
            seen.append(model.log_prob(sites, replace(none, **{name: getattr(given, name)})).total)
        mean = replace(none, properties=torch.tensor([[1.0, -2.0]] * 2))
        seen.append(model.log_prob(sites, mean).total)
    for a, b in [(i, j) for i in range(len(seen)) for j in range(i)]:
        assert (seen[a] - seen[b]).abs().max() > 1e-6, "the mean of a property is not the lack of it"


def test_conditions_read_off_crystals_count_atoms() -> None:
    sites = sites_of([221, 225], ["abc", "ab"])
    sites = replace(sites, elements=torch.tensor([[56, 22, 8, 0], [11, 17, 0, 0]]))
    given = given_of(network(), sites, [[], []])
    assert given.n_atoms.tolist() == [5, 8]
    np.testing.assert_allclose(given.composition[0, [56, 22, 8]].numpy(), [0.2, 0.2, 0.6], rtol=1e-6)
    assert given.elements.sum(1).tolist() == [3, 2]
    assert not given.composition[:, 0].any()


def test_conditions_are_dropped_at_their_chance() -> None:
    size = 8000
    given = Given(torch.ones(size, 2), *(torch.ones(size, 119) for _ in range(2)), torch.ones(size))
    left = given.dropped(0.3, torch.Generator().manual_seed(0))
    shares = [(~left.properties.isnan()).float().mean(), left.n_atoms.mean(), left.elements[:, 1].mean()]
    for share in shares:
        assert float(share) == pytest.approx(0.49, abs=0.03)
    nothing = left.properties.isnan().all(1) & (left.n_atoms == 0) & ~left.elements.any(1) & ~left.composition.any(1)
    assert float(nothing.float().mean()) == pytest.approx(0.3 + 0.7 * 0.3**5, abs=0.03)
    assert not given.dropped(1.0, torch.Generator()).n_atoms.any()


@pytest.mark.parametrize("order", ["first", "last"])
def test_gradients_reach_every_weight(order: str) -> None:
    model = network(order, known=KNOWN).train()
    sites = sites_of([221, 1, 166, 2], ["abc", "aaa", "ach", "abi"])
    given = given_of(model, sites, [[1.0, 1.0]] * 4)
    model.log_prob(sites, given).total.sum().backward()  # type: ignore[no-untyped-call]
    idle = [name for name, p in model.named_parameters() if p.grad is None or not torch.isfinite(p.grad).all()]
    assert not idle


def test_sites_survive_the_way_to_arrays_and_back() -> None:
    letters = ["a", "bc", "h", "f"]
    sites = sites_of([221, 225, 166, 194], letters)
    crystals = sites.crystals()
    table = wyckoff_table()
    place = table.representative(crystals.position, crystals.coordinates)
    miss = (place - crystals.coordinates)[crystals.letters > 0]
    np.testing.assert_allclose(miss - np.rint(miss), 0, atol=1e-6, err_msg="coordinates are those of representatives")
    again = Sites.of(crystals).crystals()
    for name in ("group", "letters", "elements"):
        np.testing.assert_array_equal(getattr(again, name), getattr(crystals, name))
    np.testing.assert_allclose(again.coordinates, crystals.coordinates, atol=1e-6)
    np.testing.assert_allclose(again.lattice, crystals.lattice, rtol=1e-12)
