"""The bundled polymorphs and the model they come from: invariants, Madelung constants, an independent lattice sum."""

import importlib.util
import re
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from math import gcd
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from scipy.special import erfc

from megen_gym.agents.polysrl import derive_polymorphs, ionic, ions
from megen_gym.agents.polysrl.polymorphs import BUNDLE, WINDOW, Polymorphs, bundled, read_polymorphs, write_polymorphs
from megen_gym.errors import InputError
from megen_gym.periodic import Lattice

needs_pymatgen = pytest.mark.skipif(importlib.util.find_spec("pymatgen") is None, reason="needs pymatgen")


def rows_of(formula: str) -> list[int]:
    found = bundled()
    return np.flatnonzero(found.composition == found.formulas.index(formula)).tolist()


def test_the_bundle_is_of_the_promised_size() -> None:
    found = bundled()
    assert 600 <= len(found.formulas) <= 1000
    assert 2000 <= len(found) <= 4000
    assert BUNDLE.stat().st_size < 400_000
    kinds, sizes = np.unique(found.kinds, return_counts=True)
    varied = [np.unique(found.counts(WINDOW)[np.array(found.kinds) == kind]).size > 2 for kind in kinds]
    assert sum(size >= 60 and many for size, many in zip(sizes, varied, strict=True)) >= 4
    assert len(set(found.formulas)) == len(found.formulas)
    assert bundled() is found


def test_loading_needs_no_pymatgen() -> None:
    code = (
        "import sys; sys.modules['pymatgen'] = None\nfrom megen_gym.agents.polysrl.polymorphs import bundled; bundled()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_energies_start_at_zero_rise_and_stay_in_the_window() -> None:
    found = bundled()
    first = np.unique(found.composition, return_index=True)[1]
    assert (found.energy[first] == 0).all()
    assert len(first) == len(found.formulas)
    assert (np.diff(found.composition) >= 0).all()
    assert found.energy.max() <= WINDOW
    same = np.diff(found.composition) == 0
    assert (np.diff(found.energy)[same] >= 0).all()


def test_counts_follow_the_window() -> None:
    found = bundled()
    assert found.counts(WINDOW).sum() == len(found)
    assert (found.counts(0.0) >= 1).all()
    assert (found.counts(0.02) <= found.counts()).all()
    assert (found.counts() == found.counts(0.05)).all()
    by_hand = [sum(found.energy[row] <= 0.05 for row in rows_of(name)) for name in ("NaCl", "TiO2", "KMgF3")]
    assert [found.counts()[found.formulas.index(name)] for name in ("NaCl", "TiO2", "KMgF3")] == by_hand
    with pytest.raises(InputError, match="window is -1"):
        found.counts(-1)


def test_no_two_structures_of_a_composition_count_as_one() -> None:
    found, size = bundled(), bundled().volumes() ** (1 / 3)
    for start, end in pairwise(np.searchsorted(found.composition, np.arange(len(found.formulas) + 1)).tolist()):
        energy, scale = found.energy[start:end], size[start:end]
        close = np.abs(energy[:, None] - energy) < derive_polymorphs.SAME_ENERGY - 1e-6
        close &= np.abs(scale[:, None] / scale - 1) < derive_polymorphs.SAME_SCALE - 1e-3
        assert close.sum() == end - start, found.formulas[found.composition[start]]


def test_formulas_agree_with_the_atoms_which_keep_their_distance() -> None:
    found = bundled()
    for atoms in found.to_atoms():
        symbols = atoms.get_chemical_symbols()
        amounts = {symbol: symbols.count(symbol) for symbol in set(symbols)}
        unit = gcd(*amounts.values())
        wanted = {symbol: int(n or 1) for symbol, n in re.findall(r"([A-Z][a-z]?)(\d*)", atoms.info["formula"])}
        assert {symbol: n // unit for symbol, n in amounts.items()} == wanted
    rows = np.random.default_rng(0).choice(len(found), 150, replace=False)
    atoms_list = found.to_atoms()
    for atoms in (atoms_list[row] for row in rows):
        nearest = Lattice(atoms.cell[:]).nearest(atoms.positions, 1).min()
        assert 1.3 < nearest < 4.5
    volumes = found.volumes()
    assert np.allclose([a.cell.volume / len(a) for a in atoms_list], volumes)
    assert 5 < volumes.min() < volumes.max() < 120


def test_the_file_goes_round_and_bad_ones_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "some.npz"
    write_polymorphs(path, bundled())
    again = read_polymorphs(path)
    assert again.formulas == bundled().formulas
    assert np.array_equal(again.cells, bundled().cells)
    path.write_bytes(path.read_bytes()[:3000])
    for bad in (path, tmp_path / "none.npz"):
        with pytest.raises(InputError, match="no file of polymorphs"):
            read_polymorphs(bad)
    with pytest.raises(InputError, match="do not fit together"):
        replace(bundled(), energy=np.zeros(3))
    with pytest.raises(InputError, match="as many kinds"):
        replace(bundled(), kinds=("AX",))


def lattice_energy(atoms: Atoms, charge: np.ndarray, radius: np.ndarray) -> float:
    """Per atom: an Ewald sum of its own, with a split of its own, and the repulsion summed to 12 Å."""
    cell, n = atoms.cell[:], len(atoms)
    split = 0.4
    steps = np.ceil(12 / np.abs(1 / np.linalg.norm(np.linalg.inv(cell), axis=0))).astype(int)
    shifts = np.stack(np.meshgrid(*(np.arange(-s, s + 1) for s in steps), indexing="ij"), -1).reshape(-1, 3) @ cell
    apart = atoms.positions[:, None] - atoms.positions
    d = np.linalg.norm(apart[:, :, None] + shifts, axis=-1)
    near = (d > 1e-3) & (d < 12)
    d = np.where(near, d, 1.0)
    product = (charge[:, None] * charge)[:, :, None]
    real = 14.399645 / 2 * (near * product * erfc(split * d) / d).sum()
    inverse = 2 * np.pi * np.linalg.inv(cell).T
    reach = np.ceil(2 * split * 5 / np.abs(1 / np.linalg.norm(np.linalg.inv(inverse), axis=0))).astype(int)
    waves = np.stack(np.meshgrid(*(np.arange(-s, s + 1) for s in reach), indexing="ij"), -1).reshape(-1, 3)
    waves = waves[np.any(waves != 0, 1)] @ inverse
    square = (waves**2).sum(1)
    factor = np.abs(np.exp(1j * waves @ atoms.positions.T) @ charge) ** 2
    long = 14.399645 * 2 * np.pi / atoms.cell.volume * (np.exp(-square / 4 / split**2) / square * factor).sum()
    itself = 14.399645 * split / np.sqrt(np.pi) * (charge**2).sum()
    contact = (radius[:, None] + radius)[:, :, None]
    height = 1.7475646 * 14.399645 * ionic.RHO / 6 * np.where(product < 0, -product, 1) / contact**2
    soft = 0.5 * (near * height * np.exp((contact - d) / ionic.RHO)).sum()
    return float((real + long - itself + soft) / n)


@pytest.mark.parametrize(
    ("formula", "known"),
    [
        ("NaCl", {"Na": (1, 1.02), "Cl": (-1, 1.81)}),
        ("CeO2", {"Ce": (4, 0.87), "O": (-2, 1.40)}),
        ("KMgF3", {"K": (1, 1.38), "Mg": (2, 0.72), "F": (-1, 1.33)}),
    ],
)
def test_energies_and_scales_are_those_of_an_independent_sum(formula: str, known: dict[str, tuple[int, float]]) -> None:
    rows, energies = rows_of(formula)[:3], []
    for row in rows:
        (atoms,) = bundled().to_atoms([row])
        charge, radius = np.array([known[symbol] for symbol in atoms.symbols]).T
        at = []
        for scale in (0.99, 1.0, 1.01):
            scaled = atoms.copy()
            scaled.set_cell(atoms.cell[:] * scale, scale_atoms=True)
            at.append(lattice_energy(scaled, charge, radius))
        best = (at[0] - at[2]) / (at[0] - 2 * at[1] + at[2]) / 2
        assert abs(best) < 0.15
        assert at[1] < min(at[0], at[2])
        energies.append(at[1])
    assert np.allclose(np.array(energies) - energies[0], bundled().energy[rows], atol=4e-4)


@needs_pymatgen
@pytest.mark.parametrize(
    ("group", "spot", "wanted"),
    [("Fm-3m", 0.5, 1.74756), ("Pm-3m", 0.5, 1.76267), ("F-43m", 0.25, 1.63806)],
)
def test_madelung_constants(group: str, spot: float, wanted: float) -> None:
    from pymatgen.core import Lattice as Cubic
    from pymatgen.core import Structure

    made = Structure.from_spacegroup(group, Cubic.cubic(5.0), ["Na", "Cl"], [[0, 0, 0], [spot] * 3])
    roles = np.array([int(site.specie.symbol == "Cl") for site in made])
    found = ionic.motif(made, roles, (1, -1))
    assert found is not None
    nearest = found.distances[found.pairs[0] != found.pairs[1]].min()
    assert -found.coulomb * nearest / (14.399645 * len(made) / 2) == pytest.approx(wanted, abs=2e-5)
    energy, scale, least = ionic.minimum(found, np.array([[1.02, 1.81], [1.67, 2.20]]))
    assert (energy < 0).all()
    assert (scale * nearest / [2.83, 3.87] > 0.9).all()
    assert (least > 0.8).all()


@needs_pymatgen
def test_charges_that_add_up_to_something_are_refused() -> None:
    from pymatgen.core import Lattice as Cubic
    from pymatgen.core import Structure

    salt = Structure.from_spacegroup("Fm-3m", Cubic.cubic(5.0), ["Na", "Cl"], [[0, 0, 0], [0.5] * 3])
    with pytest.raises(InputError, match="add up to"):
        ionic.motif(salt, np.array([int(site.specie.symbol == "Cl") for site in salt]), (2, -1))
    for counts, charges, _ in ions.TYPES.values():
        assert not any(np.dot(counts, charge) for charge in charges)


@pytest.mark.slow
@needs_pymatgen
def test_the_bundle_is_what_deriving_gives() -> None:
    kinds = ("AX3", "ABX2")
    made, found = derive_polymorphs.derive(kinds), bundled()
    part = np.flatnonzero(np.isin(np.array(found.kinds)[found.composition], kinds))
    assert [made.formulas[row] for row in made.composition] == [found.formulas[found.composition[row]] for row in part]
    assert list(made.prototypes) == [found.prototypes[row] for row in part]
    assert np.allclose(made.energy, found.energy[part], atol=2e-4)
    assert np.allclose(made.cells, found.cells[part], atol=1e-4)
    atoms = np.concatenate([np.arange(found.offsets[row], found.offsets[row + 1]) for row in part])
    assert np.array_equal(made.numbers, found.numbers[atoms])
    assert np.allclose(made.fractions, found.fractions[atoms], atol=1e-6)
    assert isinstance(made, Polymorphs)


def test_the_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("pymatgen.core", "pymatgen.analysis.prototypes", "pymatgen.analysis.ewald"):
        monkeypatch.setitem(sys.modules, module, None)
    for call in (ions.ions.__wrapped__, derive_polymorphs.prototypes.__wrapped__):
        with pytest.raises(InputError, match=r"megen-gym\[crystals\]"):
            call()
