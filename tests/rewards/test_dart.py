"""DART: descriptor, network, fast path, weights files, and agreement with the published numbers."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.io import read

from megen_gym.errors import InputError
from megen_gym.rewards.base import KCAL_PER_MOL
from megen_gym.rewards.dart import tad
from megen_gym.rewards.dart.candidates import build
from megen_gym.rewards.dart.evaluate import Evaluator
from megen_gym.rewards.dart.net import DartNet
from megen_gym.rewards.dart.reward import Dart
from megen_gym.rewards.dart.weights import BUNDLED, load_net, load_state, save_state
from megen_gym.structure import StructureBatch

REFERENCE = Path(os.environ.get("MEGEN_REFERENCE", Path(__file__).resolve().parents[3] / "shared" / "reference"))
needs_reference = pytest.mark.skipif(not (REFERENCE / "dart_megen_last.npz").is_file(), reason="no reference data")
WIDTHS = (16, 12, 24, 10, 8)


def clusters(seed: int = 0, sizes: tuple[int, ...] = (1, 2, 3, 7, 12, 18, 30)) -> list[Atoms]:
    rng = np.random.default_rng(seed)
    return [Atoms(f"Ga{n}", positions=rng.uniform(-1, 1, (n, 3)) * 1.9 * n ** (1 / 3)) for n in sizes]


def batch_of(structures: list[Atoms]) -> StructureBatch:
    return StructureBatch.from_atoms(structures, ["X", "Ga"])


def a_net(seed: int = 0, repulsion: bool = True) -> DartNet:
    torch.manual_seed(seed)
    return DartNet(WIDTHS, repulsion)


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "weights.npz"
    save_state(path, a_net().state_dict(), {"unit": "kcal/mol"})
    return path


def straightforward(net: DartNet, positions: np.ndarray) -> tuple[np.ndarray, list[list[int]], float]:
    """Energies, descriptors and repulsion of one structure, atom by atom, from the description of the model."""
    p = {name: value.double().numpy() for name, value in net.state_dict().items()}

    def celu(x: np.ndarray) -> np.ndarray:
        return np.maximum(x, 0) + np.minimum(0, 0.1 * np.expm1(x / 0.1))

    def layer(name: str, x: np.ndarray) -> np.ndarray:
        return p[f"{name}.weight"] @ x + p[f"{name}.bias"]

    d = np.array([[np.linalg.norm(a - b) for b in positions] for a in positions])
    true = d
    if net.repulsion is not None and len(d) > 1:
        d = d * max(1.0, 2.75 / (d + np.diag([np.inf] * len(d))).min(1).mean())
    counts = []
    for row in d:
        first, second, third = (int((row < cut).sum()) for cut in (3.49, 6.3, 15.0))
        counts.append([first, second - first, third - second])
    energies = []
    for i in range(len(d)):
        hidden = np.zeros(WIDTHS[1])
        for j in range(len(d)):
            if i == j:
                branch = "fi"
            elif d[i, j] <= 0.5:
                continue
            else:
                branch = "fj" if d[i, j] < 3.49 else "fk" if d[i, j] < 6.3 else "fl"
            hidden += celu(layer(f"{branch}2", celu(layer(f"{branch}1", np.array(counts[j], dtype=float)))))
        for name in ("inter1", "inter2", "inter3"):
            hidden = celu(layer(name, hidden))
        energies.append(layer("inter4", hidden)[0])
    repulsion = 0.0
    if net.repulsion is not None:
        strength, steepness = np.exp(p["repulsion.log_strength"]), np.exp(p["repulsion.log_steepness"])
        for distance in true[np.triu_indices(len(d), 1)]:
            switch = 0.5 + 0.5 * np.cos(np.pi * np.clip((distance - 2.55) / 0.4, 0, 1))
            repulsion += strength * np.exp(-steepness * (distance / 2.7 - 1)) * switch
    return np.array(energies), counts, repulsion


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 2e-5), ("float64", 1e-10)])
@pytest.mark.parametrize("repulsion", [True, False])
def test_fast_path_equals_the_straightforward_one(dtype: str, tolerance: float, repulsion: bool) -> None:
    net = a_net(repulsion=repulsion)
    evaluate = Evaluator(net, getattr(torch, dtype))
    structures = clusters()
    structures.append(Atoms("Ga4", positions=[[0, 0, 0], [0.3, 0, 0], [20, 0, 0], [20, 2.5, 0]]))
    structures.append(Atoms("Ga4", positions=[[0, 0, 0], [3.49, 0, 0], [0, 6.3, 0], [0, 0, 15.0]]))
    for _ in range(2):  # with an empty and with a filled table
        batch = batch_of(structures)
        found = evaluate(torch.from_numpy(batch.positions), torch.from_numpy(batch.mask))
        for row, atoms in enumerate(structures):
            energies, counts, repelled = straightforward(net, atoms.positions)
            assert found.counts[row, : len(atoms)].tolist() == counts
            np.testing.assert_allclose(found.atomic[row, : len(atoms)], energies, rtol=tolerance, atol=tolerance)
            assert not found.atomic[row, len(atoms) :].any()
            np.testing.assert_allclose(found.repulsion[row], repelled, rtol=1e-9, atol=1e-12)
            total = energies.sum() * KCAL_PER_MOL + repelled
            np.testing.assert_allclose(found.total[row], total, rtol=tolerance, atol=tolerance)


def test_training_forward_equals_inference() -> None:
    from megen_gym.rewards.dart.features import featurise

    net, structures = a_net(), clusters()
    features = featurise([atoms.positions for atoms in structures])
    rows = torch.tensor([4, 0, 2])
    batch = batch_of([structures[row] for row in rows])
    expected = Evaluator(net)(torch.from_numpy(batch.positions), torch.from_numpy(batch.mask)).total
    energies = features.energies(net, rows, KCAL_PER_MOL)
    np.testing.assert_allclose(energies.detach(), expected, rtol=1e-4)
    energies.sum().backward()
    assert all(value.grad is not None for value in net.parameters())


def test_cut_offs_are_strict() -> None:
    for cutoff, column in ((3.49, 0), (6.3, 1), (15.0, 2)):
        for distance, inside in ((cutoff, 0), (np.nextafter(cutoff, 0), 1)):
            positions = torch.tensor([[[0.0, 0.0, 0.0], [distance, 0.0, 0.0]]], dtype=torch.float64)
            pairs = tad.distances(positions, torch.ones(1, 2, dtype=torch.bool))
            counts, _ = tad.topology(pairs)
            assert counts[0, 0, column] == inside + (column == 0)


def test_packing_of_counts() -> None:
    counts = torch.tensor([[1, 0, 0], [3, 900, 70000], [0, 0, 0]])
    assert torch.equal(tad.unpack(tad.pack(counts)), counts)


def test_invariance(weights: Path) -> None:
    reward, rng = Dart(weights, "float64"), np.random.default_rng(1)
    structures = clusters(1)
    energy = reward.energy(batch_of(structures))
    rotation = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    moved = []
    for atoms in structures:
        positions = rng.permutation(atoms.positions) @ rotation.T + rng.normal(size=3) * 10
        moved.append(Atoms(atoms.symbols, positions))
    np.testing.assert_allclose(reward.energy(batch_of(moved)), energy, rtol=1e-10)


def test_batch_order_padding_and_dtype_do_not_matter(weights: Path) -> None:
    reward, structures = Dart(weights), clusters(2)
    energy = reward.energy(batch_of(structures))
    single = np.concatenate([reward.energy(batch_of([atoms])) for atoms in structures])
    np.testing.assert_allclose(energy, single, rtol=1e-6)
    np.testing.assert_allclose(reward.energy(batch_of(structures[::-1]))[::-1], energy, rtol=1e-6)
    np.testing.assert_allclose(Dart(weights, "float64").energy(batch_of(structures)), energy, rtol=1e-5)
    assert energy.dtype == np.float64


def test_large_batches_are_cut_into_passes(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    structures = clusters(3)
    whole = Dart(weights).energy(batch_of(structures))
    monkeypatch.setattr("megen_gym.rewards.dart.evaluate.PAIRS_PER_PASS", {"cpu": 1})
    monkeypatch.setattr("megen_gym.rewards.dart.evaluate.TRIPLES_KEPT", 3)
    np.testing.assert_allclose(Dart(weights).energy(batch_of(structures)), whole, rtol=1e-6)


def test_no_atoms_no_energy(weights: Path) -> None:
    empty = StructureBatch(np.zeros((2, 3, 3)), np.zeros((2, 3), dtype=int), ("X", "Ga"))
    assert Dart(weights).energy(empty).tolist() == [0.0, 0.0]
    none = StructureBatch(np.zeros((0, 3, 3)), np.zeros((0, 3), dtype=int), ("X", "Ga"))
    assert Dart(weights).energy(none).shape == (0,)


def test_reward_telescopes(weights: Path) -> None:
    reward, atoms = Dart(weights), clusters(4, (5,))[0]
    total, known = 0.0, None
    for n in range(5):
        outcome = reward(batch_of([atoms[:n]]), batch_of([atoms[: n + 1]]), known)
        known = outcome.known
        total += outcome.value[0]
    assert total == pytest.approx(-reward.energy(batch_of([atoms]))[0])


def test_refusals(weights: Path) -> None:
    reward = Dart(weights)
    with pytest.raises(InputError, match="gallium only"):
        reward.energy(StructureBatch.from_atoms([Atoms("GaAs", positions=[[0, 0, 0], [2.5, 0, 0]])]))
    with pytest.raises(InputError, match="periodic"):
        reward.energy(StructureBatch.from_atoms([Atoms("Ga", cell=[5, 5, 5], pbc=True)]))
    with pytest.raises(InputError, match="float32"):
        Dart(weights, dtype="half")
    with pytest.raises(InputError, match="device"):
        Dart(weights, device="warp")


def test_unused_published_key_is_accepted(tmp_path: Path) -> None:
    net = a_net(repulsion=False)
    save_state(tmp_path / "w.npz", {**net.state_dict(), "mask.weight": torch.zeros(3, 3)}, {})
    assert load_net(tmp_path / "w.npz").repulsion is None


def corrupt(path: Path, how: str) -> None:
    state = {name: value.numpy() for name, value in a_net().state_dict().items()}
    if how == "text":
        path.write_text("not an archive")
    elif how == "truncated":
        save_state(path, a_net().state_dict(), {})
        path.write_bytes(path.read_bytes()[:2000])
    elif how == "pickle":
        np.savez(path, **{**state, "inter4.bias": np.array([{"a": 1}], dtype=object)})
    elif how == "metadata":
        np.savez(path, **state, metadata=np.array("{"))
    elif how == "npy":
        with path.open("wb") as file:
            np.save(file, np.zeros(3))
    else:
        state |= {"nan": {"fi1.bias": state["fi1.bias"] * np.nan}, "shape": {"fk2.weight": np.zeros((3, 3))}}.get(
            how, {}
        )
        state |= {"extra": {"more": np.zeros(2)}, "integer": {"fi1.bias": np.arange(16)}}.get(how, {})
        for name in {"lack": ["inter3.bias", "fl1.weight"], "branch": ["fl1.weight"]}.get(how, []):
            del state[name]
        np.savez(path, **state)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("text", "no readable npz"),
        ("truncated", "no readable npz"),
        ("pickle", "no readable npz"),
        ("npy", "no readable npz"),
        ("metadata", "not JSON"),
        ("nan", "finite"),
        ("integer", "finite"),
        ("shape", "fk2.weight has shape"),
        ("extra", "unknown keys more"),
        ("lack", "lack inter3.bias"),
        ("branch", "lack fl1.weight"),
    ],
)
def test_bad_weights_are_refused_in_one_sentence(tmp_path: Path, how: str, message: str) -> None:
    path = tmp_path / "bad.npz"
    corrupt(path, how)
    with pytest.raises(InputError, match=message) as refusal:
        Dart(path)
    assert "\n" not in str(refusal.value)


def test_absent_weights() -> None:
    with pytest.raises(InputError, match="no weights file"):
        Dart("nowhere.npz")


def test_bundled_weights_are_not_paid_for_overlap() -> None:
    reward, rng = Dart(), np.random.default_rng(0)
    assert load_state()[1]["unit"]
    assert load_state(BUNDLED)[0]["repulsion.log_strength"].shape == ()
    for atoms in clusters(5, (4, 8, 13, 18)):
        packed = Atoms(atoms.symbols, relaxed(atoms.positions))
        energy = reward.energy(batch_of([packed]))[0]
        scales = (0.3, 0.5, 0.7, 0.8, 0.9)
        shrunk = [Atoms(packed.symbols, packed.positions * scale) for scale in scales]
        assert (reward.energy(batch_of(shrunk)) > energy).all()
        for distance in (0.01, 0.5, 1.0, 1.5):
            spoilt = packed.copy()
            spoilt.positions[-1] = packed.positions[0] + [0, 0, distance]
            assert reward.energy(batch_of([spoilt]))[0] > energy
        box = Atoms(atoms.symbols, rng.uniform(0, 0.25, (len(atoms), 3)))
        assert np.isfinite(reward.energy(batch_of([box]))).all()
        assert reward.energy(batch_of([box]))[0] > 0


def relaxed(positions: np.ndarray) -> np.ndarray:
    """A compact packing at gallium's bond length, without a calculator: pairs pushed towards 2.7 Å."""
    from ase.calculators.morse import MorsePotential
    from ase.optimize import FIRE

    atoms = Atoms(f"Ga{len(positions)}", positions=positions)
    atoms.calc = MorsePotential(epsilon=0.5, r0=2.75, rho0=4.0, rcut1=2.5, rcut2=3.5)
    FIRE(atoms, logfile=None, maxstep=0.2).run(fmax=0.2, steps=200)
    return np.asarray(atoms.positions)


@needs_reference
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_published_numbers(dtype: str) -> None:
    reward = Dart(REFERENCE / "dart_megen_last.npz", dtype)
    seeds = read(REFERENCE / "Ga_2_17.xyz", ":")
    sets = [json.loads((REFERENCE / f"dart_reference{name}_dev.json").read_text()) for name in ("", "_synthetic")]
    for entries in (data["entries"] for data in sets):
        structures = [
            seeds[e["index"]] if "index" in e else Atoms(f"Ga{e['n_atoms']}", e["positions"]) for e in entries
        ]
        batch = batch_of(structures)
        found = reward.evaluate(batch)
        np.testing.assert_allclose(reward.kcal(batch), [e["energy_raw"] for e in entries], rtol=0, atol=1e-3)
        np.testing.assert_allclose(reward.energy(batch), reward.kcal(batch) * KCAL_PER_MOL)
        for row, entry in enumerate(entries):
            assert found.counts[row, : entry["n_atoms"]].tolist() == entry["tad"]
            if "atomic" in entry:
                np.testing.assert_allclose(found.atomic[row, : entry["n_atoms"]], entry["atomic"], rtol=0, atol=1e-3)


def test_shrinking_never_pays_with_any_guarded_weights() -> None:
    """By the form of the model: random weights, clusters of every size, scales from 0.3 to 0.999."""
    torch.manual_seed(7)
    evaluate = Evaluator(DartNet(repulsion=True))
    rng = np.random.default_rng(3)
    for size in range(2, 21):
        cluster = torch.from_numpy(build(rng, size).positions)[None]
        mask = torch.ones(1, size, dtype=torch.bool)
        scales = torch.linspace(0.3, 0.999, 40, dtype=torch.float64)[:, None, None]
        real = evaluate(cluster, mask).total
        shrunken = evaluate(scales * cluster, mask.expand(40, -1)).total
        assert (shrunken >= real - 1e-9).all(), size
        assert shrunken[0] > real + 1
