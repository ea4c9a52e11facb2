"""gschnet's training as a user runs it: run folders, going on to the bit, schedules, caches, wrong input."""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.collections import g2
from ase.io import write
from script_checks import command_line, killed, refusal, same_runs
from torch import nn, optim

from megen_gym import cli, runs
from megen_gym.agents.gschnet import logs
from megen_gym.agents.gschnet.model import load_model
from megen_gym.agents.gschnet.properties import RelativeEnergy
from megen_gym.agents.gschnet.settings import Settings
from megen_gym.agents.gschnet.train import train
from megen_gym.agents.gschnet.training import Plateau
from megen_gym.agents.nn.resuming import settings_of

ROOT = Path(__file__).resolve().parents[2]
Capture = pytest.CaptureFixture[str]
SMALL: dict[str, Any] = {
    "features": 8, "n_interactions": 2, "head_hidden": 16, "head_layers": 2, "n_rbf": 6, "draw_random_samples": 4,
    "batch_size": 8, "max_epochs": 2, "lr": 1e-2, "progress": False, "accelerator": "cpu",
}  # fmt: skip
UNITS = {"gap": "eV", "energy": "eV"}


def small(folder: Path, **changes: object) -> Settings:
    return Settings(**{**SMALL, "dir": folder, **changes})


def words(**changes: object) -> list[str]:
    """The same as a command line."""
    return command_line(SMALL | changes)


def refused(function: Callable[[Any], object], component: type, given: list[str], capsys: Capture) -> str:
    """The one sentence of a command line that is refused with exit code 2."""
    return refusal(lambda: function(cli.run(component, given)), capsys)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a plot, but for the run that fixtures made."""
    monkeypatch.setattr(logs, "plot_training", lambda run: None)


@pytest.fixture(scope="module")
def structures() -> list[Atoms]:
    """Molecules of H, C, N and O with properties that are made up."""
    found = []
    for name in g2.names:
        atoms = g2[name]
        if set(atoms.numbers) <= {1, 6, 7, 8} and 3 <= len(atoms) <= 10:
            atoms.info = {"gap": 2.0 + 0.3 * len(found), "energy": -3.0 * sum(atoms.numbers) + 0.01 * len(found)}
            found.append(atoms)
    return found[:24]


@pytest.fixture(scope="module")
def data(structures: list[Atoms], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "molecules.extxyz"
    write(path, structures, format="extxyz")
    return path


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> runs.Run:
    folder = tmp_path_factory.mktemp("runs")
    conditions = "gap,composition,relative_atomic_energy"
    return train(small(folder, data=str(data), property_units=UNITS, conditions=conditions, max_epochs=5, ema=0.5))


def test_the_run_folder_is_complete_and_the_loss_falls(whole: runs.Run) -> None:
    assert {path.name for path in whole.path.iterdir()} == {
        "config.json", "metrics.csv", "report.html", "resume.safetensors", "split.npz", "training.png",
        "weights.safetensors",
    }  # fmt: skip
    metrics = whole.metrics()
    assert list(metrics) == [
        "iteration", "loss", "loss_type", "loss_dist", "lr", "seconds", "val", "val_type", "val_dist"
    ]  # fmt: skip
    assert metrics["val"].min() < metrics["val"][0] - 0.5
    np.testing.assert_allclose(metrics["val"], metrics["val_type"] + metrics["val_dist"], rtol=1e-6)
    kept = settings_of(Settings, whole.settings["gschnet"])
    assert (kept.features, kept.conditions) == (8, "gap,composition,relative_atomic_energy")
    with np.load(whole.path / "split.npz") as file:
        parts = [file[f"{name}_idx"] for name in ("train", "val", "test")]
    assert sorted(np.concatenate(parts)) == list(range(sum(map(len, parts))))


def test_the_model_of_a_run_knows_what_it_was_trained_on(whole: runs.Run, structures: list[Atoms]) -> None:
    model, run = load_model("newest", whole.path.parent)
    assert run.id == whole.id
    assert [(each.name, each.kind) for each in model.conditions] == [
        ("gap", "scalar"), ("composition", "composition"), ("relative_atomic_energy", "scalar")
    ]  # fmt: skip
    assert model.conditions[0].unit == "eV"
    assert 2.0 <= model.conditions[0].low < model.conditions[0].high <= 2.0 + 0.3 * 24
    assert model.largest <= max(map(len, structures))
    assert 0.9 < model.shortest < 1.0
    assert model.relative is not None
    assert model.relative.unit == "eV"
    again, _ = load_model(whole.path)
    assert again.describe() == model.describe()
    assert load_model(whole.id, whole.path.parent)[1].path == whole.path


def test_a_run_goes_on_to_the_bit(tmp_path: Path) -> None:
    """With ASE's own molecules, to which no file belongs."""
    few = {"num_train": 24, "num_val": 6, "position_noise": 0.02}
    first = train(small(tmp_path / "one", max_epochs=4, **few))
    begun = train(small(tmp_path / "two", max_epochs=2, **few))
    assert len(begun.metrics()["val"]) == 2
    second = train(Settings(dir=tmp_path / "two", resume=begun.id, max_epochs=4, progress=False))
    assert second.path == begun.path
    same_runs(first, second)
    parts = [np.load(run.path / "split.npz") for run in (first, second)]
    np.testing.assert_array_equal(parts[0]["train_idx"], parts[1]["train_idx"])


def test_a_run_of_the_same_id_goes_on(tmp_path: Path, data: Path) -> None:
    few = {"id": "mine", "data": str(data), "patience": None}
    begun = train(small(tmp_path, max_epochs=1, **few))
    second = train(small(tmp_path, max_epochs=3, **few))
    assert begun.id == second.id == "mine"
    assert second.metrics()["iteration"].tolist() == [0, 1, 2]
    same_runs(second, train(small(tmp_path / "other", max_epochs=3, **few)))


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_bit(data: Path, tmp_path: Path) -> None:
    first = train(small(tmp_path / "first", data=str(data), max_epochs=16))
    command = [sys.executable, "agents/gschnet/train.py", *words(data=data, dir=tmp_path / "second", max_epochs=16)]
    begun = killed(command, tmp_path / "second")
    assert 1 <= begun.load_state()[1]["epoch"] < 16
    same_runs(
        first, train(Settings(dir=tmp_path / "second", resume="newest", progress=False), ("dir", "resume", "progress"))
    )


def test_a_run_killed_before_its_first_epoch_begins_anew(data: Path, tmp_path: Path) -> None:
    first = train(small(tmp_path, data=str(data), id="a"))
    again = train(small(tmp_path, data=str(data), id="b", max_epochs=1))
    for name in ("resume.safetensors", "weights.safetensors", "metrics.csv", "split.npz"):
        (again.path / name).unlink()
    same_runs(first, train(Settings(dir=tmp_path, resume="b", max_epochs=2, progress=False)))


def test_what_cannot_change_on_resuming_is_refused(
    whole: runs.Run, structures: list[Atoms], tmp_path: Path, capsys: Capture
) -> None:
    given = [f"--dir={whole.path.parent}", f"--resume={whole.id}", "--progress=false"]
    sentence = refused(train, Settings, [*given, "--features=16"], capsys)
    assert "has features = 8, which cannot become 16 on resuming; leave --features out" in sentence
    write(tmp_path / "other.extxyz", structures[:20], format="extxyz")
    sentence = refused(train, Settings, [*given, f"--data={tmp_path / 'other.extxyz'}"], capsys)
    assert "belongs to other molecules than the 20 that were read" in sentence
    assert len(whole.metrics()["val"]) == 5


def test_the_relative_energy_is_fitted_once(
    whole: runs.Run, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"data": str(data), "property_units": UNITS, "conditions": "relative_atomic_energy", "max_epochs": 1}
    run = train(small(tmp_path, **options))
    before = load_model(run.path)[0].relative

    def never(*_: object, **__: object) -> RelativeEnergy:
        raise AssertionError("fitted again")

    monkeypatch.setattr(RelativeEnergy, "fit", never)
    train(Settings(dir=tmp_path, resume=run.id, max_epochs=2, progress=False))
    loaded = train(small(tmp_path, load=run.id, **options))
    for where in (run, loaded):
        assert load_model(where.path)[0].relative == before


def test_training_starts_from_another_run(
    whole: runs.Run, structures: list[Atoms], tmp_path: Path, capsys: Capture
) -> None:
    """On larger molecules with other properties, which the model then knows."""
    more = [
        atoms for atoms in (g2[name] for name in g2.names) if len(atoms) >= 10 and set(atoms.numbers) <= {1, 6, 7, 8}
    ]
    for index, atoms in enumerate(more):
        atoms.info = {"gap": 30.0 + index, "energy": -3.0 * sum(atoms.numbers)}
    write(tmp_path / "more.extxyz", more, format="extxyz")
    options: dict[str, Any] = {"data": str(tmp_path / "more.extxyz"), "property_units": UNITS, "load": str(whole.path)}
    conditions = settings_of(Settings, whole.settings["gschnet"]).conditions
    options |= {"conditions": conditions, "covalent_radius_factor": 1.2}
    calm = {"lr": 1e-12, "ema": 0.0, "max_epochs": 1}
    run = train(small(tmp_path / "runs", **options, **calm))
    (old, _), (new, _) = load_model(whole.path), load_model(run.path)
    for name, tensor in old.network.state_dict().items():
        torch.testing.assert_close(new.network.state_dict()[name], tensor, atol=1e-7, rtol=1e-5)
    assert new.largest == max(map(len, more)) > old.largest
    assert new.connectivity.covalent_radius_factor == 1.2
    assert new.conditions[0].high > 30
    np.testing.assert_array_equal(new.conditions[0].centres, old.conditions[0].centres)
    begun = train(Settings(dir=tmp_path / "runs", resume=run.id, max_epochs=2, progress=False))
    assert len(begun.metrics()["val"]) == 2
    for name, value in (("conditions", "gap"), ("placement_cutoff", 1.6), ("atom_types", "1,6,7,8"), ("features", 9)):
        with pytest.raises(SystemExit):
            train(small(tmp_path / "no", **(options | {name: value})))
        assert f"{name} is" in capsys.readouterr().err
    assert not (tmp_path / "no").exists()


def test_training_ends_when_nothing_gets_better(data: Path, tmp_path: Path) -> None:
    run = train(small(tmp_path, data=str(data), max_epochs=30, patience=2, lr=1e-9, min_lr=0.0, ema=0.0))
    metrics = run.metrics()
    best = int(metrics["val"].argmin())
    assert len(metrics["val"]) == best + 3 < 30


@pytest.mark.parametrize(("patience", "factor", "smallest"), [(1, 0.5, 1e-6), (3, 0.1, 5e-3), (10, 0.5, 1e-6)])
def test_the_learning_rate_falls_as_published(patience: int, factor: float, smallest: float) -> None:
    optimizer = optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
    theirs = optim.lr_scheduler.ReduceLROnPlateau(
        optimizer, factor=factor, patience=patience, cooldown=patience, min_lr=smallest
    )
    mine, rng = Plateau(factor, patience, smallest), np.random.default_rng(0)
    rates = []
    for epoch in range(150):
        loss = 1.0 / (1 + min(epoch, 40)) + 0.02 * rng.random()
        mine.tell(loss, 0.1)
        theirs.step(loss)
        rates.append(optimizer.param_groups[0]["lr"])
        assert 0.1 * mine.scale == pytest.approx(rates[-1])
    assert len(set(rates)) > 2


def test_the_learning_rate_of_a_run_follows_the_plateau_or_the_time(data: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"data": str(data), "lr_patience": 1, "max_epochs": 10, "patience": None, "num_train": 8}
    lr = train(small(tmp_path, lr_schedule="plateau", lr_decay_factor=0.1, **options | {"lr": 1.0})).metrics()["lr"]
    assert lr.max() > 0.05
    assert lr[-1] < 0.2 * lr.max()
    lr = train(small(tmp_path, lr_schedule="cosine", **options | {"max_epochs": 60})).metrics()["lr"]
    assert lr[-1] == pytest.approx(1e-4, rel=0.1)
    start = time.monotonic()
    run = train(small(tmp_path, max_time=0.3, data=str(data), max_epochs=10**6, patience=None))
    assert time.monotonic() - start < 30
    assert 0 < len(run.metrics()["lr"]) < 500


def test_workers_change_nothing(data: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"data": str(data), "position_noise": 0.01, "placement": "random"}
    same_runs(*(train(small(tmp_path / str(count), num_workers=count, **options)) for count in (0, 3)))


def test_neighbours_are_kept_as_asked(data: Path, tmp_path: Path, capsys: Capture) -> None:
    cache, fast = tmp_path / "cache", tmp_path / "fast"
    options: dict[str, Any] = {"data": str(data), "max_epochs": 1, "cache_path": str(cache)}
    first = train(small(tmp_path, keep_cache=True, cache_workdir=str(fast), data_workdir=str(fast), **options))
    (file,) = cache.iterdir()
    assert not any(fast.iterdir())
    stamp = file.stat().st_mtime_ns
    again = train(small(tmp_path, keep_cache=True, **options))
    assert file.stat().st_mtime_ns == stamp
    same_runs(first, again)
    train(small(tmp_path, **options))
    assert not any(cache.iterdir())
    named = tmp_path / "mine.npz"
    train(small(tmp_path, keep_cache=True, **(options | {"cache_path": str(named)})))
    sentence = refused(train, Settings, words(**options | {"cache_path": named, "placement_cutoff": 1.65}), capsys)
    assert "was made with other settings: placement_cutoff=1.7 (now 1.65)" in sentence


@pytest.mark.parametrize(
    "options",
    [
        {"cutoff_fn": "hard", "average_type_distributions": True, "dist_label_width_factor": 0.0},
        {"use_origin": False, "placement": "closest_to_focus", "draw_random_samples": 0, "distance_weight": 0.5},
        {"n_bins": 40, "distance_prediction_min_dist": 0.5, "distance_prediction_max_dist": 4.0, "num_val": 0},
        {"tensorboard": True, "conditions": "n_atoms,n_heavy_atoms,composition", "gradient_clip_val": 0},
        {"condition_options": {"n_atoms": {"n_features": 8, "n_layers": 2}}, "conditions": "n_atoms", "lr": 1e9},
    ],
)
def test_options_train(data: Path, tmp_path: Path, options: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    run = train(small(tmp_path, data=str(data), max_epochs=1, **options))
    assert len(run.metrics()["loss"]) == 1
    shape = load_model(run.path)[0].network.shape
    assert shape.origin is options.get("use_origin", True)
    assert shape.smooth is ("cutoff_fn" not in options)
    assert any(path.name.startswith("events") for path in run.path.rglob("*")) is ("tensorboard" in options)
    if options.get("lr") == 1e9:
        assert "training diverged; give a smaller lr" in caplog.text
    else:
        assert all(np.isfinite(values).all() for values in run.metrics().values())


def test_crystals_train_without_an_origin(tmp_path: Path) -> None:
    crystals = []
    for seed in range(8):
        atoms = bulk("Cu", "fcc", a=3.6, cubic=True)
        atoms.rattle(0.05, seed=seed)
        crystals.append(atoms)
    write(tmp_path / "cu.extxyz", crystals, format="extxyz")
    options: dict[str, Any] = {"atom_types": "Cu", "placement_cutoff": 3.0, "model_cutoff": 5.0, "num_val": 2}
    run = train(small(tmp_path, data=str(tmp_path / "cu.extxyz"), **options))
    model, _ = load_model(run.path)
    assert not model.network.shape.origin
    assert np.isfinite(run.metrics()["val"]).all()


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (["--data=missing.db"], "does not exist"),
        (["--datapath=a.db", "--data=b.db"], "data is b.db and datapath a.db; give one"),
        (["--atom_types=1,6,7"], "elements that are not among atom_types 1,6,7: O ("),
        (["--atom_types=1,Qq"], "atom type 'Qq' is no element"),
        (["--conditions=gapp"], "no property gapp; it has"),
        (["--conditions=gap"], "does not say the unit of gap"),
        (["--conditions=n_atoms,n_atoms"], "a condition is named twice"),
        (["--conditions=n_atoms", '--condition_options={"gap":{"n_layers":2}}'], "'gap', which is no condition"),
        (["--conditions=n_atoms", '--condition_options={"n_atoms":{"layers":2}}'], "has no option 'layers'"),
        (["--placement_cutoff=0.9"], "none of the 24 molecules can be trained on: 24 of 24 molecules are disconnected"),
        (["--placement_cutoff=6"], "placement_cutoff 6.0 is above prediction_cutoff 5.0"),
        (["--origin_type=6"], "give three numbers up to 129 that are no atom types"),
        (["--stop_type=122"], "give three numbers"),
        (["--features=0"], "features is 0; give at least 1"),
        (["--ema=1"], "ema is 1.0; give a number from 0"),
        (["--lr=-1"], "lr is -1.0; give a number above 0"),
        (["--gradient_clip_val=-1"], "gradient_clip_val is -1.0"),
        (["--num_train=1000"], "num_train=1000, num_val=0.1"),
        (["--split_file=nothing.npz"], "nothing.npz does not exist"),
        (["--filter=gap"], "the filter 'gap' is not understood"),
        (["--accelerator=cuda:99"], "device 'cuda:99' cannot be used here"),
        (["--load=nothing"], "no run 'nothing'"),
        (["--resume=nothing"], "no run 'nothing'"),
        (["--id=a/b"], "is no name of a folder"),
        (["--model=schnot"], "schnot"),
        (["--distance_prediction_max_dist=0"], "distance_prediction_max_dist 0.0; give a larger second"),
    ],
)
def test_wrong_input_is_one_sentence(
    data: Path, given: list[str], sentence: str, tmp_path: Path, capsys: Capture
) -> None:
    words_ = [f"--data={data}", *words(dir=tmp_path / "runs"), *given]
    if any(word.startswith("--datapath") for word in given):
        words_ = words_[1:]
    assert sentence in refused(train, Settings, words_, capsys)
    assert not (tmp_path / "runs").exists() or not any((tmp_path / "runs").iterdir())


def test_molecules_that_are_not_connected_are_counted_and_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    run = train(small(tmp_path, max_epochs=1, num_train=8, num_val=2))
    command = f"python agents/gschnet/generate.py --dir {tmp_path} --run {run.id} --n_molecules 100"
    assert caplog.messages[-1] == f"everything is in {run.path}; next: {command}"
    assert "4 of 105 molecules are disconnected under placement_cutoff=1.7" in caplog.text
    assert "row 7 H2" in caplog.text
    assert "would connect all of them" in caplog.text
