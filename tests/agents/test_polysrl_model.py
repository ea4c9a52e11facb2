"""The composition encoder: vectors, properties and their uncertainty, files, and the scripts that judge it."""

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase.io import write
from scipy.stats import spearmanr
from script_checks import command_line, refusal

from megen_gym import cli, runs
from megen_gym.agents.polysrl import logs, model, polymorphs
from megen_gym.agents.polysrl.compositions import Compositions
from megen_gym.agents.polysrl.evaluation import (
    Question,
    judge_network,
    judge_trees,
    stacked,
    statistics_of,
    write_judgements,
)
from megen_gym.agents.polysrl.model import CompositionEncoder
from megen_gym.agents.polysrl.network import CompositionNetwork, Shape
from megen_gym.agents.polysrl.regression import Fit, PropertyModel
from megen_gym.agents.polysrl.settings import Settings as Training
from megen_gym.agents.polysrl.spread import Spread
from megen_gym.agents.polysrl.test_representation import representation
from megen_gym.agents.polysrl.test_transfer import transfer
from megen_gym.agents.polysrl.testing import DATASETS, Settings, resolved
from megen_gym.agents.polysrl.train import train
from megen_gym.errors import InputError
from megen_gym.structure import FloatArray

Capture = pytest.CaptureFixture[str]
TINY = Shape("magpie", "GCN", 1, 10)
SAME = ["BaTiO3", "Ba2Ti2O6", "O3TiBa", "Ba0.2Ti0.2O0.6"]
METALS, OTHERS = ["Li", "Na", "K", "Mg", "Ca", "Fe", "Zn", "Al", "Ti", "Cu"], ["O", "S", "F", "Cl", "N"]
FORMULAS = [f"{metal}{1 + i % 3}{other}{1 + j % 2}" for i, metal in enumerate(METALS) for j, other in enumerate(OTHERS)]


def share_of(formulas: list[str]) -> Any:
    """Of atoms that are no metals; above 0."""
    every = Compositions.parse(formulas)
    return np.where(np.isin(every.numbers, [7, 8, 9, 16, 17]), every.fractions, 0).sum(1)


TARGET = 2 + 5 * share_of(FORMULAS)


def tiny(**options: Any) -> CompositionEncoder:
    torch.manual_seed(3)
    return CompositionEncoder(CompositionNetwork(TINY), **{"epochs": 20, "members": 2, "lr": 1e-2} | options)


@pytest.fixture(scope="module", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What is kept for the next time does not leave the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> runs.Run:
    """A short training, with a spread."""
    folder, real = tmp_path_factory.mktemp("encoders"), Spread.fit
    every = polymorphs.bundled()
    write(folder / "a.extxyz", every.to_atoms(np.flatnonzero(every.composition < 30)), format="extxyz")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Spread, "fit", lambda pairs, seed: real(pairs, seed, 20))
        patch.setattr(logs, "plot_training", lambda run: None)
        return train(
            Training(
                data=str(folder / "a.extxyz"), dir=folder, epochs=1, hidden_dim=8, element_features="magpie",
                sto_layers=1, str_layers=1, progress=False, device="cpu",
            )
        )  # fmt: skip


# --- vectors


def test_the_bundled_encoder_comes_with_the_library() -> None:
    encoder = CompositionEncoder()
    mean, std = encoder.transform([*SAME, "GaAs"], return_std=True)
    assert mean.shape == std.shape == (5, encoder.hidden)
    np.testing.assert_allclose(np.linalg.norm(mean, axis=1), 1, rtol=1e-5)
    assert (std > 0).all()
    assert np.isfinite(std).all()
    for row in (1, 2, 3):
        np.testing.assert_array_equal(mean[row], mean[0])
        np.testing.assert_array_equal(std[row], std[0])
    assert np.abs(mean[4] - mean[0]).max() > 1e-2
    np.testing.assert_allclose(encoder.transform([*SAME, "GaAs"]), mean, atol=1e-6)
    spread = encoder.spread([*SAME, "GaAs"])
    assert spread.shape == (5,)
    assert (spread > 0).all()
    assert len(set(spread[:4])) == 1


def test_loading_nothing_loads_the_bundle() -> None:
    first, second = CompositionEncoder(), CompositionEncoder.load()
    np.testing.assert_array_equal(first.transform(["NaCl"]), second.transform(["NaCl"]))
    np.testing.assert_array_equal(first.spread(["NaCl"]), second.spread(["NaCl"]))


@pytest.mark.parametrize("kind", ["GCN", "GAT", "GIN"])
def test_vectors_belong_to_the_composition_alone(kind: str) -> None:
    encoder = CompositionEncoder(CompositionNetwork(Shape("matscholar", kind, 2, 16)))
    alone, std = encoder.transform(["BaTiO3"], return_std=True)
    found, deviations = encoder.transform([*FORMULAS, *SAME], return_std=True)
    np.testing.assert_allclose(found[-4:], np.repeat(alone, 4, 0), atol=1e-6)
    np.testing.assert_allclose(deviations[-4:], np.repeat(std, 4, 0), rtol=1e-5)
    np.testing.assert_allclose(encoder.transform(Compositions.parse(["TiBaO3"])), alone, atol=1e-6)


def test_the_encoder_of_a_run_is_its_best_one(trained: runs.Run) -> None:
    found = CompositionEncoder.load(trained.path)
    assert found.hidden == 8
    weights = trained.load_weights()
    for name, value in found.network.state_dict().items():
        assert torch.equal(value, weights[f"composition.{name}"])
    for other in (
        CompositionEncoder.load(trained.id, trained.path.parent),
        CompositionEncoder.load("newest", trained.path.parent),
    ):
        np.testing.assert_array_equal(other.transform(FORMULAS), found.transform(FORMULAS))
        np.testing.assert_array_equal(other.spread(FORMULAS), found.spread(FORMULAS))


# --- properties


@pytest.mark.parametrize("freeze", [True, False])
def test_a_property_is_learned_with_its_uncertainty(freeze: bool) -> None:
    encoder = tiny(freeze=freeze, epochs=60)
    before = encoder.transform(FORMULAS)
    state = torch.get_rng_state()
    assert encoder.fit(FORMULAS, TARGET) is encoder
    assert torch.equal(state, torch.get_rng_state())
    value, std = encoder.predict(FORMULAS, return_std=True)
    assert value.shape == std.shape == (len(FORMULAS),)
    assert spearmanr(value, TARGET).statistic > 0.8
    assert (std > 0).all()
    assert np.isfinite(std).all()
    np.testing.assert_array_equal(encoder.predict(FORMULAS), value)
    same, deviations = encoder.predict(SAME, return_std=True)
    assert len(set(same)) == len(set(deviations)) == 1
    np.testing.assert_array_equal(encoder.transform(FORMULAS), before)
    assert encoder.model is not None
    assert len(encoder.model.members) == 2
    moved = [
        not torch.equal(value, member.network.state_dict()[name])
        for member in encoder.model.members
        for name, value in encoder.network.state_dict().items()
        if name != "table"
    ]
    assert any(moved) != freeze


def test_a_given_network_is_tuned_and_the_bundled_one_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    options: dict[str, Any] = {"members": 1, "epochs": 1, "shape": Shape("magpie", "GIN", 1, 6)}
    given = tiny(**options, lr=1e-9).fit(FORMULAS, TARGET)
    assert given.model is not None
    member = given.model.members[0].network
    assert member.shape == TINY
    for name, value in given.network.state_dict().items():
        torch.testing.assert_close(member.state_dict()[name], value, atol=1e-6, rtol=0)
    monkeypatch.setattr(model, "_bundled", lambda: (CompositionNetwork(TINY), None))
    anew = CompositionEncoder(**options).fit(FORMULAS, TARGET)
    assert anew.model is not None
    assert anew.model.members[0].network.shape == options["shape"]
    frozen = CompositionEncoder(**options, freeze=True).fit(FORMULAS, TARGET)
    assert frozen.model is not None
    assert frozen.model.members[0].network.shape == TINY


def test_a_fit_is_the_same_by_its_seed() -> None:
    first, second, third = (
        tiny(seed=seed, members=1, epochs=3).fit(FORMULAS, TARGET).predict(FORMULAS) for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, second)
    assert np.abs(first - third).max() > 1e-6


@pytest.mark.parametrize("scale", ["none", "standard", "log", "minmax"])
def test_predictions_are_in_the_unit_of_the_target(scale: Any) -> None:
    target = 1e4 * TARGET if scale != "none" else TARGET
    value, std = (
        tiny(freeze=True, target_scale=scale, epochs=60).fit(FORMULAS, target).predict(FORMULAS, return_std=True)
    )
    assert np.abs(value - target).mean() < 0.3 * target.mean()
    assert (std > 1e-4 * target.mean()).all()
    assert (std < target.mean()).all()


def made_up(count: int) -> tuple[Compositions, FloatArray]:
    """Random alloys of four metals, and a noisy property that is linear in their shares."""
    rng = np.random.default_rng(0)
    counts = rng.integers(0, 7, (count, 4)) + np.array([1, 0, 0, 0])
    compositions = Compositions.of_counts(counts, np.array([13, 28, 29, 79]))
    return compositions, counts @ np.array([0.0, 1.0, 2.0, 3.0]) / counts.sum(1) + 0.3 * rng.standard_normal(count)


@pytest.mark.slow
def test_one_standard_deviation_covers_two_thirds_of_what_was_kept_back() -> None:
    compositions, target = made_up(1000)
    fitted = tiny(members=3, epochs=5, batch_size=32).fit(compositions, target).model
    assert fitted is not None
    assert fitted.held is not None
    rows, values = fitted.held
    value, std = fitted.predict(compositions[rows])
    np.testing.assert_allclose(value, values, rtol=1e-6)
    assert len(rows) > 80
    assert (np.abs(target[rows] - value) <= std).mean() == pytest.approx(0.68, abs=0.07)


def test_rows_of_one_composition_are_kept_back_together() -> None:
    compositions, target = made_up(60)
    five = Compositions(np.tile(compositions.numbers, (5, 1)), np.tile(compositions.amounts, (5, 1)))
    fitted = tiny(members=1, epochs=1).fit(five, np.tile(target, 5)).model
    assert fitted is not None
    assert fitted.held is not None
    groups = five.unique()[1]
    rest = np.setdiff1d(np.arange(len(groups)), fitted.held[0])
    assert not set(groups[fitted.held[0]].tolist()) & set(groups[rest].tolist())


def test_a_count_weighted_encoder_predicts_each_formula_by_itself() -> None:
    network = CompositionNetwork(Shape("matscholar", "GCN", 2, 16, "counts"))
    encoder = CompositionEncoder(network, freeze=True, members=1, epochs=3).fit(FORMULAS, TARGET)
    both = np.asarray(encoder.predict(["BaTiO3", "Ba2Ti2O6"]))
    assert both[0] != both[1]
    np.testing.assert_allclose(encoder.predict(["Ba2Ti2O6", "BaTiO3"]), both[::-1], rtol=1e-6)


def test_an_encoder_is_kept_exactly(tmp_path: Path, trained: runs.Run) -> None:
    base = CompositionEncoder.load(trained.path)
    for number, options in enumerate(({}, {"freeze": True}, {"freeze": False, "target_scale": "log"})):
        encoder = CompositionEncoder(base.network, base.structures, members=2, epochs=2, **options)
        if options:
            encoder.fit(FORMULAS, TARGET)
        encoder.save(tmp_path / f"{number}.safetensors")
        again = CompositionEncoder.load(tmp_path / f"{number}.safetensors")
        for method in ("transform", "predict") if options else ("transform",):
            mine, theirs = (getattr(each, method)(FORMULAS, return_std=True) for each in (encoder, again))
            for one, two in zip(mine, theirs, strict=True):
                np.testing.assert_array_equal(one, two)
        np.testing.assert_array_equal(encoder.spread(FORMULAS), again.spread(FORMULAS))
        assert (again.model is None) == (not options)
    tiny().save(tmp_path / "plain.safetensors")
    with pytest.raises(InputError, match="without the spread"):
        CompositionEncoder.load(tmp_path / "plain.safetensors").spread(["NaCl"])


@pytest.mark.parametrize("old", [True, False])
def test_published_checkpoints_are_read(old: bool, tmp_path: Path) -> None:
    """With the names of torch-geometric 1.7, whose matrices are transposed, and of later versions."""
    network = CompositionNetwork(Shape("matscholar", "GCN", 2, 200, "counts"))
    names = {
        "mean_set.lstm": "mean_set2set.lstm",
        "std_set.lstm": "var_set2set.lstm",
        "mean_out": "mean_lin",
        "std_out": "var_lin",
        "join": "gnn.lin",
    }
    state = {"gnn.bns.0.weight": torch.ones(200)}
    for name, value in network.state_dict().items():
        head = next((each for each in names if name.startswith(f"{each}.")), None)
        if head is not None:
            state[names[head] + name.removeprefix(head) + ("_l0" if "lstm" in head else "")] = value
        elif name.startswith("layers."):
            number, rest = name.removeprefix("layers.").split(".", 1)
            weight = rest == "linear.weight"
            state[f"gnn.convs.{number}.{('weight' if old else 'lin.weight') if weight else 'bias'}"] = (
                value.T.contiguous() if weight and old else value
            )
    torch.save(state, tmp_path / "a.pt")
    found = CompositionEncoder.load(tmp_path / "a.pt")
    np.testing.assert_array_equal(found.transform(["ZrSe3"]), CompositionEncoder(network).transform(["ZrSe3"]))


# --- what is wrong


def test_wrong_use_is_answered_in_a_sentence(tmp_path: Path) -> None:
    encoder = tiny()
    for formulas, sentence in (
        (["NaCl", "Nacl"], "did you mean 'Cl'"),
        (["Xq2O"], "unknown element 'Xq'"),
        ("NaCl", r"give a list, such as \['NaCl'\]"),
        ([], "no formulas were given"),
        (["RfO2"], r"Rf: no element features in 'magpie' \(they reach from H to Fm\)"),
    ):
        for method in (encoder.transform, lambda given: encoder.fit(given, np.ones(len(given)))):
            with pytest.raises(InputError, match=sentence):
                method(formulas)  # type: ignore[operator]
    with pytest.raises(InputError, match=r"has learned no property yet; call fit\(formulas, target\) first"):
        encoder.predict(["NaCl"])
    with pytest.raises(InputError, match=r"no option 'epoch'; did you mean 'epochs'"):
        tiny(epoch=3)
    (tmp_path / "strange.safetensors").write_bytes(b"nothing")
    with pytest.raises(InputError, match="is no saved encoder"):
        CompositionEncoder.load(tmp_path / "strange.safetensors")
    with pytest.raises(InputError, match="nothing"):
        CompositionEncoder.load("nothing", tmp_path)


@pytest.mark.parametrize(
    ("options", "target", "sentence"),
    [
        ({}, np.where(np.arange(50) == 7, np.nan, TARGET), "1 of 50 targets are NaN or infinite, e.g. row 7"),
        ({}, np.where(np.arange(50) == 7, np.inf, TARGET), "1 of 50 targets are NaN or infinite, e.g. row 7"),
        ({"target_scale": "log"}, TARGET - TARGET[0], "have no logarithm"),
        ({}, TARGET[:-1], r"50 formulas have targets of shape \(49,\); give one each"),
        ({}, TARGET[:, None], r"50 formulas have targets of shape \(50, 1\)"),
        ({"target_scale": "lg"}, TARGET, "there is no scaling 'lg'; did you mean 'log'"),
    ],
)
def test_targets_that_cannot_be_learned_are_refused(options: dict[str, Any], target: Any, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        tiny(**options).fit(FORMULAS, target)


def test_too_few_formulas_are_refused() -> None:
    with pytest.raises(InputError, match="9 formulas with 9 targets; give at least 10"):
        tiny().fit(FORMULAS[:9], TARGET[:9])


@pytest.mark.parametrize(
    "options",
    [{"members": 0}, {"epochs": 0}, {"batch_size": -1}, {"lr": 0.0}, {"weight_decay": -1.0}, {"dropout": 1.0}],
)
def test_options_that_cannot_work_are_refused(options: dict[str, Any]) -> None:
    (name,) = options
    with pytest.raises(InputError, match=name):
        Fit(**options)


# --- judging


def table(path: Path, rows: Any = None, target: Any = TARGET) -> Path:
    with path.open("w") as file:
        csv.writer(file).writerows([("formula", "gap"), *(rows or zip(FORMULAS, target, strict=True))])
    return path


def quick(**changes: Any) -> Fit:
    return Fit(**{"members": 1, "epochs": 2, "shape": TINY, "batch_size": 16} | changes)


def nothing() -> None:
    """Told of an epoch."""


def test_finished_folds_are_not_trained_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    question = Question.read(table(tmp_path / "a.csv"))
    first = judge_network(question, "a", quick(), None, tmp_path, nothing)
    assert sorted(path.name for path in tmp_path.glob("fold_*")) == [f"fold_{fold}.npz" for fold in range(5)]
    real, calls = PropertyModel.fit, []

    def counted(*given: Any) -> PropertyModel:
        calls.append(0)
        return real(*given)

    monkeypatch.setattr(PropertyModel, "fit", counted)
    again = judge_network(question, "a", quick(), None, tmp_path, nothing)
    assert not calls
    np.testing.assert_array_equal(again.scores.predicted, first.scores.predicted)
    np.testing.assert_array_equal(again.std, first.std)
    assert again.seconds == first.seconds
    (tmp_path / "fold_2.npz").unlink()
    again = judge_network(question, "a", quick(), None, tmp_path, nothing)
    assert len(calls) == 1
    np.testing.assert_array_equal(again.scores.mae, first.scores.mae)
    other = Question.read(table(tmp_path / "b.csv", target=TARGET + 1))
    assert question.fingerprint() == Question.read(tmp_path / "a.csv").fingerprint() != other.fingerprint()


def test_what_is_tested_has_no_say_in_its_prediction(tmp_path: Path) -> None:
    question = Question.read(table(tmp_path / "a.csv"))
    test = question.folds[0][1]
    shifted = question.table.target.copy()
    shifted[test] += 100 * np.random.default_rng(0).random(len(test))
    other = Question.read(table(tmp_path / "b.csv", target=shifted))
    np.testing.assert_array_equal(other.folds[0][1], test)
    found = []
    for name, each in (("a", question), ("b", other)):
        (tmp_path / name).mkdir()
        network = judge_network(each, "network", quick(), None, tmp_path / name, nothing)
        trees = judge_trees(each, statistics_of(each), ["ridge"], 0)
        found.append([network, *trees, stacked(each, network, trees, tmp_path / name, 0)])
    for mine, theirs in zip(*found, strict=True):
        np.testing.assert_array_equal(mine.scores.predicted[test], theirs.scores.predicted[test])
        rest = np.setdiff1d(np.arange(len(shifted)), test)
        assert np.abs(mine.scores.predicted[rest] - theirs.scores.predicted[rest]).max() > 0.1
        assert theirs.scores.mae[0] > mine.scores.mae[0] + 10
    network, trees, both = (each.scores.predicted for each in found[0])
    low, high = np.minimum(network, trees), np.maximum(network, trees)
    assert (both >= low - 1e-9).all()
    assert (both <= high + 1e-9).all()


def test_results_are_written_as_they_are(tmp_path: Path) -> None:
    question = Question.read(table(tmp_path / "a.csv"))
    judged = [judge_network(question, "a network", quick(), None, tmp_path, nothing)]
    judged += judge_trees(question, statistics_of(question), ["ridge"], 0)
    markdown = write_judgements(tmp_path, question, judged)
    assert markdown.count("\n") == 4
    with (tmp_path / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["model"] for row in rows] == ["a network", "ridge"]
    for row, each in zip(rows, judged, strict=True):
        assert float(row["mae"]) == pytest.approx(each.scores.mae.mean(), rel=1e-5)
        assert float(row["mae_std"]) == pytest.approx(each.scores.mae.std(), rel=1e-5)
        assert float(row["r2"]) == pytest.approx(each.scores.r2.mean(), rel=1e-5)
        assert row["folds"] == "5"
    with (tmp_path / "predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["formula"] for row in rows] == list(question.table.formulas)
    assert list(rows[0]) == ["formula", "target", "a network", "a network_std", "ridge"]
    for name, values in (
        ("target", question.table.target),
        ("a network", judged[0].scores.predicted),
        ("a network_std", judged[0].std),
        ("ridge", judged[1].scores.predicted),
    ):
        np.testing.assert_allclose([float(row[name]) for row in rows], values, rtol=1e-5)


def test_compositions_in_two_folds_are_reported(tmp_path: Path) -> None:
    rows = [*zip(FORMULAS[:20], TARGET[:20], strict=True), ("O2Li2", 9.0), ("Li3O3", 8.0), ("Cl2Na4", 3.0)]
    path = table(tmp_path / "a.csv", rows)
    kept = Question.read(path, duplicates="keep")
    assert any("have a composition that is also trained on" in sentence for sentence in kept.told)
    merged = Question.read(path)
    assert len(merged.table) < 23
    assert not any("also trained on" in sentence for sentence in merged.told)


def test_elements_without_features_are_left_out_and_said(tmp_path: Path) -> None:
    path = table(tmp_path / "a.csv", [*zip(FORMULAS, TARGET, strict=True), ("RfO2", 3.0)])
    question = Question.read(path, element_features=("magpie",))
    assert len(question.table) == len(question.compositions) == 50
    assert any("RfO2" in sentence and "Rf: no element features" in sentence for sentence in question.told)


@pytest.mark.parametrize("name", DATASETS)
def test_published_sets_decide_the_scale_and_the_batch(name: str) -> None:
    found = resolved(Settings(dataset=name), True)
    assert (found.target_scale, found.batch_size) == DATASETS[name]
    given = resolved(Settings(dataset=name, target_scale="minmax", batch_size=7), False)
    assert (given.target_scale, given.batch_size) == ("minmax", 7)


def test_the_scripts_differ_in_what_they_begin_with() -> None:
    frozen, tuned = resolved(Settings(), True), resolved(Settings(), False)
    assert (frozen.model, frozen.epochs) == ("bundle", 300)
    assert tuned.model == "random"
    assert (frozen.target_scale, frozen.batch_size) == (tuned.target_scale, tuned.batch_size) == ("standard", 64)
    assert len(DATASETS) == 16


# --- the scripts

SMALL: dict[str, Any] = {
    "model": "random", "sto_gnns": "GCN", "sto_layers": 1, "hidden_dim": 10, "element_features": "magpie", "epochs": 2,
    "batch_size": 16, "members": 1, "trees": "ridge", "progress": False,
}  # fmt: skip


def words(**changes: Any) -> list[str]:
    return command_line(SMALL | changes)


def refused(given: list[str], capsys: Capture, script: Any = representation) -> str:
    """The one sentence of a command line that is refused with exit code 2."""
    names = {word.removeprefix("--").partition("=")[0] for word in given}
    return refusal(lambda: script(cli.run(Settings, given), names), capsys)


@pytest.mark.parametrize("script", [pytest.param(representation, marks=pytest.mark.slow), transfer])
def test_a_script_leaves_a_run_folder_and_goes_on(
    script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    data = table(tmp_path / "a.csv")
    first = script(cli.run(Settings, words(data=data, dir=tmp_path / "one", dataset="ebg")))
    assert {path.name for path in first.path.iterdir()} == {
        "config.json", "resume.safetensors", "results.csv", "predictions.csv", "predictions.png",
        *(f"fold_{fold}.npz" for fold in range(5)),
    }  # fmt: skip
    assert first.settings["polysrl_test"]["target_scale"] == "none"
    assert first.settings["polysrl_test"]["batch_size"] == 16
    real, calls = PropertyModel.fit, []

    def interrupted(*given: Any) -> PropertyModel:
        calls.append(0)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*given)

    monkeypatch.setattr(PropertyModel, "fit", interrupted)
    with pytest.raises(SystemExit) as end:
        script(Settings(**SMALL, data=str(data), dir=tmp_path / "two", dataset="ebg"))
    assert end.value.code == 130
    capsys.readouterr()
    begun = runs.newest(tmp_path / "two")
    second = script(Settings(dir=tmp_path / "two", resume=begun.id, progress=False))
    assert len(calls) == 6
    assert (second.path / "predictions.csv").read_text() == (first.path / "predictions.csv").read_text()
    given = [f"--dir={tmp_path / 'two'}", f"--resume={second.id}"]
    other = transfer if script is representation else representation
    assert "was made by the other script" in refused(given, capsys, other)
    assert "has epochs = 2, which cannot become 3" in refused([*given, "--epochs=3"], capsys, script)
    changed = table(tmp_path / "b.csv", target=TARGET + 1)
    assert "the table differs from that of" in refused([*given, f"--data={changed}"], capsys, script)


@pytest.mark.parametrize("script", [representation, transfer])
def test_the_encoder_of_a_run_is_judged(script: Any, trained: runs.Run, tmp_path: Path) -> None:
    run = script(
        Settings(**SMALL | {"model": str(trained.path), "trees": ""}, data=str(table(tmp_path / "a.csv")), dir=tmp_path)
    )
    with (run.path / "results.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert row["model"] == f"encoder {trained.path.name}, {'frozen' if script is representation else 'fine-tuned'}"


def test_values_that_no_logarithm_takes_stop_before_training(tmp_path: Path, capsys: Capture) -> None:
    data = table(tmp_path / "a.csv", target=TARGET - TARGET.mean())
    sentence = refused(words(data=data, dir=tmp_path / "runs", target_scale="log"), capsys)
    assert "have no logarithm" in sentence
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"data": None}, "no table was given"),
        ({"data": "nothing.csv"}, "nothing.csv does not exist"),
        ({"dataset": "ebgg"}, "dataset 'ebgg' is none of the published ones; did you mean 'ebg'"),
        ({"target": "gpa"}, "gap"),
        ({"formula": "fromula"}, "formula"),
        ({"folds": "official"}, "no official folds"),
        ({"folds": "oficial"}, "oficial"),
        ({"fold_file": "nothing.csv"}, "nothing.csv does not exist"),
        ({"target_scale": "lg"}, "lg"),
        ({"model": "nothing"}, "nothing"),
        ({"sto_gnns": "GCM"}, "did you mean 'GCN'"),
        ({"element_features": "magpi"}, "did you mean 'magpie'"),
        ({"hidden_dim": 0}, "hidden_dim is 0"),
        ({"epochs": 0}, "epochs is 0"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"members": 0}, "members is 0"),
        ({"trees": "ridge,extra_tree"}, "did you mean 'extra_trees'"),
        ({"threads": 0}, "threads is 0"),
        ({"dropout": 1.0}, "dropout 1.0"),
    ],
    ids=lambda value: next(iter(value.items())) if isinstance(value, dict) else "",
)
def test_wrong_options_are_answered_in_a_sentence(
    options: dict[str, Any], sentence: str, tmp_path: Path, capsys: Capture
) -> None:
    given = {"data": table(tmp_path / "a.csv"), "dir": tmp_path / "runs"} | options
    given = {name: value for name, value in given.items() if value is not None}
    assert sentence in refused(words(**given), capsys)
    assert not (tmp_path / "runs").exists()


def test_a_table_without_a_property_is_refused(tmp_path: Path, capsys: Capture) -> None:
    path = tmp_path / "a.csv"
    path.write_text("formula,name\n" + "".join(f"{formula},salt\n" for formula in FORMULAS))
    assert "a.csv" in refused(words(data=path, dir=tmp_path / "runs"), capsys)
    path.write_text("name,gap\n" + "".join(f"salt,{value}\n" for value in TARGET))
    assert "a.csv" in refused(words(data=path, dir=tmp_path / "runs"), capsys)
