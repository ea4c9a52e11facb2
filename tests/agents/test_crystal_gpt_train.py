"""crystal_gpt as a user runs it: training, SIGKILL and resume, sampling, chains, evaluation, wrong input."""

import csv
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase.build import bulk
from ase.io import read, write
from script_checks import killed, refusal, same_runs

from megen_gym import cli, runs
from megen_gym.agents.crystal_gpt.asking import Request
from megen_gym.agents.crystal_gpt.data import from_atoms, load
from megen_gym.agents.crystal_gpt.evaluate import Settings as EvaluateSettings
from megen_gym.agents.crystal_gpt.evaluate import evaluate
from megen_gym.agents.crystal_gpt.generate import Samples
from megen_gym.agents.crystal_gpt.generate import sample as draw
from megen_gym.agents.crystal_gpt.model import load_model
from megen_gym.agents.crystal_gpt.outputs import write_samples
from megen_gym.agents.crystal_gpt.sample import Settings as SampleSettings
from megen_gym.agents.crystal_gpt.sample import sample
from megen_gym.agents.crystal_gpt.settings import Settings, resolved
from megen_gym.agents.crystal_gpt.train import train
from megen_gym.agents.crystal_gpt.training import Trainer
from megen_gym.agents.nn.resuming import settings_of
from megen_gym.crystals import CrystalBatch
from megen_gym.io import read_structures

ROOT = Path(__file__).resolve().parents[2]
Capture = pytest.CaptureFixture[str]
SMALL = {
    "transformer_layers": 1, "num_heads": 2, "key_size": 8, "model_size": 24, "h0_size": 24, "Kx": 4, "Kl": 2,
    "batchsize": 32, "epochs": 4, "progress": False, "device": "cpu", "holdout": 0.2,
    "dropout_rate": 0.0, "weight_decay": 0.01,
}  # fmt: skip


def small(folder: Path, **changes: object) -> Settings:
    return Settings(**{**SMALL, "dir": folder, **changes})  # type: ignore[arg-type]


def refused(function: Callable[[Any], object], component: type, words: list[str], capsys: Capture) -> str:
    """The one sentence of a command line that is refused with exit code 2."""
    return refusal(lambda: function(cli.run(component, words)), capsys)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rocksalts, zincblendes, caesium chlorides, fcc and hcp metals, with a property."""
    structures = []
    metals = {"Li": 3.5, "Na": 4.2, "K": 5.3, "Rb": 5.6, "Mg": 4.5, "Ca": 5.5, "Sr": 6.0}
    for metal, length in metals.items():
        for anion, more in {"F": 0.6, "Cl": 1.3, "Br": 1.6, "O": 0.5, "S": 1.2, "Se": 1.4}.items():
            structures += [
                bulk(metal + anion, "rocksalt", a=length + more),
                bulk(metal + anion, "zincblende", a=length + more + 0.4),
                bulk(metal + anion, "cesiumchloride", a=(length + more) * 0.65),
            ]
        structures += [bulk(metal, "fcc", a=length + 0.5), bulk(metal, "hcp", a=length, c=1.61 * length)]
    for atoms in structures:
        atoms.info = {"gap": float(atoms.cell.volume / len(atoms) / 5), "material_id": atoms.get_chemical_formula()}
    path = tmp_path_factory.mktemp("data") / "salts.extxyz"
    write(path, structures, format="extxyz")
    return path


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> runs.Run:
    folder = tmp_path_factory.mktemp("runs")
    options = {"epochs": 20, "lr": 2e-2, "batchsize": 16, "save_freq": 10}
    return train(small(folder, data=str(data), conditions="gap,composition,n_atoms", **options))


def test_the_run_folder_is_complete_and_the_likelihood_grows(whole: runs.Run) -> None:
    names = {path.name for path in whole.path.iterdir()}
    assert names == {
        "config.json", "metrics.csv", "report.html", "resume.safetensors", "training.png", "weights.safetensors"
    }  # fmt: skip
    metrics = whole.metrics()
    assert metrics["nll"].min() < metrics["nll"][0] - 3
    total = sum(metrics[f"nll_{name}"] for name in ("w", "a", "xyz", "l"))
    np.testing.assert_allclose(metrics["nll"], total, atol=1e-4)
    model, run = load_model("newest", whole.path.parent)
    assert run.id == whole.id
    assert set(model.groups) == {225, 216, 221, 194}
    assert model.spread["gap"][0] > 0
    kept = settings_of(Settings, whole.settings["crystal_gpt"])
    judged = load(kept.data)
    parts = model.log_prob(judged.crystals, None, 1e-3)
    assert torch.isfinite(parts.total).all()


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_bit(data: Path, tmp_path: Path) -> None:
    first = train(small(tmp_path / "first", data=str(data), epochs=8, dropout_rate=0.2))
    words = [f"--{name}={json.dumps(value) if isinstance(value, bool) else value}" for name, value in SMALL.items()]
    command = [sys.executable, "agents/crystal_gpt/train.py", *words, f"--data={data}", f"--dir={tmp_path / 'second'}"]
    begun = killed([*command, "--epochs=8", "--dropout_rate=0.2"], tmp_path / "second")
    assert begun.load_state()[1]["epoch"] >= 1
    second = train(
        Settings(dir=tmp_path / "second", resume=begun.id, progress=False, epochs=8), ("epochs", "dir", "progress")
    )
    same_runs(first, second)


def test_what_cannot_change_on_resuming_is_refused(whole: runs.Run, tmp_path: Path, capsys: Capture) -> None:
    words = [f"--dir={whole.path.parent}", f"--resume={whole.id}", "--progress=false"]
    sentence = refused(train, Settings, [*words, "--model_size=32"], capsys)
    assert "has model_size = 24, which cannot become 32 on resuming" in sentence
    other = tmp_path / "other.extxyz"
    write(other, [bulk("NaCl", "rocksalt", a=5 + 0.1 * i) for i in range(9)], format="extxyz")
    assert "the data differs from that of run" in refused(train, Settings, [*words, f"--data={other}"], capsys)


def test_training_starts_from_another_run(whole: runs.Run, data: Path) -> None:
    run = train(small(whole.path.parent / "more", data=str(data), load=str(whole.path), epochs=1, lr=1e-6, ema=0.0))
    assert run.metrics()["nll"][0] == pytest.approx(whole.metrics()["nll"].min(), abs=0.5)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--data=missing.csv"], "does not exist"),
        (["--n_max=1"], "n_max is 1, but the data has a crystal of"),
        (["--conditions=bandgap"], "condition 'bandgap' is no property of the data"),
        (["--conditions=density,density"], "a condition is named twice"),
        (["--holdout=1"], "holdout is 1.0; give a number from 0 up to, but not, 1"),
        (["--batchsize=0"], "batchsize is 0; give at least 1"),
        (["--device=cuda:99"], "device 'cuda:99' cannot be used here"),
        (["--max_time=0"], "max_time is 0.0; give a number above 0"),
        (["--load=nothing"], "no run 'nothing'"),
        (["--order=middle"], "order"),
    ],
)
def test_wrong_training_input_is_one_sentence(
    data: Path, words: list[str], sentence: str, tmp_path: Path, capsys: Capture
) -> None:
    given = [] if words[0].startswith("--data") else [f"--data={data}"]
    words = [f"--dir={tmp_path / 'runs'}", "--progress=false", *given, *words]
    assert sentence in refused(train, Settings, words, capsys)
    assert not (tmp_path / "runs").exists() or not any((tmp_path / "runs").iterdir())


def test_the_script_refuses_a_table_without_cifs(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("material_id,energy\n1,2.0\n")
    words = ["agents/crystal_gpt/train.py", f"--data={tmp_path / 'a.csv'}", f"--dir={tmp_path}", "--progress=false"]
    done = subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True, timeout=240)
    assert done.returncode == 2
    assert "material_id, energy" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_batch_larger_than_the_data_is_one_batch(
    data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    run = train(small(tmp_path, data=str(data), batchsize=1000, epochs=2))
    assert run.load_state()[1]["step"] == 2
    assert "crystals are one batch" in caplog.text


def test_samples_hold_what_is_asked_and_every_file_reads_back(whole: runs.Run, tmp_path: Path) -> None:
    files = [str(tmp_path / name) for name in ("a.extxyz", "a.csv", "a.cif", "a.db", "cifs")]
    written = sample(
        SampleSettings(
            run=str(whole.path), n=12, spacegroup="225", composition="NaCl", output=",".join(files), progress=False,
            min_distance=0.0, device="cpu",
        )
    )  # fmt: skip
    assert [str(path) for path in written] == files
    structures = read_structures(files[0], check=False)
    assert {atoms.get_chemical_formula(empirical=True) for atoms in structures} == {"ClNa"}
    total = np.array([atoms.info["logp"] for atoms in structures])
    parts = sum(np.array([atoms.info[f"logp_{name}"] for atoms in structures]) for name in ("w", "a", "xyz", "l"))
    np.testing.assert_allclose(total, parts, atol=1e-5)
    assert (np.diff(total) <= 1e-9).all()
    volumes = [atoms.cell.volume for atoms in structures]
    with open(files[1], newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 12
    assert {int(row["spacegroup"]) for row in rows} == {225}
    assert all(len(json.loads(row["W"])) == len(json.loads(row["A"])) == len(json.loads(row["X"])) for row in rows)
    np.testing.assert_allclose([float(row["logp"]) for row in rows], total, atol=1e-4)
    for path in (files[2], files[3]):
        again = read(path, ":")
        assert sorted(len(atoms) for atoms in again) == sorted(len(atoms) for atoms in structures)
        np.testing.assert_allclose(sorted(a.cell.volume for a in again), sorted(volumes), rtol=1e-5)
    folder = sorted(Path(files[4]).iterdir())
    np.testing.assert_allclose([read(path).cell.volume for path in folder], volumes, rtol=1e-5)


def test_symmetry_survives_to_the_file(tmp_path: Path) -> None:
    crystals = from_atoms([bulk("NaCl", "rocksalt", a=5.6), bulk("Mg", "hcp", a=3.2, c=5.2)]).crystals
    samples = Samples(crystals, np.zeros((2, 4)), 2)
    write_samples(tmp_path / "a.csv", samples)
    again = load(tmp_path / "a.csv", cache=False).crystals
    np.testing.assert_array_equal(again.group, crystals.group)
    np.testing.assert_allclose(again.lattice, crystals.lattice, atol=1e-5)


def test_the_same_seed_draws_the_same_crystals_and_a_property_is_aimed_at(whole: runs.Run, tmp_path: Path) -> None:
    def drawn(name: str, **changes: object) -> list[float]:
        settings = SampleSettings(
            run=str(whole.path), output=str(tmp_path / name), progress=False, n=60, min_distance=0.0, **changes
        )  # type: ignore[arg-type]
        return [atoms.cell.volume / len(atoms) for atoms in read(sample(settings)[0], ":")]

    assert drawn("a.extxyz", seed=4) == drawn("b.extxyz", seed=4)
    small_ = np.median(drawn("c.extxyz", conditions="gap=3.0", guidance=1.0))
    large = np.median(drawn("d.extxyz", conditions="gap=9.0", guidance=1.0))
    assert small_ < large - 3


def test_chains_swap_elements_and_keep_letters(whole: runs.Run, tmp_path: Path) -> None:
    template = tmp_path / "salt.cif"
    write(template, bulk("NaCl", "rocksalt", a=5.6, cubic=True))
    settings = SampleSettings(
        run=str(whole.path), template=str(template), n=10, nsweeps=4, elements="Li,Na,K,F,Cl", progress=False,
        output=str(tmp_path / "c.extxyz"), min_distance=0.0,
    )  # fmt: skip
    made = read(sample(settings)[0], ":")
    assert {symbol for atoms in made for symbol in atoms.get_chemical_symbols()} <= {"Li", "Na", "K", "F", "Cl"}
    assert len({atoms.get_chemical_formula() for atoms in made}) > 1
    assert all(len(atoms) == 8 for atoms in made)
    assert CrystalBatch.from_atoms(made).group.tolist() == [225] * 10


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--spacegroup=231"], "space group 231 does not exist"),
        (["--spacegroup=225", "--composition=Na3Cl", "--n_atoms=9"], "n_atoms is 9, but a formula unit has 4 atoms"),
        (["--spacegroup=225", "--composition=NaCl", "--n_atoms=6"], "no set of Wyckoff sites of space group 225"),
        (["--composition=NaXx"], "unknown element Xx in formula 'NaXx'; it is none of the 118 that are known"),
        (["--composition=BaTiO3"], "the model was trained without"),
        (["--spacegroup=221", "--wyckoff=az"], "has no Wyckoff letter 'z'"),
        (["--spacegroup=225", "--sites=a Na; a Cl"], "is taken twice"),
        (["--conditions=bulk=3"], "the model was not trained on the property 'bulk'"),
        (["--output=a.png"], "cannot write crystals to a.png"),
        (["--temperature=0"], "temperature is 0.0; give a number above 0"),
        (["--lattice=4"], "without one space group"),
        (["--run=nothing"], "no run 'nothing'"),
        (["--elements=Na,Xx"], "unknown element 'Xx'"),
        (["--n=0"], "n is 0; give at least 1"),
    ],
)
def test_wrong_sampling_input_is_one_sentence(
    whole: runs.Run, words: list[str], sentence: str, tmp_path: Path, capsys: Capture
) -> None:
    words = [f"--dir={whole.path.parent}", "--progress=false", f"--output={tmp_path / 'a.csv'}", *words]
    assert sentence in refused(sample, SampleSettings, words, capsys)
    assert not list(tmp_path.iterdir())


def test_evaluation_writes_value_beside_floor(whole: runs.Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("matminer", "smact"):  # take long to import, and are called in the tests of the analysis
        monkeypatch.setitem(sys.modules, package, None)
    nats, report = evaluate(
        EvaluateSettings(run=str(whole.path), n=20, cap=2, output=tmp_path, progress=False, min_distance=0.0)
    )
    metrics = whole.metrics()
    assert nats["total"] == pytest.approx(metrics["nll"].min(), abs=1e-3)
    assert report is not None
    assert {"structure valid", "W1 density", "asked group or more"} <= {row.metric for row in report.rows}
    assert {path.name for path in tmp_path.iterdir()} == {"evaluation.md", "evaluation.csv", "evaluation.png"}


@pytest.mark.slow
def test_the_weights_that_are_kept_are_those_of_the_best_judged_epoch(data: Path, tmp_path: Path) -> None:
    run = train(small(tmp_path, data=str(data), epochs=45, eval_freq=15, lr=2e-2, ema=0.0, patience=None))
    nats, _ = evaluate(EvaluateSettings(run=str(run.path), n=0, progress=False))
    assert nats["total"] == pytest.approx(np.nanmin(run.metrics()["nll"]), abs=1e-3)


def test_a_loaded_model_knows_the_new_data(whole: runs.Run, tmp_path: Path, capsys: Capture) -> None:
    metals = [bulk("Cu", "fcc", a=3.6 + 0.01 * i) for i in range(10)]
    for index, atoms in enumerate(metals):
        atoms.info["gap"] = float(index)
    write(tmp_path / "metals.extxyz", metals, format="extxyz")
    more = small(tmp_path / "runs", data=str(tmp_path / "metals.extxyz"), load=str(whole.path), epochs=1)
    run = train(more, given=("data", "load", "epochs"))
    model, _ = load_model(run.path)
    assert (model.elements, set(model.groups), model.known.properties) == ([29], {225}, ("gap",))
    for name, value in (("Kx", "9"), ("n_max", "40"), ("conditions", "n_atoms"), ("order", "first")):
        words = [f"--load={whole.path}", f"--data={tmp_path / 'metals.extxyz'}", f"--{name}={value}"]
        wanted = cli.run(Settings, [*words, f"--dir={tmp_path}", "--progress=false"])
        with pytest.raises(SystemExit):
            train(wanted, given=(name,))
        assert f"leave --{name} out" in capsys.readouterr().err


def test_a_run_that_was_loaded_goes_on_to_the_bit(
    whole: runs.Run, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"epochs": 4, "dropout_rate": 0.3, "holdout": 0.2, "progress": False, "device": "cpu"}
    wanted = Settings(dir=tmp_path, data=str(data), load=str(whole.path), **options)  # type: ignore[arg-type]
    first, epoch = train(wanted), Trainer.run_epoch

    def interrupted(self: Trainer, report: Callable[[dict[str, float]], None]) -> dict[str, float]:
        if self.epoch == 2:
            raise KeyboardInterrupt
        return epoch(self, report)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "run_epoch", interrupted)
        with pytest.raises(SystemExit):
            train(wanted)
    broken = runs.newest(tmp_path)
    assert len(broken.metrics()["iteration"]) == 2
    second = train(Settings(dir=tmp_path, resume=broken.id, progress=False))
    same_runs(first, second)


def test_lists_that_are_stuck_are_drawn_again(whole: runs.Run) -> None:
    model, _ = load_model(whole.path)
    wanted = Request(composition="Na2Cl2", wyckoff="ab").wanted(model, [225])
    for seed in range(4):
        assert len(draw(model, 1, [225], wanted=wanted, seed=seed, min_distance=0.1)) == 1


def test_chains_hold_what_is_asked_from_the_start(whole: runs.Run, tmp_path: Path, capsys: Capture) -> None:
    write(tmp_path / "salt.cif", bulk("NaCl", "rocksalt", a=5.6, cubic=True))
    (tmp_path / "masks.json").write_text('{"atom_mask": [["Li", "K"], ["F"]]}')
    words = [f"--run={whole.path}", f"--template={tmp_path / 'salt.cif'}", "--n=8", "--nsweeps=1", "--progress=false"]
    words += ["--min_distance=0", f"--output={tmp_path / 'a.extxyz'}"]
    sample(cli.run(SampleSettings, [*words, f"--elements={tmp_path / 'masks.json'}"]))
    for atoms in read(tmp_path / "a.extxyz", ":"):
        assert set(atoms.get_chemical_symbols()) in ({"Li", "F"}, {"K", "F"})
    sentence = refused(sample, SampleSettings, [*words, "--composition=NaCl"], capsys)
    assert "composition was given with a template, where it means nothing" in sentence
    (tmp_path / "masks.json").write_text('{"atom_mask": [["Li"], []]}')
    words += [f"--elements={tmp_path / 'masks.json'}"]
    assert "is no description of elements" in refused(sample, SampleSettings, words, capsys)


def test_a_place_that_cannot_be_written_is_refused_before_any_work(
    whole: runs.Run, tmp_path: Path, capsys: Capture
) -> None:
    (tmp_path / "file").write_text("x")
    words = [f"--run={whole.path}", f"--output={tmp_path / 'file' / 'a.csv'}", "--n=100000000"]
    assert "is a file" in refused(sample, SampleSettings, words, capsys)
    words = [f"--run={whole.path}", f"--output={tmp_path / 'file' / 'b'}", "--n=100000000"]
    assert "is a file" in refused(evaluate, EvaluateSettings, words, capsys)


def test_a_run_is_used_from_another_directory(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(data.parent)
    run = train(small(tmp_path / "runs", data=data.name, epochs=1))
    monkeypatch.chdir(tmp_path)
    nats, _ = evaluate(EvaluateSettings(run=str(run.path), n=0, progress=False))
    assert np.isfinite(nats["total"])


def test_published_sizes_are_those_of_the_paper() -> None:
    settings = resolved(Settings(preset="published"))
    assert (settings.transformer_layers, settings.num_heads, settings.key_size, settings.model_size) == (16, 16, 64, 64)
