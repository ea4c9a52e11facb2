"""PolySRL's training: data, embedders, batches, run folders, going on to the bit, the spread, wrong input."""

import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.io import write
from scipy.stats import spearmanr
from script_checks import command_line, killed, refusal, same_runs

from megen_gym import cli, runs
from megen_gym.agents.nn.resuming import settings_of
from megen_gym.agents.polysrl import data as reading
from megen_gym.agents.polysrl import logs, losses, polymorphs, spread, training
from megen_gym.agents.polysrl.compositions import Compositions
from megen_gym.agents.polysrl.data import Pairs, load_pairs
from megen_gym.agents.polysrl.embedders import EMBEDDERS, GraphCL
from megen_gym.agents.polysrl.graphs import Graphs, graphs_of
from megen_gym.agents.polysrl.settings import Settings, resolved
from megen_gym.agents.polysrl.spread import Spread, description
from megen_gym.agents.polysrl.train import train
from megen_gym.agents.polysrl.training import Trainer, build, embed, embed_graphs, judge, target_of
from megen_gym.errors import InputError

ROOT = Path(__file__).resolve().parents[2]
Capture = pytest.CaptureFixture[str]
SMALL: dict[str, Any] = {
    "element_features": "magpie", "hidden_dim": 12, "sto_layers": 2, "str_layers": 1, "n_samples": 4, "batch_size": 16,
    "epochs": 2, "eval_freq": 1, "spread": False, "device": "cpu", "progress": False, "holdout": 0.2,
}  # fmt: skip


def small(**changes: Any) -> Settings:
    return Settings(**SMALL | changes)


def words(**changes: Any) -> list[str]:
    """The same as a command line."""
    return command_line(SMALL | changes)


def refused(given: list[str], capsys: Capture) -> str:
    """The one sentence of a command line that is refused with exit code 2."""
    names = {word.removeprefix("--").partition("=")[0] for word in given}
    return refusal(lambda: train(cli.run(Settings, given), names), capsys)


@pytest.fixture(scope="module", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What is kept for the next time does not leave the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a plot, but for the run that fixtures made."""
    monkeypatch.setattr(logs, "plot_training", lambda run: None)


@pytest.fixture(scope="module")
def structures() -> list[Atoms]:
    """Of 40 bundled compositions, at most four of each, with two properties that are made up."""
    every = polymorphs.bundled()
    rows, seen = [], dict.fromkeys(np.flatnonzero(np.bincount(every.composition) > 1)[:30].tolist(), 0)
    seen |= dict.fromkeys(np.flatnonzero(np.bincount(every.composition) == 1)[:10].tolist(), 0)
    for row, composition in enumerate(every.composition.tolist()):
        if composition in seen and seen[composition] < 4:
            seen[composition] += 1
            rows.append(row)
    found = every.to_atoms(rows)
    for atoms in found:
        atoms.info = {"band_gap": float(atoms.numbers.mean()), "e_form": -float(np.ptp(atoms.numbers))}
    return found


@pytest.fixture(scope="module")
def data(structures: list[Atoms], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "crystals.extxyz"
    write(path, structures, format="extxyz")
    return path


@pytest.fixture(scope="module")
def pairs(data: Path) -> Pairs:
    return load_pairs(data, "magpie", False)


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> runs.Run:
    folder, real = tmp_path_factory.mktemp("runs"), Spread.fit
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Spread, "fit", lambda pairs, seed: real(pairs, seed, 60))
        return train(small(dir=folder, data=str(data), epochs=15, lr=0.01, eval_freq=3, spread=True))


# --- data


def test_crystals_of_one_composition_are_together(pairs: Pairs, structures: list[Atoms]) -> None:
    assert len(pairs) == len(structures) == pairs.counts.sum()
    assert len(pairs.compositions) == 40
    assert 2 <= pairs.counts.max() <= 4
    for row, atoms in enumerate(structures):
        numbers, counts = np.unique(atoms.numbers, return_counts=True)
        mine = pairs.compositions[pairs.index[[row]]]
        assert mine.numbers[0, : len(numbers)].tolist() == numbers.tolist()
        np.testing.assert_allclose(mine.fractions[0, : len(numbers)], counts / len(atoms))
    np.testing.assert_allclose(pairs.properties["band_gap"], [atoms.info["band_gap"] for atoms in structures])


def test_a_supercell_has_the_composition_of_its_cell(tmp_path: Path) -> None:
    salt = bulk("NaCl", "rocksalt", a=5.6)
    write(
        tmp_path / "a.extxyz",
        [salt, bulk("MgO", "rocksalt", a=4.2), salt.repeat((2, 1, 1)), bulk("NaCl", "cesiumchloride", a=3.4)],
    )
    found = load_pairs(tmp_path / "a.extxyz", "onehot", False)
    assert found.index.tolist() == [0, 1, 0, 0]
    assert found.counts.tolist() == [3, 1]


def test_crystals_of_strange_elements_are_left_out_with_a_sentence(tmp_path: Path) -> None:
    write(tmp_path / "a.extxyz", [bulk("NaCl", "rocksalt", a=5.6), bulk("AmO", "rocksalt", a=5.0)])
    found = load_pairs(tmp_path / "a.extxyz", "megnet16", False)
    assert len(found) == 1
    assert len(found.skipped) == 1
    assert "structure 1 (AmO): Am: no element features in 'megnet16'" in found.skipped[0]
    write(tmp_path / "b.extxyz", [bulk("AmO", "rocksalt", a=5.0)])
    with pytest.raises(InputError, match="Am: no element features"):
        load_pairs(tmp_path / "b.extxyz", "megnet16", False)


def test_some_crystals_keep_their_compositions_and_properties(pairs: Pairs) -> None:
    rows = np.array([50, 3, 51, 4, 0])
    some = pairs.crystals(rows)
    assert some.index[0] == 0
    assert sorted(set(some.index.tolist())) == list(range(len(some.compositions)))
    mine, theirs = some.compositions[some.index], pairs.compositions[pairs.index[rows]]
    np.testing.assert_array_equal(mine.numbers, theirs.numbers)
    np.testing.assert_array_equal(mine.amounts, theirs.amounts)
    np.testing.assert_array_equal(some.graphs.nodes, pairs.graphs.nodes[rows])
    np.testing.assert_array_equal(some.properties["e_form"], pairs.properties["e_form"][rows])


def test_no_composition_is_both_trained_on_and_held_out(pairs: Pairs) -> None:
    first, second = pairs.split(0.25, 3)
    assert len(second.compositions) == 10
    assert len(first) + len(second) == len(pairs)
    keys = [
        {tuple(zip(*row, strict=True)) for row in zip(p.compositions.numbers, p.compositions.fractions, strict=True)}
        for p in (first, second)
    ]
    assert not keys[0] & keys[1]
    assert len(keys[0] | keys[1]) == 40
    np.testing.assert_array_equal(pairs.split(0.25, 3)[1].compositions.numbers, second.compositions.numbers)
    other = pairs.split(0.25, 4)[1].compositions
    assert (
        other.numbers.shape != second.compositions.numbers.shape or (other.numbers != second.compositions.numbers).any()
    )
    none = pairs.split(0.0, 0)[1]
    assert len(none) == len(none.compositions) == 0
    for share in (0.03, 0.97):
        with pytest.raises(InputError, match=r"40 compositions with holdout .* leave"):
            pairs.split(share, 0)


def test_without_data_the_bundle_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    every = polymorphs.bundled()
    end = int(every.offsets[5])
    few = polymorphs.Polymorphs(
        every.formulas, every.kinds, every.composition[:5], every.energy[:5], every.prototypes[:5], every.cells[:5],
        every.offsets[:6], every.numbers[:end], every.fractions[:end],
    )  # fmt: skip
    monkeypatch.setattr(polymorphs, "bundled", lambda: few)
    found = load_pairs(None, "matscholar", False, cache=False)
    assert len(found) == 5
    np.testing.assert_array_equal(found.properties["energy_above_lowest"], every.energy[:5])
    np.testing.assert_allclose(found.properties["volume_per_atom"], every.volumes()[:5])


def test_what_was_read_is_kept_for_the_next_time(
    structures: list[Atoms], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy, data, real, calls = tmp_path / "a.extxyz", tmp_path / "b.extxyz", reading.graph_of, []
    write(data, structures[:20], format="extxyz")
    pairs = load_pairs(data, "magpie", False, cache=False)
    copy.write_bytes(data.read_bytes())

    def counted(*given: Any) -> Graphs:
        calls.append(0)
        return real(*given)

    monkeypatch.setattr(reading, "graph_of", counted)
    for name, path, table, expected in (
        ("kept", data, "magpie", 1),
        ("kept", copy, "magpie", 1),
        ("kept", data, "onehot", 2),
        ("other", data, "magpie", 3),
        (False, data, "magpie", 4),
    ):
        found = load_pairs(path, table, False, cache=tmp_path / name if isinstance(name, str) else name)
        assert len(calls) == 20 * expected
        np.testing.assert_array_equal(found.index, pairs.index)
        np.testing.assert_array_equal(found.compositions.amounts, pairs.compositions.amounts)
        for part in ("numbers", "share", "centre", "other", "distance", "count", "nodes", "edges"):
            np.testing.assert_array_equal(getattr(found.graphs, part), getattr(pairs.graphs, part))
        for key, values in pairs.properties.items():
            np.testing.assert_array_equal(found.properties[key], values)
    (file,) = (tmp_path / "other").iterdir()
    file.write_bytes(file.read_bytes()[:-300])
    assert len(load_pairs(data, "magpie", False, cache=tmp_path / "other")) == len(pairs)
    assert len(calls) == 20 * 5
    copy.write_text(copy.read_text().replace("band_gap", "gap", 1))
    load_pairs(copy, "magpie", False, cache=tmp_path / "kept")
    assert len(calls) == 20 * 6
    assert len(load_pairs(data, "magpie", False, cache=copy)) == len(pairs)


# --- embedders


def ready(pairs: Pairs, **changes: Any) -> Trainer:
    """A trainer whose batches are all of the data."""
    settings = resolved(small(**{"batch_size": 1000, "epochs": 60, "lr": 3e-3} | changes))
    torch.manual_seed(1)
    return Trainer(build(settings), pairs, settings, target_of(settings, pairs))


def loss_of(trainer: Trainer) -> torch.Tensor:
    torch.manual_seed(5)
    found: torch.Tensor = trainer.trained.loss(trainer.batch(np.arange(len(trainer.pairs))))[0]
    return found


@pytest.mark.parametrize("preset", ["ours", "published"])
@pytest.mark.parametrize("name", EMBEDDERS)
def test_every_embedder_learns(name: str, preset: str, pairs: Pairs) -> None:
    trainer = ready(pairs, embedder=name, preset=preset)
    before = float(loss_of(trainer).detach())
    for _ in range(25):
        told = trainer.run_epoch(lambda row: None)
    assert np.isfinite(list(told.values())).all()
    assert float(loss_of(trainer).detach()) < 0.93 * before


@pytest.mark.parametrize("name", EMBEDDERS)
def test_gradients_reach_what_is_used(name: str, pairs: Pairs) -> None:
    """Without samples, all but the head of the standard deviation."""
    trainer = ready(pairs, embedder=name)
    loss_of(trainer).backward()  # type: ignore[no-untyped-call]
    idle = {
        key for key, value in trainer.trained.named_parameters() if value.grad is None or not value.grad.abs().max() > 0
    }
    head = {key for key, _ in trainer.trained.named_parameters() if key.startswith("composition.std_")}
    assert head
    assert idle == (set() if name == "PolySRL" else head)


def test_the_terms_of_the_loss_are_added_as_said(pairs: Pairs) -> None:
    plain, more = (ready(pairs, uniform=u, vib=v, balance=2.0) for u, v in ((0.0, 0.0), (3.0, 0.01)))
    batch = plain.batch(np.arange(len(pairs)))
    distribution, points = plain.trained.compose(batch), plain.trained.crystals(batch)
    torch.manual_seed(5)
    samples = losses.draw(distribution, 4)
    extra = 3.0 * losses.uniformity(torch.cat([samples.flatten(0, 1), points])) + 0.01 * losses.kl_to_normal(
        distribution
    )
    torch.testing.assert_close(loss_of(more) - loss_of(plain), extra / len(pairs), atol=1e-4, rtol=1e-4)
    contrast = losses.soft_contrastive(
        samples, points, batch.same, torch.tensor(20.0), torch.tensor(20.0), torch.tensor(2.0)
    )
    torch.testing.assert_close(loss_of(plain), contrast.total / len(pairs))


def test_both_kinds_of_pairs_count_the_same(pairs: Pairs) -> None:
    trainer = ready(pairs, vib=0.0)
    batch = trainer.batch(np.arange(len(pairs)))
    balance = float((~batch.same).sum() / batch.same.sum())
    assert balance > 10
    torch.testing.assert_close(loss_of(trainer), loss_of(ready(pairs, vib=0.0, balance=balance)))


def test_the_deterministic_form_has_no_noise(pairs: Pairs) -> None:
    trainer = ready(pairs, embedder="PolySRL_det")
    batch = trainer.batch(np.arange(8))
    assert torch.equal(trainer.trained.loss(batch)[0], trainer.trained.loss(batch)[0])
    noisy = ready(pairs).trained
    assert not torch.equal(noisy.loss(batch)[0], noisy.loss(batch)[0])
    still = ready(pairs, reparameterize=0.0, vib=0.0, balance=1.0).trained
    torch.testing.assert_close(still.loss(batch)[0], still.loss(batch)[0])


def test_the_two_views_of_graphcl_differ(pairs: Pairs) -> None:
    trainer = ready(pairs, embedder="GraphCL")
    embedder, batch = trainer.trained, trainer.batch(np.arange(len(pairs)))
    assert isinstance(embedder, GraphCL)
    first, second = embedder.view(batch, 0.5), embedder.view(batch, 0.5)
    changed = (first - second).abs().amax(1) > 1e-4
    assert changed.float().mean() > 0.3
    torch.testing.assert_close(embedder.view(batch, 0.0), embedder.compose(batch).mean)
    assert batch.graphs is None


def test_infomax_takes_polymorphs_for_partners(pairs: Pairs) -> None:
    trainer = ready(pairs, embedder="3DInfomax")
    batch = trainer.batch(np.arange(len(pairs)))
    assert batch.same.sum(1).tolist() == pairs.counts.tolist()
    mean, points = trainer.trained.compose(batch).mean, trainer.trained.crystals(batch)
    chance = torch.softmax(mean @ points.T / 0.2, 1)
    own = torch.stack([sum(chance[c, pairs.index == c]) for c in range(len(mean))])  # type: ignore[misc]
    torch.testing.assert_close(loss_of(trainer), -own.log().mean())


def test_properties_are_learned_in_standard_deviations(pairs: Pairs) -> None:
    holes = pairs.properties["band_gap"].copy()
    holes[[2, 5]] = np.nan
    trainer = ready(replace(pairs, properties={"gap": holes, "band_gap": holes}), embedder="MPBandG")
    assert len(trainer.pairs) == len(pairs) - 2
    batch = trainer.batch(np.arange(len(pairs) - 2))
    assert batch.target is not None
    assert float(batch.target.mean()) == pytest.approx(0, abs=1e-5)
    assert float(batch.target.std(correction=0)) == pytest.approx(1, abs=1e-5)
    with pytest.raises(InputError, match="property 'gap' does not vary"):
        ready(replace(pairs, properties={"gap": np.full(len(pairs), 0.1)}), embedder="MPBandG")


def test_the_property_is_found_by_its_usual_names(pairs: Pairs) -> None:
    for name, expected in (("MPBandG", "band_gap"), ("MPFormE", "e_form"), ("PolySRL", None)):
        assert target_of(small(embedder=name), pairs) == expected
    assert target_of(small(embedder="MPBandG", property="e_form"), pairs) == "e_form"


# --- batches


def test_structures_of_a_composition_come_together(pairs: Pairs) -> None:
    trainer = ready(pairs, batch_size=10)
    rounds = [trainer.shuffled() for _ in range(2)]
    for batches in rounds:
        assert len(batches) == trainer.batches == -(-len(pairs) // 10)
        assert max(map(len, batches)) <= 10
        assert sorted(torch.cat(batches).tolist()) == list(range(len(pairs)))
        seen = [set(pairs.index[rows.numpy()].tolist()) for rows in batches]
        for at, mine in enumerate(seen):
            for later in seen[at + 2 :]:
                assert not mine & later
        assert all(len(one & two) <= 1 for one, two in pairwise(seen))
    assert torch.cat(rounds[0]).tolist() != torch.cat(rounds[1]).tolist()


def test_as_published_they_fall_where_they_fall(pairs: Pairs) -> None:
    batches = ready(pairs, batch_size=10, polymorph_batches=False).shuffled()
    assert sorted(torch.cat(batches).tolist()) == list(range(len(pairs)))
    seen = [set(pairs.index[rows.numpy()].tolist()) for rows in batches]
    assert sum(len(one & two) for at, one in enumerate(seen) for two in seen[at + 1 :]) > len(batches)


def test_pairs_that_belong_together_are_those_of_one_composition(pairs: Pairs) -> None:
    rows = np.argsort(pairs.index, kind="stable")[:9]
    expected = pairs.index[rows][:, None] == pairs.index[rows]
    ours = ready(pairs).batch(rows)
    assert len(ours.numbers) == len(set(pairs.index[rows].tolist())) == len(ours.same)
    assert (ours.same[ours.owner].numpy() == expected).all()
    published = ready(pairs, preset="published").batch(rows)
    assert len(published.numbers) == 9
    assert (published.same.numpy() == expected).all()
    assert published.owner.tolist() == list(range(9))
    for preset in ("ours", "published"):
        own = ready(pairs, preset=preset, positives="identity").batch(rows)
        assert len(own.numbers) == 9
        assert (own.same.numpy() == np.eye(9, dtype=bool)).all()
        assert (own.numbers == published.numbers).all()


def test_the_learning_rate_falls_or_stays(pairs: Pairs) -> None:
    falling, constant = ready(pairs, batch_size=10, epochs=40), ready(pairs, batch_size=10, lr_schedule="constant")
    steps = 40 * falling.batches
    falling.step, constant.step = steps // 2, steps
    assert falling.learning_rate() == pytest.approx(0.505 * 3e-3, rel=1e-3)
    falling.step = steps
    assert falling.learning_rate() == pytest.approx(3e-5, rel=1e-3)
    assert constant.learning_rate() == 3e-3


def test_embedding_in_parts_changes_nothing(pairs: Pairs, monkeypatch: pytest.MonkeyPatch) -> None:
    embedder = ready(pairs).trained
    mean, log_std = embed(embedder.composition, pairs.compositions)
    points = embed_graphs(embedder, pairs.graphs)
    assert mean.shape == log_std.shape == (40, 12)
    assert points.shape == (len(pairs), 12)
    monkeypatch.setattr(training, "ROWS", 7)
    for mine, theirs in zip(embed(embedder.composition, pairs.compositions), (mean, log_std), strict=True):
        np.testing.assert_allclose(mine, theirs, atol=1e-6)
    np.testing.assert_allclose(embed_graphs(embedder, pairs.graphs), points, atol=1e-6)


def test_the_judge_counts_ranks_of_own_structures(pairs: Pairs, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three compositions at 0, 10 and 20 of a line, with structures at 1 and 3, 2, and 25."""
    some = replace(pairs, compositions=pairs.compositions[np.arange(3)], index=np.array([0, 0, 1, 2]))
    line = np.array([[0.0], [10.0], [20.0]])
    monkeypatch.setattr(training, "embed_means", lambda *_: line)
    monkeypatch.setattr(training, "embed_graphs", lambda *_: np.array([[1.0], [3.0], [2.0], [25.0]]))
    found = judge(ready(pairs).trained, some)
    assert found["hit_1"] == pytest.approx(2 / 3)
    assert found["hit_5"] == 1
    assert found["miss"] == pytest.approx(1 - (1 + 1 / 2 + 1) / 3)
    assert found["within"] == pytest.approx((1 + 3 + 8 + 5) / 4)


# --- the script


def test_the_run_folder_is_complete_and_the_loss_falls(whole: runs.Run, data: Path) -> None:
    assert {path.name for path in whole.path.iterdir()} == {
        "config.json", "metrics.csv", "report.html", "resume.safetensors", "spread.safetensors", "training.png",
        "weights.safetensors",
    }  # fmt: skip
    metrics = whole.metrics()
    assert {"loss", "contrast", "right_pos", "right_neg", "mean_log_std", "lr", "hit_1", "hit_5", "miss"} < set(metrics)
    assert np.isfinite(metrics["miss"]).sum() == 5
    assert metrics["loss"][-1] < 0.8 * metrics["loss"][0]
    assert metrics["right_pos"][-1] > metrics["right_pos"][0]
    kept = settings_of(Settings, whole.settings["polysrl"])
    assert (kept.hidden_dim, kept.ema, kept.no_node_feature) == (12, 0.99, False)
    assert kept.data == str(data.resolve())
    assert "best epoch" in logs.summary(whole)


def test_a_run_goes_on_to_the_bit_with_more_epochs(data: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"data": str(data), "lr_schedule": "constant"}
    first = train(small(dir=tmp_path / "one", epochs=5, **options))
    begun = train(small(dir=tmp_path / "two", epochs=2, **options))
    second = train(Settings(dir=tmp_path / "two", resume=begun.id, epochs=5, progress=False))
    assert begun.path == second.path
    assert len(second.metrics()["loss"]) == 5
    same_runs(first, second)


@pytest.mark.parametrize("embedder", ["PolySRL", pytest.param("GraphCL", marks=pytest.mark.slow)])
def test_a_run_that_loses_its_last_epochs_goes_on_to_the_bit(
    embedder: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {"data": str(data), "embedder": embedder, "epochs": 4}
    first = train(small(dir=tmp_path / "one", **options))
    real, calls = Trainer.run_epoch, []

    def interrupted(self: Trainer, report: Any) -> dict[str, float]:
        calls.append(0)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(self, report)

    monkeypatch.setattr(Trainer, "run_epoch", interrupted)
    with pytest.raises(SystemExit) as end:
        train(small(dir=tmp_path / "two", **options))
    assert end.value.code == 130
    monkeypatch.setattr(Trainer, "run_epoch", real)
    second = train(Settings(dir=tmp_path / "two", resume="newest", progress=False))
    same_runs(first, second)


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_bit(data: Path, tmp_path: Path) -> None:
    first = train(small(dir=tmp_path / "first", data=str(data), epochs=60))
    command = [sys.executable, "agents/polysrl/train.py", *words(data=data, dir=tmp_path / "second", epochs=60)]
    begun = killed(command, tmp_path / "second")
    assert 1 <= begun.load_state()[1]["epoch"] < 60
    given = ("dir", "resume", "progress")
    same_runs(first, train(Settings(dir=tmp_path / "second", resume="newest", progress=False), given))


def test_a_run_killed_before_its_first_epoch_begins_anew(data: Path, tmp_path: Path) -> None:
    first = train(small(dir=tmp_path, data=str(data)))
    again = train(small(dir=tmp_path, data=str(data), name="again"))
    for name in ("resume.safetensors", "weights.safetensors", "metrics.csv"):
        (again.path / name).unlink()
    same_runs(first, train(Settings(dir=tmp_path, resume=again.id, progress=False)))


def test_what_cannot_change_on_resuming_is_refused(
    whole: runs.Run, structures: list[Atoms], data: Path, tmp_path: Path, capsys: Capture
) -> None:
    given = [f"--dir={whole.path.parent}", f"--resume={whole.id}", "--progress=false"]
    sentence = refused([*given, "--hidden_dim=16"], capsys)
    assert "has hidden_dim = 12, which cannot become 16 on resuming" in sentence
    changed = [atoms.copy() for atoms in structures]
    changed[3].set_cell(changed[3].cell * 1.01, scale_atoms=True)
    write(tmp_path / "other.extxyz", changed, format="extxyz")
    sentence = refused([*given, f"--data={tmp_path / 'other.extxyz'}"], capsys)
    assert "the data differs from that of run" in sentence
    moved = tmp_path / "moved.extxyz"
    moved.write_bytes(data.read_bytes())
    run = train(Settings(dir=whole.path.parent, resume=whole.id, data=str(moved), spread=False, progress=False))
    assert len(run.metrics()["loss"]) == 15
    sentence = refused([f"--dir={tmp_path}", "--resume=newest"], capsys)
    assert "holds no training of PolySRL; train one first: python agents/polysrl/train.py" in sentence


def test_training_ends_when_its_time_is_over_and_goes_on_with_more(data: Path, tmp_path: Path) -> None:
    run = train(small(dir=tmp_path, data=str(data), max_time=0.2, epochs=10**6))
    done = len(run.metrics()["loss"])
    assert 0 < done < 1000
    again = train(Settings(dir=tmp_path, resume=run.id, max_time=0.4, progress=False))
    assert len(again.metrics()["loss"]) > done


def test_training_ends_when_nothing_gets_better(data: Path, tmp_path: Path) -> None:
    run = train(small(dir=tmp_path, data=str(data), lr=1e-12, ema=0.0, es=2, epochs=30))
    assert len(run.metrics()["loss"]) < 6


@pytest.mark.parametrize(
    "options",
    [
        {"preset": "published", "clip": True, "sto_gnns": "GAT", "uniform": 0.5, "holdout": 0.0},
        {"sto_gnns": "GIN", "element_features": "combined", "writer": True, "grad_clip": False, "n_samples": 1},
        {"embedder": "MPBandG", "weight_decay": 0.01, "positives": "identity", "es": 1},
        {"embedder": "MPFormE", "property": "band_gap", "no_node_feature": True, "seed": 5},
        {"embedder": "GraphCL", "p_e1": 0.0, "batch_size": 3, "spread": True},
        {
            "embedder": "3DInfomax",
            "tau": 0.1,
            "polymorph_batches": False,
            "element_features": "onehot",
            "device": "cpu",
        },
    ],
    ids=lambda options: options.get("embedder", options.get("sto_gnns")),
)
def test_other_settings_work(options: dict[str, Any], data: Path, tmp_path: Path) -> None:
    given = [*words(**options | {"data": data, "dir": tmp_path, "epochs": 1})]
    run = train(cli.run(Settings, given))
    metrics = run.metrics()
    assert len(metrics["loss"]) == 1
    assert np.isfinite(metrics["loss"]).all()
    sees = options.get("embedder", "PolySRL") in ("PolySRL", "3DInfomax") and options.get("holdout") != 0.0
    assert ("miss" in metrics) == sees
    assert (run.path / "tensorboard").exists() == options.get("writer", False)
    assert not (run.path / "spread.safetensors").exists()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"embedder": "PolySR"}, "PolySR"),
        ({"sto_gnns": "GCM"}, "GCM"),
        ({"element_features": "matscolar"}, "did you mean 'matscholar'"),
        ({"lr": 0}, "lr is 0"),
        ({"lr": ".nan"}, "lr is nan"),
        ({"epochs": 0}, "epochs is 0; give at least 1"),
        ({"batch_size": -1}, "batch_size is -1"),
        ({"n_samples": 0}, "n_samples is 0"),
        ({"hidden_dim": 0}, "hidden_dim is 0"),
        ({"holdout": 1.0}, "holdout is 1.0"),
        ({"holdout": 0.01}, "40 compositions with holdout 0.01 leave 40 to train on and 0 to judge by"),
        ({"p_e1": 1.0}, "p_e1 is 1.0"),
        ({"tau": -1}, "tau is -1"),
        ({"vib": -1}, "vib is -1"),
        ({"threads": 0}, "threads is 0"),
        ({"negative_scale": 0}, "negative_scale is 0"),
        ({"device": "gpu"}, "gpu"),
        ({"data": "nothing.csv"}, "nothing.csv"),
        ({"embedder": "MPBandG", "property": "band_gp"}, "did you mean 'band_gap'"),
        ({"resume": "nothing"}, "nothing"),
        ({"widths": 4}, "widths"),
        ({"epochs": "many"}, "many"),
    ],
    ids=lambda value: next(iter(value.items())) if isinstance(value, dict) else "",
)
def test_wrong_options_are_answered_in_a_sentence(
    options: dict[str, Any], sentence: str, data: Path, tmp_path: Path, capsys: Capture
) -> None:
    assert sentence in refused(words(**{"data": data, "dir": tmp_path / "runs"} | options), capsys)
    assert not list((tmp_path / "runs").glob("*/metrics.csv"))


def test_data_that_cannot_be_learned_from_is_refused(structures: list[Atoms], tmp_path: Path, capsys: Capture) -> None:
    plain = [Atoms(atoms.numbers, positions=atoms.positions, cell=atoms.cell, pbc=True) for atoms in structures]
    write(tmp_path / "plain.extxyz", plain, format="extxyz")
    given = {"dir": tmp_path / "runs", "embedder": "MPFormE", "data": tmp_path / "plain.extxyz"}
    sentence = refused(words(**given), capsys)
    assert "MPFormE learns formation_energy_per_atom or e_form, but the data has" in sentence
    assert "name one with --property" in sentence
    write(tmp_path / "few.extxyz", plain[:3], format="extxyz")
    sentence = refused(words(**given | {"embedder": "PolySRL", "data": tmp_path / "few.extxyz"}), capsys)
    assert "compositions with holdout 0.2 leave" in sentence
    (tmp_path / "empty.extxyz").write_text("")
    assert "empty.extxyz" in refused(words(**given | {"data": tmp_path / "empty.extxyz"}), capsys)
    (tmp_path / "strange.csv").write_text("formula,gap\nNaCl,8.5\n")
    assert "strange.csv" in refused(words(**given | {"data": tmp_path / "strange.csv"}), capsys)
    assert not (tmp_path / "runs").exists()


def test_the_presets_are_as_documented() -> None:
    ours, published = resolved(Settings()), resolved(Settings(preset="published"))
    assert (ours.lr, ours.ema, ours.polymorph_batches, ours.balance, ours.no_node_feature) == (
        1e-3,
        0.99,
        True,
        None,
        False,
    )
    assert (published.lr, published.ema, published.polymorph_batches, published.balance) == (5e-5, 0.0, False, 1.0)
    assert published.no_node_feature is True
    assert resolved(Settings(preset="published", lr=1e-3, no_node_feature=False)).lr == 1e-3
    assert resolved(Settings(device="1")).device == "cuda:1"
    assert settings_of(Settings, json.loads(json.dumps(dict(vars(ours), dir=str(ours.dir))))) == ours


# --- the spread


def made_up(sigma: Any, compositions: Compositions, each: int, seed: int) -> Pairs:
    """Crystals of six neighbours at 2.5 Å and six at 4 Å plus noise of `sigma` (C,) Å."""
    rng, size = np.random.default_rng(seed), len(compositions) * each
    index = np.repeat(np.arange(len(compositions)), each)
    distance = np.full((size, 2), 2.5)
    distance[:, 1] = np.clip(4.0 + np.asarray(sigma)[index] * rng.standard_normal(size), 2.5, 8.0)
    ends, ones = np.zeros(2 * size, dtype=np.int64), np.ones(size, dtype=np.int64)
    graphs = Graphs(ones, ones.astype(float), ends, ends, distance.reshape(-1), np.full(2 * size, 6.0), ones, 2 * ones)
    return Pairs(compositions, graphs, index)


def oxides(count: int, seed: int) -> tuple[Compositions, Any]:
    """Compositions AxBy, and the share of B."""
    rng = np.random.default_rng(seed)
    metals, others = ["Li", "Na", "K", "Mg", "Ca", "Fe", "Zn", "Al"], ["O", "S", "F", "Cl"]
    formulas = [
        f"{rng.choice(metals)}{rng.integers(1, 9)}{rng.choice(others)}{rng.integers(1, 9)}" for _ in range(count)
    ]
    every = Compositions.parse(formulas)
    found = every[every.unique()[0]]
    share = np.where(np.isin(found.numbers, [8, 16, 9, 17]), found.fractions, 0).sum(1)
    return found, share


def test_the_spread_is_ranked_by_composition(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spread, "BATCH", 96)
    known, share = oxides(160, 0)
    found = Spread.fit(made_up(0.02 + 0.8 * share**2, known, 5, 1), steps=200)
    new, truth = oxides(80, 7)
    std = found.std(new)
    assert spearmanr(std, truth).statistic > 0.6
    assert (std > 0).all()
    assert np.isfinite(found.factor).all()
    assert np.median(std[truth > 0.7]) > 2 * np.median(std[truth < 0.3])


def test_the_spread_is_in_units_of_that_of_all_structures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spread, "BATCH", 64)
    known, share = oxides(60, 0)
    state = torch.get_rng_state()
    everywhere = Spread.fit(made_up(np.full(len(known), 0.3), known, 8, 1), steps=150)
    assert torch.equal(state, torch.get_rng_state())
    assert np.median(everywhere.std(known)) == pytest.approx(1, abs=0.25)
    apart = made_up(np.zeros(len(known)), known, 4, 1)
    shifted = np.where(share > 0.5, 3.0, 5.0).repeat(4)
    distance = apart.graphs.distance.reshape(-1, 2).copy()
    distance[:, 1] = shifted
    alone = Spread.fit(replace(apart, graphs=replace(apart.graphs, distance=distance.reshape(-1))), steps=150)
    assert np.median(alone.std(known)) < 0.7


def test_the_spread_belongs_to_the_composition_and_is_kept(tmp_path: Path, whole: runs.Run) -> None:
    found = Spread.load(whole.path / "spread.safetensors")
    std = found.std(Compositions.parse(["BaTiO3", "Ba2Ti2O6", "Ba0.2Ti0.2O0.6", "NaCl"]))
    np.testing.assert_allclose(std[:3], std[0], rtol=1e-6)
    assert np.isfinite(std).all()
    assert (std > 0).all()
    found.save(tmp_path / "again.safetensors")
    again = Spread.load(tmp_path / "again.safetensors")
    np.testing.assert_array_equal(again.factor, found.factor)
    some = oxides(30, 3)[0]
    np.testing.assert_array_equal(again.std(some), found.std(some))


def test_neither_size_nor_cell_matters_to_what_the_spread_is_of() -> None:
    salt = bulk("NaCl", "rocksalt", a=5.0)
    larger = bulk("NaCl", "rocksalt", a=5.1)
    other = bulk("NaCl", "cesiumchloride", a=3.1)
    first, second, third, fourth = description(graphs_of([salt, salt.repeat((2, 1, 1)), larger, other]))
    np.testing.assert_allclose(second, first, atol=1e-9)
    np.testing.assert_allclose(third, first, atol=1e-9)
    assert np.abs(fourth - first).max() > 0.1


def test_data_that_tells_no_spread_is_refused() -> None:
    known, share = oxides(60, 0)
    with pytest.raises(InputError, match=r"10 compositions with at most 5 structures do not tell .* --spread false"):
        Spread.fit(made_up(share[:10], known[np.arange(10)], 5, 1))
    with pytest.raises(InputError, match=r"compositions with at most 1 structures do not tell"):
        Spread.fit(made_up(share, known, 1, 1))
    with pytest.raises(InputError, match="alike"):
        Spread.fit(made_up(np.zeros(len(known)), known, 3, 1))
