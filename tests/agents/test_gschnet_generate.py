"""gschnet's generation as a user runs it: databases, conditions, starts, relaxation, summaries, wrong input."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from ase.collections import g2
from ase.db import connect
from ase.io import read, write
from script_checks import refusal

from megen_gym import cli, runs
from megen_gym.agents.gschnet import generate as script
from megen_gym.agents.gschnet import logs
from megen_gym.agents.gschnet.generate import Settings, generate
from megen_gym.agents.gschnet.model import load_model
from megen_gym.agents.gschnet.outputs import FOLDER, metadata_of
from megen_gym.agents.gschnet.settings import Settings as TrainSettings
from megen_gym.agents.gschnet.train import train
from megen_gym.errors import InputError

Capture = pytest.CaptureFixture[str]
Log = pytest.LogCaptureFixture
SMALL: dict[str, Any] = {
    "features": 8, "n_interactions": 2, "head_hidden": 16, "head_layers": 2, "n_rbf": 6, "draw_random_samples": 4,
    "batch_size": 8, "max_epochs": 1, "lr": 1e-2, "progress": False, "accelerator": "cpu",
}  # fmt: skip
COARSE: dict[str, Any] = {
    "n_molecules": 12, "max_n_atoms": 12, "grid_spacing": 0.3, "progress": False, "use_gpu": False, "evaluate": False,
}  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Molecules of H, C, N and O with a made-up gap."""
    found = []
    for name in g2.names:
        atoms = g2[name]
        if set(atoms.numbers) <= {1, 6, 7, 8} and 3 <= len(atoms) <= 8:
            atoms.info = {"gap": 2.0 + 0.5 * len(found)}
            found.append(atoms)
    path = tmp_path_factory.mktemp("data") / "molecules.extxyz"
    write(path, found[:20], format="extxyz")
    return path


def trained(folder: Path, data: Path | None, stop: float = 0.6, **options: Any) -> runs.Run:
    """A run whose network says stop with such a probability, and all elements alike."""
    given = SMALL | {"dir": folder, "data": None if data is None else str(data), "average_type_distributions": True}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(logs, "plot_training", lambda run: None)
        run = train(TrainSettings(**(given | options)))
    tensors = run.load_weights()
    last = max(name for name in tensors if name.startswith("type_head")).rpartition(".")[0]
    tensors[f"{last}.weight"].zero_()
    shares = torch.full_like(tensors[f"{last}.bias"], (1 - stop) / (len(tensors[f"{last}.bias"]) - 1))
    shares[-1] = stop
    tensors[f"{last}.bias"] = shares.log().clamp(min=-50)
    run.save_weights(tensors)
    return run


@pytest.fixture(scope="module")
def plain(data: Path, tmp_path_factory: pytest.TempPathFactory) -> runs.Run:
    return trained(tmp_path_factory.mktemp("plain"), data, atom_types="1,6,7,8")


@pytest.fixture(scope="module")
def asked(data: Path, tmp_path_factory: pytest.TempPathFactory) -> runs.Run:
    options = {"property_units": {"gap": "eV"}, "conditions": "gap,composition,n_atoms"}
    return trained(tmp_path_factory.mktemp("asked"), data, **options)


def made(run: runs.Run, **changes: Any) -> Path:
    path = generate(Settings(**{**COARSE, "run": str(run.path), **changes}))
    assert path is not None
    return path


def refused(words: list[str], capsys: Capture) -> str:
    """The one sentence of a command line that is refused with exit code 2."""
    return refusal(lambda: generate(cli.run(Settings, words)), capsys)


def test_molecules_go_to_numbered_databases_with_all_that_made_them(plain: runs.Run, caplog: Log) -> None:
    caplog.set_level("INFO")
    first, second = made(plain), made(plain, seed=1)
    assert [first, second] == [plain.path / FOLDER / f"{number}.db" for number in (1, 2)]
    rows = list(connect(first).select())
    failed = [text for text in caplog.messages if "were not finished with 12 atoms" in text]
    assert len(rows) == 12 - (int(failed[0].split()[0]) if failed else 0) > 3
    metadata = metadata_of(first)
    settings = metadata["settings"][f"0-{len(rows) - 1}"]
    assert settings["grid_spacing"] == 0.3
    assert settings["temperature_term"] == 0.1
    assert settings["grid_distance_min"] == 0.7
    assert (settings["max_n_atoms"], settings["seed"], settings["run"]) == (12, 0, plain.id)
    assert settings["atom_types"] == [1, 6, 7, 8]
    assert metadata["_distance_unit"] == "Ang"
    assert set(metadata["_property_unit_dict"]) == {"log_prob", "decisions"}
    for row in rows:
        assert row.decisions == 2 * row.natoms
        assert row.log_prob == row.data["log_prob"][0] < 0
        assert 1 <= row.natoms <= 12
    means = np.mean([row.log_prob for row in rows])
    assert f"{len(rows)} molecules are in {first}, mean log-probability {means:.1f}" in caplog.messages


def test_the_seed_decides(plain: runs.Run, tmp_path: Path) -> None:
    paths = [made(plain, seed=seed, outputfile=str(tmp_path / f"{k}.xyz")) for k, seed in enumerate((3, 3, 4))]
    one, two, three = (read(path, ":") for path in paths)
    assert [atoms.get_chemical_formula() for atoms in one] == [atoms.get_chemical_formula() for atoms in two]
    for first, second in zip(one, two, strict=True):
        np.testing.assert_array_equal(first.positions, second.positions)
    assert [atoms.info["log_prob"] for atoms in one] != [atoms.info["log_prob"] for atoms in three]


@pytest.mark.parametrize("name", ["mine", "7", "x.xyz"])
def test_a_file_that_is_there_is_appended_to(plain: runs.Run, name: str) -> None:
    path = made(plain, outputfile=name)
    size = len(read(path, ":"))
    assert made(plain, outputfile=name, seed=5) == path
    assert path == plain.path / FOLDER / (name if name == "x.xyz" else f"{name}.db")
    both = read(path, ":")
    assert len(both) > size
    if path.suffix == ".db":
        assert set(metadata_of(path)["settings"]) == {f"0-{size - 1}", f"{size}-{len(both) - 1}"}


def test_the_newest_run_is_meant_and_others_by_name(plain: runs.Run, data: Path, tmp_path: Path) -> None:
    old, new = (trained(tmp_path, data, 0.9, id=name) for name in ("b", "a"))
    assert generate(Settings(**COARSE, dir=tmp_path)) == new.path / FOLDER / "1.db"
    assert generate(Settings(**COARSE, dir=tmp_path, run="b")) == old.path / FOLDER / "1.db"
    assert generate(Settings(**COARSE, dir=tmp_path, modeldir=str(plain.path))).parent == plain.path / FOLDER  # type: ignore[union-attr]


def test_the_last_line_is_the_summary(plain: runs.Run, caplog: Log) -> None:
    pytest.importorskip("rdkit")
    caplog.set_level("INFO")
    made(plain, evaluate=True)
    assert caplog.messages[-1].startswith("valid ")
    for word in ("unique", "novel", "(n = "):
        assert word in caplog.messages[-1]


def test_the_summary_without_the_training_data(data: Path, tmp_path: Path, caplog: Log) -> None:
    pytest.importorskip("rdkit")
    copy = tmp_path / "copy.extxyz"
    copy.write_bytes(data.read_bytes())
    cache = tmp_path / "cache"
    run = trained(tmp_path / "runs", copy, 0.9, cache_path=str(cache))
    caplog.set_level("INFO")
    made(run, evaluate=True)
    assert "novel" in caplog.messages[-1]
    assert not any(cache.iterdir())  # training removed it, and nobody makes it again
    copy.unlink()
    made(run, evaluate=True)
    assert any("novelty is left out: the file" in text for text in caplog.messages)
    assert caplog.messages[-1].startswith("valid ")
    assert "novel" not in caplog.messages[-1]


def test_conditions_are_given_in_words(asked: runs.Run, caplog: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    path = made(asked, condition="gap=4.0,composition=C2H4O")
    assert not [record for record in caplog.records if record.levelname == "WARNING"]
    (conditions,) = [value for key, value in metadata_of(path).items() if key.startswith("0-")]
    assert conditions == {"gap": 4.0, "composition": "C2H4O"}
    words = [f"--{name}={str(value).lower()}" for name, value in COARSE.items()]
    words += [f"--run={asked.path}", "--condition", "gap=99", "--condition=composition=CH4"]
    monkeypatch.setattr(sys, "argv", ["generate.py", *words])
    script.main()
    warned = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    model, _ = load_model(asked.path)
    high = model.conditions[0].high
    assert len(warned) == 1
    assert warned[0].startswith("gap 99 is outside of what the model was trained on: 2")
    assert warned[0].endswith(f" to {high:g} eV")
    (conditions,) = [value for key, value in metadata_of(path.with_name("2.db")).items() if key.startswith("0-")]
    assert conditions == {"gap": 99.0, "composition": "CH4"}


def test_a_condition_changes_what_is_grown(asked: runs.Run, tmp_path: Path) -> None:
    found = [
        made(asked, condition=f"gap=4.0,composition={formula}", outputfile=str(tmp_path / f"{formula}.xyz"))
        for formula in ("CH4", "N2O4")
    ]
    one, two = ([atoms.info["log_prob"] for atoms in read(path, ":")] for path in found)
    assert one != two


def test_molecules_are_relaxed(plain: runs.Run, tmp_path: Path) -> None:
    grown, relaxed = (
        made(plain, outputfile=str(tmp_path / f"{relax}.db"), relax=relax, relax_steps=5, n_molecules=6)
        for relax in (None, "emt")
    )
    assert metadata_of(relaxed)["_property_unit_dict"]["energy"] == "eV"
    moved = 0
    for before, after in zip(connect(grown).select(), connect(relaxed).select(), strict=True):
        assert before.formula == after.formula
        assert np.isfinite(after.data["energy"]).all()
        assert before.log_prob == after.log_prob
        moved += before.natoms > 1 and not np.allclose(before.positions, after.positions)
    assert moved > 0
    assert metadata_of(relaxed)["settings"][f"0-{len(connect(relaxed)) - 1}"]["relax"] == "emt"


def test_growth_starts_from_a_substructure(plain: runs.Run, tmp_path: Path) -> None:
    start = molecule("CH3OH")
    write(tmp_path / "start.xyz", start)
    options = {"substructure": str(tmp_path / "start.xyz"), "max_n_atoms": 16}
    for closed in ("", "0,2,3"):
        found = read(made(plain, substructure_finished=closed, **options), ":")
        assert found
        for atoms in found:
            np.testing.assert_array_equal(atoms.numbers[:6], start.numbers)
            np.testing.assert_allclose(atoms.positions[:6], start.positions - start.get_center_of_mass(), atol=1e-6)
    closed = "0,1,2,3,4,5"
    for atoms in read(made(plain, substructure_finished=closed, keep_origin=True, **options), ":"):
        np.testing.assert_allclose(atoms.positions, start.positions, atol=1e-6)


def test_crystals_grow_in_their_cell(tmp_path: Path) -> None:
    crystals = []
    for seed in range(6):
        atoms = bulk("Cu", "fcc", a=3.6, cubic=True)
        atoms.rattle(0.05, seed=seed)
        crystals.append(atoms)
    write(tmp_path / "cu.extxyz", crystals, format="extxyz")
    options = {"atom_types": "Cu", "placement_cutoff": 3.0, "model_cutoff": 5.0, "num_val": 1}
    run = trained(tmp_path / "runs", tmp_path / "cu.extxyz", **options)
    del atoms[2:]
    write(tmp_path / "start.extxyz", atoms, format="extxyz")
    path = made(run, substructure=str(tmp_path / "start.extxyz"), max_n_atoms=8)
    grown = read(path, ":")
    assert any(len(each) > 2 for each in grown)
    for each in grown:
        assert each.pbc.all()
        np.testing.assert_allclose(each.cell[:], atoms.cell[:])
        np.testing.assert_allclose(each.positions[:2], atoms.positions, atol=1e-6)
    drawing = next(iter(metadata_of(path)["settings"].values()))
    assert drawing["grid_distance_min"] > 2


def test_nothing_finished_is_said_and_leaves_no_file(data: Path, tmp_path: Path, caplog: Log) -> None:
    run = trained(tmp_path, data, 0.0)
    caplog.set_level("INFO")
    assert generate(Settings(**COARSE, run=str(run.path))) is None
    assert caplog.messages[-3:] == [
        "12 of 12 were not finished with 12 atoms and are left out",
        "nothing was finished: train longer, or give a larger max_n_atoms",
        "valid -  unique -  novel -  (n = 0)",
    ]
    assert not (run.path / FOLDER).exists()


def test_molecules_of_one_atom_are_molecules(data: Path, tmp_path: Path) -> None:
    run = trained(tmp_path, data, 1.0)
    assert [len(atoms) for atoms in read(made(run), ":")] == [1] * 12
    assert torch.get_num_threads() == 1


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--run=nothing"], "no run 'nothing'"),
        (["--n_molecules=0"], "n_molecules is 0"),
        (["--max_n_atoms=0"], "max_n_atoms 0"),
        (["--batch_size=-1"], "batch_size -1"),
        (["--grid_spacing=0"], "grid_spacing 0.0"),
        (["--grid_distance_min=2"], "make no grid"),
        (["--temperature_term=0"], "temperature_term is 0.0"),
        (["--tolerance=1"], "tolerance 1.0"),
        (["--threads=0"], "threads 0"),
        (["--seed=-1"], "seed -1"),
        (["--condition=gap=4"], "no condition 'gap'; it was trained without conditions"),
        (["--condition=gap"], "write name=value"),
        (["--outputfile=a.png"], "cannot write molecules to a.png"),
        (["--substructure=missing.xyz"], "missing.xyz"),
        (["--relax=nothing"], "nothing"),
        (["--n_molecules=many"], "n_molecules"),
    ],
)
def test_wrong_input_is_one_sentence(
    plain: runs.Run, words: list[str], sentence: str, tmp_path: Path, capsys: Capture
) -> None:
    before = set(plain.path.rglob("*"))
    given = [f"--{name}={str(value).lower()}" for name, value in COARSE.items()]
    assert sentence in refused([*given, f"--run={plain.path}", f"--dir={tmp_path}", *words], capsys)
    assert set(plain.path.rglob("*")) == before


@pytest.mark.parametrize(
    ("atoms", "words", "sentence"),
    [
        (
            molecule("CH3OH"),
            ["--max_n_atoms=5"],
            "the substructure has 6 atoms, max_n_atoms is 5; give a larger number",
        ),
        (molecule("CH3Cl"), [], "contains Cl, which the model has never seen; it knows H, C, N, O"),
        (molecule("H2O"), ["--substructure_finished=3"], "of a structure of 3; give indices from 0"),
        (molecule("H2O"), ["--substructure_finished=a"], "substructure_finished is 'a'; give indices such as 0,3"),
        (bulk("C", "diamond", a=3.6), [], "the substructure is periodic"),
    ],
)
def test_wrong_substructures_are_one_sentence(
    plain: runs.Run, atoms: Atoms, words: list[str], sentence: str, tmp_path: Path, capsys: Capture
) -> None:
    write(tmp_path / "start.extxyz", atoms, format="extxyz")
    given = [f"--run={plain.path}", "--progress=false", f"--substructure={tmp_path / 'start.extxyz'}"]
    assert sentence in refused([*given, *words], capsys)


@pytest.mark.parametrize(
    ("condition", "sentence"),
    [
        ("", "the model needs a value for gap ("),
        ("gap=4", "the model needs a value for composition"),
        ("gep=4", "did you mean 'gap'"),
        ("gap=4,composition=C2H5Br", "contains Br; the model knows H, C, N, O, F"),
        ("gap=high,composition=CH4", "condition gap is 'high'"),
        ("gap=4,composition=CH4,n_atoms=[1,2]", "condition n_atoms has 2 numbers; give 1"),
    ],
)
def test_wrong_conditions_are_one_sentence(asked: runs.Run, condition: str, sentence: str, capsys: Capture) -> None:
    assert sentence in refused([f"--run={asked.path}", "--progress=false", f"--condition={condition}"], capsys)


def test_a_file_that_cannot_be_appended_to_is_refused_before_any_work(
    plain: runs.Run, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("grown in vain")

    monkeypatch.setattr("megen_gym.agents.gschnet.generating.generate", never)
    (tmp_path / "text.db").write_text("no database")
    (tmp_path / "a.xyz.gz").write_text("compressed")
    for name, sentence in (("text.db", "is no ASE database"), ("a.xyz.gz", "is compressed")):
        words = [f"--run={plain.path}", "--progress=false", f"--outputfile={tmp_path / name}"]
        assert sentence in refused(words, capsys)
        with pytest.raises(InputError):
            script.check_output(plain, str(tmp_path / name))


def test_what_is_finished_when_growing_is_stopped_is_kept(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from megen_gym.agents.gschnet.sampling import Grower

    run = trained(tmp_path, data)
    decide, calls = Grower.decide, iter(range(10_000))

    def tired(self: Grower, *given: object, **more: object) -> object:
        if next(calls) > 60:
            raise KeyboardInterrupt
        return decide(self, *given, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(Grower, "decide", tired)
    settings = Settings(**(COARSE | {"n_molecules": 4000, "batch_size": 4}), run=str(run.path), outputfile="some.xyz")
    with pytest.raises(SystemExit) as stop:
        generate(settings)
    assert stop.value.code == 130
    assert 0 < len(read(run.path / FOLDER / "some.xyz", ":")) < 4000
