"""The networks, the sites and the data of CryinGAN."""

from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.io import write
from ase.neighborlist import neighbor_list
from torch import nn

from megen_gym.agents.cryingan.critics import AtomSetCritic, PeriodicView, PublishedView
from megen_gym.agents.cryingan.generator import Fourier, SiteGenerator
from megen_gym.agents.cryingan.networks import GAN
from megen_gym.agents.cryingan.published import LeakyReLU, PublishedCritic, PublishedGenerator
from megen_gym.agents.cryingan.settings import Settings, resolved
from megen_gym.agents.cryingan.sites import Occupation, match, occupancies, statistics
from megen_gym.agents.cryingan.symmetry import Symmetry, find_symmetry
from megen_gym.agents.cryingan.system import System, read_training
from megen_gym.agents.cryingan.training import gradient_penalty
from megen_gym.errors import InputError

CU_AU = System(np.repeat([29, 79], 27), np.diag([8.156, 8.156, 17.45]), (True, True, True))


def disordered(count: int, seed: int = 0, rattle: float = 0.1) -> tuple[System, np.ndarray]:
    """Rattled 2 x 2 x 4 fcc slabs: Cu below, Au on top, two mixed layers between; grouped fractions (B, 32, 3)."""
    rng = np.random.default_rng(seed)
    cell = np.diag([7.6, 7.6, 16.0])
    shifts = {0: [(0, 0), (0.5, 0.5)], 1: [(0.5, 0), (0, 0.5)]}
    sites = np.array(
        [
            [(i + a) / 2 + 0.1, (j + b) / 2 + 0.1, 0.25 + 0.12 * k]
            for k in range(4)
            for i, j in product(range(2), repeat=2)
            for a, b in shifts[k % 2]
        ]
    )
    result = np.empty((count, 32, 3))
    for row in range(count):
        mixed = rng.permutation(np.arange(8, 24))
        order = np.concatenate([np.arange(8), np.sort(mixed[:8]), np.sort(mixed[8:]), np.arange(24, 32)])
        result[row] = sites[order] + rng.normal(scale=rattle, size=(32, 3)) / np.diag(cell)
    return System(np.repeat([29, 79], 16), cell, (True, True, True)), result


def built(preset: str = "default", count: int = 120, **changes: object) -> tuple[GAN, np.ndarray]:
    system, fractions = disordered(count)
    anchors, matched, moved = match(system, fractions)
    occupancy = occupancies(system, matched)
    symmetry = find_symmetry(system, anchors, occupancy, moved)
    sites = statistics(system, anchors, occupancy, moved, symmetry)
    gan = GAN.build(resolved(Settings(preset=preset, **changes)), system, sites, 2.68)  # type: ignore[arg-type]
    gan.calibrate()
    return gan, fractions


def parameters(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


def test_the_published_networks_have_the_published_numbers_of_parameters() -> None:
    assert parameters(PublishedGenerator((27, 27))) == 813_057
    assert parameters(PublishedCritic((27, 27))) == 1_111_242
    assert parameters(PublishedCritic((27, 27), 6)) == 1_112_778
    interface = (72, 36, 12, 72, 72)
    assert parameters(PublishedGenerator(interface)) == 2_560_257
    assert parameters(PublishedCritic(interface)) == 1_879_242
    assert parameters(PublishedCritic(interface, 6)) == 1_880_778


def test_the_published_batchnorm_puts_all_atoms_at_one_point_and_a_sane_eps_does_not() -> None:
    spread = {eps: PublishedGenerator((27, 27), bn_eps=eps)(torch.randn(8, 64)) for eps in (0.8, 1e-5)}
    assert spread[0.8].shape == (8, 54, 3)
    assert 0.3 < float(spread[0.8].detach().min()) < float(spread[0.8].detach().max()) < 0.7
    assert float(spread[0.8].detach().std()) < 0.02 < 0.1 < float(spread[1e-5].detach().std())


@pytest.mark.parametrize("training", [True, False])
def test_the_matrix_products_are_the_published_convolutions(training: bool) -> None:
    generator = PublishedGenerator((3, 2), bn_eps=1e-5).double().train(training)
    z = torch.randn(4, 64, dtype=torch.float64)
    x = generator.l1(z).view(4, 128, 5, 1)
    convolved = torch.sigmoid(generator.map4(generator.map3(generator.map2(generator.map1(x)))))[:, 0]
    torch.testing.assert_close(generator(z), convolved, rtol=0, atol=1e-10)
    critic = PublishedCritic((3, 2), 6).double()
    table = torch.rand(4, 5, 6, dtype=torch.float64)
    x = table[:, None]
    for layer in (critic.conv1, critic.conv2, critic.conv3):
        x = nn.functional.leaky_relu(layer(x), 0.2)
    pooled = torch.stack([x[:, :, :3].mean((2, 3)), x[:, :, 3:].mean((2, 3))], -1)
    torch.testing.assert_close(critic(table), critic.output(critic.dense(pooled.flatten(1))), rtol=0, atol=1e-10)


@pytest.mark.parametrize("columns", [3, 6])
def test_critics_do_not_see_the_order_of_the_atoms_of_an_element(columns: int) -> None:
    table = torch.rand(2, 54, columns, dtype=torch.float64)
    within = torch.cat([torch.randperm(27), 27 + torch.randperm(27)])
    across = torch.arange(54).flip(0)
    fourier = Fourier(CU_AU.lattice, 2.6) if columns == 3 else None
    for critic in (PublishedCritic((27, 27), columns), AtomSetCritic((27, 27), columns, fourier, 2.6)):
        critic = critic.double()
        torch.testing.assert_close(critic(table[:, within]), critic(table), rtol=0, atol=1e-8)
        assert (critic(table[:, across]) - critic(table)).abs().max() > 1e-6


def test_the_published_distances_are_those_of_all_images() -> None:
    cell = np.array([[4.0, 0, 0], [3.4, 1.9, 0], [0.3, 0.2, 9.0]])
    fractions = np.random.default_rng(1).random((2, 4, 3))
    system = System(np.array([29, 29, 79, 79]), cell, (True, True, True))
    found = PublishedView(system, 12).distances(torch.from_numpy(fractions))
    for row in range(2):
        atoms = Atoms("Cu2Au2", scaled_positions=fractions[row], cell=cell, pbc=True)
        first, distance = neighbor_list("id", atoms, 12.0)
        for atom in range(4):
            expected = np.sort(distance[first == atom])[:12]
            np.testing.assert_allclose(found[row, atom].numpy(), expected, atol=1e-9)


def test_the_default_critics_do_not_see_lattice_vectors() -> None:
    gan, fractions = built()
    x = torch.tensor(fractions[:3])
    for net in gan.modules.values():
        net.double()
    shifted = x + torch.randint(-2, 3, x.shape)
    for here, there in zip(gan.scores(x), gan.scores(shifted), strict=True):
        torch.testing.assert_close(here, there, rtol=0, atol=1e-8)


def test_distances_to_each_element_are_ascending_and_complete() -> None:
    system, fractions = disordered(2)
    view = PeriodicView(system, 5, 2.68)
    table = view.distances(torch.tensor(fractions)) * (2.68 / 20)
    atoms = Atoms(system.numbers, scaled_positions=fractions[0], cell=system.cell, pbc=True)
    pairs = atoms.get_all_distances(mic=True) + np.eye(32) * 99
    np.testing.assert_allclose(table[0, :, :5].numpy(), np.sort(pairs[:, :16], 1)[:, :5], atol=1e-9)
    np.testing.assert_allclose(table[0, :, 5:].numpy(), np.sort(pairs[:, 16:], 1)[:, :5], atol=1e-9)


def test_coincident_atoms_have_finite_gradients() -> None:
    gan, fractions = built()
    x = torch.tensor(fractions[:2], dtype=torch.float32)
    x[0, 1] = x[0, 0]
    for view in (gan.view, PublishedView(gan.system, 6)):
        x.requires_grad_(True)
        (gradient,) = torch.autograd.grad(view.distances(x).square().sum(), x)
        assert torch.isfinite(gradient).all()


def test_gradient_penalty_of_a_linear_critic_is_known() -> None:
    critic = nn.Sequential(nn.Flatten(), nn.Linear(12, 2))
    slope = critic[1].weight.detach().sum(0).norm()  # type: ignore[union-attr]
    penalty = gradient_penalty(critic, torch.randn(5, 4, 3))
    torch.testing.assert_close(penalty.detach(), (slope - 1) ** 2)


def test_the_activation_is_leaky_relu_to_all_orders() -> None:
    own = PublishedCritic((3, 2))
    plain = PublishedCritic((3, 2))
    plain.load_state_dict(own.state_dict())
    plain.activation = nn.LeakyReLU(0.2)  # type: ignore[assignment]
    plain.dense[1], plain.dense[3] = nn.LeakyReLU(0.2), nn.LeakyReLU(0.2)
    assert isinstance(own.activation, LeakyReLU)
    table = torch.randn(4, 5, 3)
    torch.testing.assert_close(own(table), plain(table))
    for critic in (own, plain):
        gradient_penalty(critic, table).backward()
    for a, b in zip(own.parameters(), plain.parameters(), strict=True):
        if b.grad is not None:
            torch.testing.assert_close(torch.zeros_like(b) if a.grad is None else a.grad, b.grad, rtol=1e-4, atol=1e-6)


def test_sites_are_found_whatever_the_order_of_the_atoms() -> None:
    system, fractions = disordered(100)
    rng = np.random.default_rng(5)
    mixed = np.stack([x[np.r_[rng.permutation(16), 16 + rng.permutation(16)]] for x in fractions])
    anchors, matched, moved = match(system, mixed)
    again = np.take_along_axis(mixed, matched[..., None], 1) @ system.cell
    np.testing.assert_allclose(system.lattice.minimum_image(again - anchors - moved), 0, atol=1e-9)
    apart = system.lattice.distances(anchors) + np.eye(32) * 99
    assert apart.min() > 2.6
    occupancy = occupancies(system, matched)
    np.testing.assert_allclose(occupancy.sum(0), 1)
    assert np.allclose(np.sort(occupancy[0])[:8], 0)
    assert np.abs(np.sort(occupancy[0])[8:24] - 0.5).max() < 0.25


def test_the_symmetry_of_the_average_is_found_and_respected() -> None:
    system, fractions = disordered(400)
    anchors, matched, moved = match(system, fractions)
    occupancy = occupancies(system, matched)
    symmetry = find_symmetry(system, anchors, occupancy, moved)
    assert len(symmetry) == 8 * 8  # 4 mm times the translations within the cell
    sites = statistics(system, anchors, occupancy, moved, symmetry)
    for target in symmetry.sites:
        np.testing.assert_allclose(sites.occupancy[:, target], sites.occupancy, atol=1e-12)
    np.testing.assert_allclose(sites.spread, 0.1, atol=0.01)
    slab = System(system.numbers, system.cell, (True, True, False))
    kept = find_symmetry(slab, anchors, occupancy, moved)
    assert (kept.rotations[:, 2] == [0, 0, 1]).all()


def test_symmetry_is_found_from_few_structures_and_turns_no_length() -> None:
    system, fractions = disordered(40)
    anchors, matched, moved = match(system, fractions)
    assert len(find_symmetry(system, anchors, occupancies(system, matched), moved)) == 64
    strained = System(system.numbers, np.diag([7.6, 7.65, 16.0]), system.pbc)
    anchors, matched, moved = match(strained, fractions)
    found = find_symmetry(strained, anchors, occupancies(strained, matched), moved)
    assert 16 <= len(found) <= 32
    for rotation in found.rotations:
        turn = np.linalg.inv(strained.cell) @ rotation.T @ strained.cell
        np.testing.assert_allclose(turn @ turn.T, np.eye(3), atol=1e-3)


def test_statistics_reproduce_the_covariance_of_the_data() -> None:
    system, fractions = disordered(600, rattle=0.02)
    rng = np.random.default_rng(3)
    shift = rng.normal(scale=0.2, size=(600, 1, 3)) / np.diag(system.cell)
    fractions[:, 16:] += shift
    anchors, matched, moved = match(system, fractions)
    sites = statistics(system, anchors, occupancies(system, matched), moved, Symmetry.identity(32))
    assert sites.modes.shape[1] >= 3
    covariance = sites.modes @ sites.modes.T + np.diag(sites.rest**2)
    np.testing.assert_allclose(np.diag(covariance), 1, atol=0.05)


def test_occupations_keep_the_composition_and_the_shares() -> None:
    occupancy = np.array([[1, 0.5, 0.5, 0, 0.25, 0.75], [0, 0.5, 0, 1, 0.25, 0.25], [0, 0, 0.5, 0, 0.5, 0]])
    element = Occupation(occupancy, (3, 2, 1))(torch.randn(6, 20_000, 2))
    counts = torch.stack([(element == e).sum(0) for e in range(3)])
    assert (counts == torch.tensor([3, 2, 1])[:, None]).all()
    for index in range(3):
        share = (element == index).float().mean(1).numpy()
        np.testing.assert_allclose(share, occupancy[index], atol=0.08)


def test_the_default_generator_has_the_moments_of_the_data() -> None:
    gan, _ = built(count=300)
    made = gan.sample(600, seed=3)
    assert isinstance(gan.average, SiteGenerator)
    _, matched, moved = match(gan.system, gan.system.lattice.fractional(made.positions))
    spread = np.sort(moved.std(0), axis=None)
    np.testing.assert_allclose(spread.mean(), gan.sites.spread.mean(), rtol=0.1)
    occupancy = np.sort(occupancies(gan.system, matched)[0])
    np.testing.assert_allclose(occupancy, np.sort(gan.sites.occupancy[0]), atol=0.12)
    distances = gan.system.lattice.distances(made.positions) + np.eye(32) * 99
    assert (distances.min((1, 2)) > 1.7).mean() > 0.9


@pytest.mark.parametrize("preset", ["default", "published"])
def test_a_sample_does_not_depend_on_its_companions(preset: str) -> None:
    gan, _ = built(preset)
    z = gan.latents(40, torch.Generator().manual_seed(1))
    whole, alone = gan.generate(z), gan.generate(z[7:8])
    np.testing.assert_allclose(whole.positions[7], alone.positions[0], atol=1e-4)
    np.testing.assert_array_equal(gan.sample(40, 1).positions, whole.positions)


def files(folder: Path, structures: list[Atoms]) -> Path:
    path = folder / "data.extxyz"
    write(path, structures, format="extxyz")
    return path


def crystal() -> Atoms:
    return bulk("Cu", cubic=True) * (2, 1, 1)


def test_elements_in_any_order_are_grouped_and_put_back(tmp_path: Path) -> None:
    atoms = crystal()
    atoms.symbols[::2] = "Au"
    other = atoms[[1, 0, 3, 2, 5, 4, 7, 6]]
    system, fractions = read_training(files(tmp_path, [atoms, other]))
    assert system.formula == "Au4Cu4"
    back = system.batch(fractions)
    assert back.to_atoms()[0].get_chemical_symbols() == atoms.get_chemical_symbols()
    np.testing.assert_allclose(back.positions[0], atoms.positions, atol=1e-6)
    assert back.to_atoms()[1].get_chemical_symbols() == atoms.get_chemical_symbols()
    np.testing.assert_allclose(np.sort(back.positions[1], 0), np.sort(atoms.positions, 0), atol=1e-6)


def wrong_cell(atoms: Atoms) -> None:
    atoms.set_cell(atoms.cell[:] * 1.3, scale_atoms=True)


def wrong_element(atoms: Atoms) -> None:
    atoms.symbols[0] = "Au"


def wrong_count(atoms: Atoms) -> None:
    del atoms[0]


def wrong_periodicity(atoms: Atoms) -> None:
    atoms.pbc = (True, True, False)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (wrong_cell, "has the cell"),
        (wrong_element, "AuCu7, the first one is Cu8"),
        (wrong_count, "has 7 atoms, the first one has 8"),
        (wrong_periodicity, "has pbc"),
    ],
)
def test_a_structure_that_differs_is_named(tmp_path: Path, spoil: object, words: str) -> None:
    good, bad = crystal(), crystal()
    spoil(bad)  # type: ignore[operator]
    with pytest.raises(InputError, match=f"structure 2 .*{words}"):
        read_training(files(tmp_path, [good, good, bad]))


def test_atoms_outside_a_cell_that_does_not_repeat_are_refused(tmp_path: Path) -> None:
    good = crystal()
    good.pbc = (True, True, False)
    bad = good.copy()
    bad.positions[3] = [-0.5, 0.1, 4.0]
    with pytest.raises(InputError, match=r"structure 1 .*outside the cell along an axis that is not periodic"):
        read_training(files(tmp_path, [good, bad]))
    molecule = Atoms("H2", [[0, 0, 0], [0, 0, 0.8]])
    with pytest.raises(InputError, match="has no cell"):
        read_training(files(tmp_path, [molecule]))


def test_a_folder_is_read_whole(tmp_path: Path) -> None:
    write(tmp_path / "a.extxyz", [crystal()] * 2, format="extxyz")
    write(tmp_path / "b.extxyz", [crystal()] * 3, format="extxyz")
    assert len(read_training(tmp_path)[1]) == 5
