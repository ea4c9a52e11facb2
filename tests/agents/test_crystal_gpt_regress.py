"""Regression of a property on the transformer of crystal_gpt, and the reward that predicts with it."""

import copy
import itertools
import json
import pickle
import re
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from script_checks import same_runs

import megen_gym  # noqa: F401
from megen_gym import runs
from megen_gym.agents.baselines import RandomValid
from megen_gym.agents.crystal_gpt import regress_training
from megen_gym.agents.crystal_gpt.regress import regress
from megen_gym.agents.crystal_gpt.regress_settings import Settings
from megen_gym.agents.crystal_gpt.regress_training import RegressionTrainer, baselines, fractions, scores
from megen_gym.agents.crystal_gpt.regression import load_regressor
from megen_gym.agents.crystal_gpt.rewarding import rewarded
from megen_gym.agents.crystal_gpt.settings import Settings as Pretraining
from megen_gym.agents.crystal_gpt.train import train
from megen_gym.crystals import CrystalBatch
from megen_gym.envs.vector import make_vec
from megen_gym.errors import InputError
from megen_gym.io import write_structures
from megen_gym.rewards import make_reward
from megen_gym.rollout import rollout
from megen_gym.structure import FloatArray, StructureBatch

TINY = {"transformer_layers": 1, "model_size": 16, "num_heads": 2, "key_size": 8}
QUICK = {"progress": False, "device": "cpu", "duplicates": "keep", "lr": 1e-2, "batchsize": 25, "save_freq": 10}


def crystals(count: int = 120) -> CrystalBatch:
    """Rock salts, perovskites, and tetragonal ones that are off their centre."""
    rng = np.random.default_rng(0)
    group = np.array([225, 221, 99])[np.arange(count) % 3]
    letters, points = np.tile([1, 2, 3], (count, 1)), np.zeros((count, 3, 3))
    points[group == 225] = [[0, 0, 0], [0.5, 0.5, 0.5], [0, 0, 0]]
    points[group == 221] = [[0, 0, 0], [0.5, 0.5, 0.5], [0, 0.5, 0.5]]
    points[group == 99] = [[0, 0, 0], [0.5, 0.5, 0.55], [0.5, 0, 0.5]]
    elements = np.stack([rng.choice(some, count) for some in ([11, 19, 56], [17, 22, 40], [8, 9])], 1)
    letters[group == 225, 2] = elements[group == 225, 2] = 0
    edge = np.where(group == 225, rng.uniform(4.8, 6.4, count), rng.uniform(3.7, 4.6, count))
    height = np.where(group == 99, 1.04 * edge, edge)
    lattice = np.stack([edge, edge, height, *np.full((3, count), 90.0)], 1)
    return CrystalBatch(group, letters, elements, points, lattice)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """With data, and with a place of its own for what is read from it."""
    torch.set_num_threads(1)
    path = tmp_path_factory.mktemp("regress")
    atoms = crystals().to_atoms()
    volume = np.array([one.cell.volume / len(one) for one in atoms])
    info = {"volume": volume, "flat": np.ones(len(atoms))}
    for one in atoms:
        one.info.clear()
    write_structures(path / "data.extxyz", atoms, info)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(path / "cache"))
        yield path


def settings(folder: Path, **changes: object) -> Settings:
    options = {"data": str(folder / "data.extxyz"), "property": "volume", "dir": folder} | QUICK | changes
    return Settings(**(options if options.get("load") else TINY | {"n_max": 16} | options))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def trained(folder: Path) -> runs.Run:
    return regress(settings(folder, epochs=25))


@pytest.fixture(scope="module")
def pretrained(folder: Path) -> runs.Run:
    options = TINY | QUICK | {"data": str(folder / "data.extxyz"), "dir": folder, "h0_size": 16, "epochs": 2}
    return train(Pretraining(**options))  # type: ignore[arg-type]


def test_a_simple_property_is_learned(trained: runs.Run, folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    metrics = trained.metrics()
    assert metrics["r2"].max() > 0.9
    assert metrics["train_r2"][-1] > 0.8
    assert metrics["mae"][-1] < 0.3 * metrics["mae"][0]
    names = {path.name for path in trained.path.iterdir()}
    assert names == {
        "config.json",
        "metrics.csv",
        "regression.png",
        "report.html",
        "resume.safetensors",
        "weights.safetensors",
    }
    assert trained.settings["crystal_regressor"]["property"] == "volume"
    model, run = load_regressor("newest", folder)
    assert (run.id, model.name, model.elements) == (trained.id, "volume", [8, 9, 11, 17, 19, 22, 40, 56])
    some = crystals()
    volume = [one.cell.volume / len(one) for one in some.to_atoms()]
    assert scores(np.array(volume), model.predict(some))[1] > 0.9
    caplog.clear()
    with caplog.at_level("INFO"):
        regress(Settings(dir=folder, resume=trained.id, progress=False))
    assert "least squares on the composition" in caplog.text
    assert "held-out crystals: MAE" in caplog.text


def test_the_order_of_sites_and_padding_change_nothing(trained: runs.Run) -> None:
    model, some = load_regressor(trained.path)[0], crystals(30)
    turned = some[some.n_sites == 3]
    other = replace(
        turned, letters=turned.letters[:, ::-1], elements=turned.elements[:, ::-1],
        coordinates=turned.coordinates[:, ::-1],
    )  # fmt: skip
    np.testing.assert_allclose(model.predict(other), model.predict(turned), rtol=1e-5)
    np.testing.assert_allclose(model.predict(some.padded(9)), model.predict(some), rtol=1e-5)
    alone = np.concatenate([model.predict(some[row]) for row in range(len(some))])
    np.testing.assert_allclose(model.predict(some), alone, rtol=1e-5)
    assert len(model.predict(some[:0])) == 0


def worth(reward: object, *structures: Atoms) -> list[float]:
    after = StructureBatch.from_atoms(list(structures))
    assert after.cell is not None
    empty = np.zeros((len(after), 0), dtype=int)
    before = StructureBatch(np.zeros((len(after), 0, 3)), empty, after.symbols, after.cell, after.pbc)
    return reward(before, after).value.tolist()  # type: ignore[operator]


def test_equivalent_descriptions_of_a_crystal_are_worth_the_same(trained: runs.Run) -> None:
    reward = make_reward("property", run=str(trained.path))
    plain = bulk("NaCl", "rocksalt", a=5.64)
    turned = plain * (2, 1, 3)
    turned.positions += plain.cell[1] - 2 * plain.cell[2]
    turned.rotate(40, (1, 2, 3), rotate_cell=True)
    turned = turned[np.random.default_rng(1).permutation(len(turned))]
    conventional = bulk("NaCl", "rocksalt", a=5.64, cubic=True)
    values = worth(reward, plain) + worth(reward, turned) + worth(reward, conventional)
    assert values == pytest.approx([values[0]] * 3, rel=1e-4)
    assert values[0] == pytest.approx(5.64**3 / 8, rel=0.15)


@pytest.mark.parametrize("order", [pytest.param("first", marks=pytest.mark.slow), "last"])
def test_an_interrupted_run_goes_on_to_the_bit(folder: Path, order: str, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = regress(settings(folder, epochs=4, order=order, name="whole", save_freq=1))
    epoch = RegressionTrainer.run_epoch
    with monkeypatch.context() as patch:

        def interrupted(self: RegressionTrainer, report: object) -> dict[str, float]:
            if self.epoch == 2:
                raise KeyboardInterrupt
            return epoch(self, report)  # type: ignore[arg-type]

        patch.setattr(RegressionTrainer, "run_epoch", interrupted)
        with pytest.raises(SystemExit):
            regress(settings(folder, epochs=4, order=order, name="broken", save_freq=1))
    broken = runs.newest(folder)
    assert len(broken.metrics()["iteration"]) == 2
    again = regress(Settings(dir=folder, resume=broken.id, progress=False))
    same_runs(whole, again)


def test_a_run_goes_on_from_another_directory(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    run = regress(settings(folder, data="data.extxyz", epochs=1))
    monkeypatch.chdir(tmp_path)
    again = regress(Settings(resume=str(run.path), epochs=2, progress=False))
    assert (again.path, len(again.metrics()["mae"])) == (run.path, 2)


def test_the_time_of_judging_counts(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def slow(true: FloatArray, guess: FloatArray) -> tuple[float, float]:
        time.sleep(0.5)
        return scores(true, guess)

    monkeypatch.setattr(regress_training, "scores", slow)
    run = regress(settings(folder, epochs=40, max_time=0.8))
    assert len(run.metrics()["seconds"]) <= 3


def test_training_starts_from_a_pretrained_transformer(pretrained: runs.Run, folder: Path) -> None:
    frozen, tuned = (
        regress(settings(folder, load=str(pretrained.path), freeze=freeze, epochs=3)) for freeze in (True, False)
    )
    before, same, changed = pretrained.load_weights(), frozen.load_weights(), tuned.load_weights()
    for name, tensor in before.items():
        assert torch.equal(tensor, same[f"trunk.{name}"]), name
    assert not torch.equal(before["letter.weight"], changed["trunk.letter.weight"])
    assert torch.equal(before["to_letter.weight"], changed["trunk.to_letter.weight"])
    assert load_regressor(frozen.path)[0].network.trunk.shape.order == "last"
    assert np.isfinite(frozen.metrics()["mae"]).all()


def test_baselines_by_hand() -> None:
    some = crystals(120)
    weights = np.arange(119) / 10
    target = fractions(some) @ weights
    mean, linear = baselines(some[:90], target[:90], some[90:])
    np.testing.assert_allclose(mean, target[:90].mean())
    assert scores(target[90:], linear)[1] > 0.99
    assert fractions(some).sum(1) == pytest.approx(1.0)
    assert fractions(some)[1, some.elements[1, 2]] == pytest.approx(3 / 5)


@pytest.mark.parametrize("lattice", ["first", "last"])
@pytest.mark.parametrize("options", [{}, {"target": 20.0, "scale": 2.0}], ids=json.dumps)
def test_crystal_wyckoff_pays_what_the_crystal_is_worth(trained: runs.Run, lattice: str, options: dict) -> None:
    options = {"run": trained.id, "dir": str(trained.path.parent)} | options
    env = make_vec(
        "CrystalWyckoff-v0", 4, spacegroup=[225, 123], composition="NaCl", lattice=lattice, max_atoms=8,
        reward="property", reward_kwargs=options,
    )  # fmt: skip
    played = rollout(RandomValid(env.task, tries=32), env, 6, seed=2)
    assert played.valid.any()
    reward = make_reward("property", **options)
    for row, atoms in enumerate(played.structures.to_atoms()):
        if played.valid[row]:
            assert played.episode_return[row] == pytest.approx(worth(reward, atoms)[0], rel=1e-3, abs=1e-3)


def test_values_targets_and_copies(trained: runs.Run) -> None:
    salts = [bulk("NaCl", "rocksalt", a=a) for a in (5.0, 6.0)]
    plain = make_reward("property", run=str(trained.path))
    value = np.array(worth(plain, *salts))
    np.testing.assert_allclose(value, load_regressor(trained.path)[0].predict(CrystalBatch.from_atoms(salts)))
    smaller = make_reward("property", run=str(trained.path), sign=-1, scale=4.0)
    np.testing.assert_allclose(worth(smaller, *salts), -value / 4)
    near = make_reward("property", run=str(trained.path), target=18.0, scale=2.0)
    np.testing.assert_allclose(worth(near, *salts), -abs(value - 18) / 2)
    for other in (pickle.loads(pickle.dumps(near)), copy.deepcopy(near)):
        assert worth(other, *salts) == worth(near, *salts)


def test_the_return_telescopes(trained: runs.Run) -> None:
    reward = make_reward("property", run=str(trained.path))
    cell = np.array([[[5.0, 0, 0], [0, 6, 0], [0, 0, 7]]])
    points = np.array([[[0, 0, 0], [2.5, 0, 0], [0, 3, 0.4], [2.2, 3, 3]]], dtype=float)
    chain = [
        StructureBatch(points[:, :count], np.array([[1, 2, 1, 2]])[:, :count], ("X", "Na", "Cl"), cell, (True,) * 3)
        for count in range(5)
    ]
    total, known = 0.0, None
    for before, after in itertools.pairwise(chain):
        outcome = reward(before, after, known)
        assert not outcome.errors
        total, known = total + outcome.value[0], outcome.known
    assert total == pytest.approx(reward(chain[0], chain[-1]).value[0])


def test_what_cannot_be_judged_is_an_error_of_its_row(trained: runs.Run) -> None:
    good, strange = bulk("NaCl", "rocksalt", a=5.6), bulk("CuCl", "rocksalt", a=5.6)
    overlap = Atoms("Na2", [[0, 0, 0], [0, 0, 1e-4]], cell=[5, 5, 5], pbc=True)
    many = Atoms("Na20", np.random.default_rng(0).random((20, 3)) * 12, cell=[12, 12, 12], pbc=True)
    after = StructureBatch.from_atoms([good, strange, overlap, many])
    empty = np.zeros_like(after.species)
    before = StructureBatch(np.zeros_like(after.positions), empty, after.symbols, after.cell, after.pbc)
    outcome = make_reward("property", run=str(trained.path))(before, after)
    assert set(outcome.errors) == {1, 2, 3}
    assert "trained on no crystal with Cu" in outcome.errors[1]
    assert "spglib" in outcome.errors[2]
    assert "20 sites" in outcome.errors[3]
    assert outcome.value[0] > 0
    assert outcome.value[1:].tolist() == [0, 0, 0]


def test_it_is_a_reward_of_whole_crystals(trained: runs.Run) -> None:
    judge = rewarded("property", json.dumps({"run": str(trained.path), "target": 15.0}))
    some = crystals(6)
    strange = replace(some, elements=np.where(some.elements == some.elements[0, 0], 26, some.elements))
    expected = -np.abs(load_regressor(trained.path)[0].predict(some) - 15.0)
    np.testing.assert_allclose(judge(some), expected, rtol=1e-4)
    assert np.isnan(judge(strange)[0])


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"property": None}, r"no property is named; give --property one of volume, flat"),
        ({"property": "volum"}, r"property 'volum' is not in the data; did you mean 'volume'"),
        ({"property": "flat"}, r"'flat' does not vary among the 108 crystals"),
        ({"freeze": True}, r"freeze is for a transformer that was trained before; name its run with --load"),
        ({"load": "x", "model_size": 8}, r"model_size is given, but the run of --load decides it"),
        ({"load": "nothing"}, r"no run 'nothing'"),
        ({"data": "nothing.csv"}, r"nothing\.csv"),
        ({"batchsize": 0}, r"batchsize is 0; give at least 1"),
        ({"lr": float("nan")}, r"lr is nan; give a number above 0"),
        ({"holdout": 1.0}, r"holdout is 1\.0"),
        ({"n_max": 2}, r"n_max is 2, but the data has a crystal of 3 sites"),
        ({"model_size": 0}, r"model_size is 0"),
    ],
)
def test_bad_settings_are_answered_in_a_sentence(
    folder: Path, changes: dict, sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        regress(settings(folder, **changes))
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert re.search(sentence, error), error
    assert error.count("\n") == 1


def test_wrong_use_of_the_reward_is_answered_in_a_sentence(
    trained: runs.Run, pretrained: runs.Run, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=r"holds no regressor; train one first: python agents/crystal_gpt/regress\.py"):
        make_reward("property", dir=tmp_path)
    with pytest.raises(InputError, match=r"is no regressor; give one that"):
        make_reward("property", run=str(pretrained.path))
    for options in ({"scale": 0}, {"target": float("nan")}, {"sign": 2}, {"sign": -1, "target": 1.0}, {"symprec": 0}):
        with pytest.raises(InputError, match=r"the reward 'property' was given .*; expected|expected Å"):
            make_reward("property", run=str(trained.path), **options)
    cluster = StructureBatch(np.zeros((1, 1, 3)), np.ones((1, 1), dtype=int), ("X", "Na"))
    with pytest.raises(InputError, match=r"not periodic in three directions.*CrystalWyckoff"):
        make_reward("property", run=str(trained.path))(cluster, cluster)
    points, ones = np.random.default_rng(0).random((1, 18, 3)), np.ones((1, 18), dtype=int)
    large = CrystalBatch(np.array([1]), ones, 11 * ones, points, np.array([[9.0, 9, 9, 80, 81, 82]]))
    with pytest.raises(InputError, match=r"18 sites, but the regressor was made for 1 to 16"):
        load_regressor(trained.path)[0].predict(large)


def test_it_works_without_held_out_crystals(folder: Path) -> None:
    run = regress(settings(folder, holdout=0.0, epochs=2, loss="mse"))
    assert "mae" not in run.metrics()
    assert (run.path / "regression.png").exists()
