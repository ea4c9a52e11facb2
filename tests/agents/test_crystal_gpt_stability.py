"""crystal_gpt on metals: stability in the evaluation, and samples that are relaxed."""

import csv
import sys
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.io import read, write

from megen_gym import cli, runs
from megen_gym.agents.crystal_gpt import relaxing
from megen_gym.agents.crystal_gpt.data import from_atoms
from megen_gym.agents.crystal_gpt.evaluate import Settings as EvaluateSettings
from megen_gym.agents.crystal_gpt.evaluate import evaluate
from megen_gym.agents.crystal_gpt.generate import Samples
from megen_gym.agents.crystal_gpt.sample import Settings as SampleSettings
from megen_gym.agents.crystal_gpt.sample import sample
from megen_gym.agents.crystal_gpt.settings import Settings
from megen_gym.agents.crystal_gpt.train import train
from megen_gym.crystals import CrystalBatch, describe
from megen_gym.errors import InputError

pytest.importorskip("pymatgen")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> runs.Run:
    """Trained on fcc, L1_2 and B2 crystals of three metals, some of them stretched."""
    folder = tmp_path_factory.mktemp("metals")
    length = {"Cu": 3.61, "Ag": 4.09, "Au": 4.08}
    structures: list[Atoms] = []
    for first, a in length.items():
        structures += [bulk(first, "fcc", a=stretch * a) for stretch in (0.98, 1.02)]
        for second, b in length.items():
            if first != second:
                alloy = bulk(first, "fcc", a=(3 * a + b) / 4, cubic=True)
                alloy.symbols[0] = second
                structures += [alloy, bulk(first + second, "cesiumchloride", a=0.63 * (a + b) / 2 + 0.65)]
    write(folder / "metals.extxyz", structures, format="extxyz")
    return train(
        Settings(
            data=str(folder / "metals.extxyz"), dir=folder, transformer_layers=1, num_heads=2, key_size=8,
            model_size=24, h0_size=24, Kx=4, Kl=2, batchsize=16, epochs=30, lr=2e-2, holdout=0.2, progress=False,
            device="cpu", duplicates="keep", save_freq=30,
        )
    )  # fmt: skip


def test_the_evaluation_judges_stability(
    run: runs.Run, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for package in ("matminer", "smact"):  # other metrics than those of this file, which take long to import
        monkeypatch.setitem(sys.modules, package, None)
    _, report = evaluate(
        EvaluateSettings(
            run=str(run.path), n=8, cap=4, output=tmp_path, progress=False, min_distance=1.5, calculator="emt",
            relax_steps=6, device="cpu",
        )
    )  # fmt: skip
    assert report is not None
    for metric in ("calculated", "energy per atom", "energy above hull", "stable", "S.U.N.", "RMSD of relaxation"):
        row = report[metric]
        assert np.isfinite([row.value, row.floor]).all(), metric
    assert report["stable"].floor > 0.5
    assert report["energy above hull"].floor >= -1e-9
    text = (tmp_path / "evaluation.md").read_text()
    assert "| S.U.N." in text
    assert "more crystals of the data, computed as the generated ones" in text
    with pytest.raises(SystemExit) as end:
        evaluate(cli.run(EvaluateSettings, [f"--run={run.path}", "--hull=a.extxyz", "--progress=false"]))
    assert end.value.code == 2
    assert "without a calculator; give --calculator" in capsys.readouterr().err


def test_samples_are_relaxed_and_sorted(run: runs.Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [f"--run={run.path}", "--n=5", "--min_distance=1.5", "--progress=false", "--elements=Cu,Ag,Au"]
    files = [tmp_path / name for name in ("a.extxyz", "a.csv", "a.db")]
    names = ",".join(map(str, files))
    sample(cli.run(SampleSettings, [*words, "--relax=emt", "--relax_steps=40", f"--output={names}"]))
    plain = read(sample(cli.run(SampleSettings, [*words, f"--output={tmp_path / 'b.extxyz'}"]))[0], ":")
    made = read(files[0], ":")
    said = np.array([atoms.info["energy_per_atom"] for atoms in made])
    assert (np.diff(said) >= 0).all()
    assert {atoms.info["relaxed"] for atoms in made} == {1.0}
    np.testing.assert_allclose([energy(atoms) for atoms in made], said, atol=1e-4)
    np.testing.assert_allclose([atoms.get_potential_energy() / len(atoms) for atoms in made], said, atol=1e-9)
    before = {atoms.info["logp"]: energy(atoms) for atoms in plain}
    gain = [min(before[key] for key in before if abs(key - atoms.info["logp"]) < 1e-6) for atoms in made] - said
    assert (gain > -1e-4).all()
    assert gain.mean() > 0.01
    with files[1].open(newline="") as file:
        np.testing.assert_allclose([float(row["energy_per_atom"]) for row in csv.DictReader(file)], said, atol=1e-6)
    assert len(read(files[2], ":")) == 5
    with pytest.raises(SystemExit):
        sample(cli.run(SampleSettings, [*words, "--relax=emtt", f"--output={tmp_path / 'c.extxyz'}"]))
    assert "unknown calculator 'emtt'" in capsys.readouterr().err


def test_what_cannot_be_relaxed_stays_as_drawn(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    crystals = from_atoms([bulk("NaCl", "rocksalt", a=5.6), bulk("Cu", a=3.7), bulk("Ag", a=4.2)]).crystals
    silver = int(np.flatnonzero(crystals.elements[:, 0] == 47)[0])

    def no_silver(atoms: Atoms) -> CrystalBatch:
        if atoms.numbers[0] == 47:
            raise InputError("it has no symmetry")
        return describe(atoms)

    monkeypatch.setattr(relaxing, "describe", no_silver)
    made, extra = relaxing.relaxed(Samples(crystals, np.zeros((3, 4)), 3), "emt", steps=30, progress=False)
    assert extra["relaxed"].tolist() == [0, 1, 0]
    assert np.isnan(extra["energy_per_atom"][0])
    assert extra["energy_per_atom"][silver] == pytest.approx(energy(bulk("Ag", a=4.2)), abs=1e-6)
    np.testing.assert_array_equal(made.crystals.lattice[[0, 2]], crystals.lattice[[0, 2]])
    assert made.crystals.lattice[1, 0] < 3.65
    assert "1 of 3 crystals stay as they were drawn, as the calculator failed" in caplog.text
    assert "as they lost their symmetry: it has no symmetry" in caplog.text


def energy(atoms: Atoms) -> float:
    copy = atoms.copy()
    copy.calc = EMT()
    return float(copy.get_potential_energy() / len(copy))
