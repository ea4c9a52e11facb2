"""Tuning of crystal_gpt: policy gradient, leash, variety, preferences, hard conditions, and the script."""

import math
import sys
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from ase.io import read
from script_checks import killed, same_runs, same_tensors

from megen_gym import runs
from megen_gym.agents.crystal_gpt.asking import Request
from megen_gym.agents.crystal_gpt.encoding import Sites
from megen_gym.agents.crystal_gpt.generate import sample
from megen_gym.agents.crystal_gpt.model import Model, load_model
from megen_gym.agents.crystal_gpt.permitted import log_likelihood, replayed
from megen_gym.agents.crystal_gpt.preferences import preference_loss, ranked_pairs
from megen_gym.agents.crystal_gpt.rewarding import rewarded
from megen_gym.agents.crystal_gpt.scoring import Scorer, default_floor, identities
from megen_gym.agents.crystal_gpt.settings import Settings as Training
from megen_gym.agents.crystal_gpt.settings import resolved as trained
from megen_gym.agents.crystal_gpt.training import Trainer
from megen_gym.agents.crystal_gpt.tune import tune
from megen_gym.agents.crystal_gpt.tune_settings import Settings, resolved
from megen_gym.agents.crystal_gpt.tuning import Tuner
from megen_gym.agents.nn.policy_gradient import policy_loss
from megen_gym.crystals import CrystalBatch
from megen_gym.errors import InputError
from megen_gym.io import write_structures
from megen_gym.structure import FloatArray

ROOT = Path(__file__).resolve().parents[2]
TARGET = 9.0
VOLUME = {"reward": "volume_per_atom", "reward_kwargs": f'{{"target": {TARGET}}}'}


def perovskites(count: int, seed: int = 0) -> CrystalBatch:
    """Cubic and tetragonal ones of a few elements, 10 to 20 Å³ per atom."""
    rng = np.random.default_rng(seed)
    group = np.where(np.arange(count) % 3 == 0, 99, 221)
    letters = np.tile([1, 2, 3], (count, 1))
    elements = np.stack([rng.choice([20, 38, 56], count), rng.choice([22, 40], count), rng.choice([7, 8, 9], count)], 1)
    points = np.tile([[0, 0, 0], [0.5, 0.5, 0.5], [0, 0.5, 0.5]], (count, 1, 1)).astype(float)
    points[group == 99] = [[0, 0, 0.05], [0.5, 0.5, 0.5], [0.5, 0, 0.5]]
    points[group == 99, 2, 2] += rng.normal(0, 0.03, int((group == 99).sum()))
    edge = rng.uniform(3.7, 4.6, count)
    height = np.where(group == 99, 1.03 * edge, edge)
    return CrystalBatch(group, letters, elements, points, np.stack([edge, edge, height, *np.full((3, count), 90.0)], 1))


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> runs.Run:
    """A trained run."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("source")
    crystals = perovskites(240)
    write_structures(folder / "data.extxyz", crystals[:40].to_atoms())
    settings = trained(
        Training(
            data=str(folder / "data.extxyz"), transformer_layers=1, model_size=16, num_heads=2, key_size=8, h0_size=32,
            Kx=4, Kl=4, epochs=30, lr=6e-3, batchsize=40, dir=folder, duplicates="keep",
        )
    )  # fmt: skip
    model = Model.build(settings, crystals, (), np.zeros((len(crystals), 0)), 4)
    trainer = Trainer(model, crystals, None, settings)
    while trainer.epoch < settings.epochs:
        trainer.run_epoch(lambda row: None)
    run = runs.create(folder, {"name": "source", "seed": 0, "crystal_gpt": asdict(settings)})
    run.save_weights(trainer.average.state_dict())
    tensors, numbers = trainer.state()
    run.save_state(tensors, numbers | {"model": model.describe()})
    return run


def tuner(
    source: runs.Run, wanted: Request | None = None, groups: tuple[int, ...] = (221,), **changes: object
) -> Tuner:
    options = {"batchsize": 64, "lr": 2e-3, "seed": 1} | VOLUME | changes
    settings = resolved(Settings(**options))  # type: ignore[arg-type]
    model = load_model(source.path)[0]
    judge = rewarded(settings.reward, settings.reward_kwargs) if settings.reward else None
    hard = (wanted or Request()).wanted(model, list(groups))
    return Tuner(model, settings, Scorer(judge, settings), list(groups), hard)


def tuned(one: Tuner, epochs: int) -> list:
    draws = [one.draw()]
    for _ in range(epochs):
        one.update(draws[-1])
        draws.append(one.draw())
    return draws


def test_the_reward_rises_far_beyond_its_error(source: runs.Run) -> None:
    draws = tuned(tuner(source, lr=4e-3), 9)
    before, after = draws[0].scores.reward, draws[-1].scores.reward
    error = math.hypot(before.std(), after.std()) / math.sqrt(len(after))
    assert after.mean() - before.mean() > 10 * error
    assert after.mean() > 0.4 * before.mean()


def test_the_leash_holds(source: runs.Run) -> None:
    loose, short = (tuned(tuner(source, beta=beta), 8)[-1].leash.mean() for beta in (0.0, 20.0))
    assert loose > 1.0
    assert short < 0.1 * loose


def test_beta_falls_below_the_target_and_rises_above_it(source: runs.Run) -> None:
    one = tuner(source, target_kl=1e-6)
    begin = one.beta
    one.update(one.draw())
    assert one.beta == pytest.approx(begin / 1.5)
    one.update(one.draw())
    assert one.beta == pytest.approx(begin)


@pytest.mark.slow
def test_beta_follows_the_target(source: runs.Run) -> None:
    one = tuner(source, target_kl=0.2)
    draws = tuned(one, 20)
    assert one.beta > 1.0
    assert np.mean([draw.leash.mean() for draw in draws[-5:]]) < 0.6


@pytest.mark.parametrize("ratio", ["crystal", "part"])
def test_the_first_step_is_the_policy_gradient(source: runs.Run, ratio: str) -> None:
    one = tuner(source, ratio=ratio)
    draw = one.draw()
    assert torch.equal(draw.logp, draw.reference)
    advantage = one.advantages(draw)
    change = log_likelihood(one.network, draw.sites, permitted=draw.permitted) - draw.logp
    assert change.abs().max() < 1e-4
    change = change if ratio == "part" else change.sum(1, keepdim=True)
    parameters = list(one.network.parameters())
    gradient = torch.autograd.grad(policy_loss(change, advantage, 0.2), parameters, allow_unused=True)
    logp = log_likelihood(one.network, draw.sites, permitted=draw.permitted)
    plain = -(advantage * logp.sum(1)).mean()
    for mine, expected in zip(gradient, torch.autograd.grad(plain, parameters, allow_unused=True), strict=True):
        if expected is not None:
            torch.testing.assert_close(mine, expected, rtol=2e-3, atol=1e-5)


def test_clipping_by_hand() -> None:
    change = torch.log(torch.tensor([[2.0], [0.5], [2.0], [0.5], [9.0], [1.1]]))
    advantage = torch.tensor([1.0, 1.0, -1.0, -1.0, -1.0, 2.0])
    expected = -np.mean([1.2, 0.5, -2.0, -0.8, -3.0, 2.2])
    assert float(policy_loss(change, advantage, 0.2)) == pytest.approx(expected)
    assert float(policy_loss(change, advantage, None)) == pytest.approx(-np.mean([2.0, 0.5, -2.0, -0.5, -9.0, 2.2]))
    huge = torch.tensor([[500.0], [500.0]], requires_grad=True)
    loss = policy_loss(huge, torch.tensor([1.0, -1.0]), 0.2)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(huge.grad).all()


@pytest.mark.slow
def test_variety_is_kept_by_its_price(source: runs.Run) -> None:
    def barium(crystals: CrystalBatch) -> FloatArray:
        return np.asarray((crystals.elements == 56).any(1) * 1.0 + (crystals.elements == 8).any(1))

    unique = {}
    for weight in (0.0, 1.0):
        one = tuner(source, beta=0.0, diversity=weight, lr=5e-3)
        one.scorer.judge = barium
        unique[weight] = np.mean([draw.scores.unique for draw in tuned(one, 11)[-4:]])
    assert unique[1.0] > 1.3 * unique[0.0]


def test_the_penalty_counts_the_batch_and_its_memory() -> None:
    crystals = perovskites(2)[np.array([0, 1, 1, 1])]
    scorer = Scorer(None, Settings(diversity=0.5, memory=1))
    np.testing.assert_allclose(scorer(crystals).penalty, 0.5 * np.log([1, 3, 3, 3]))
    again = scorer(crystals[:1])
    np.testing.assert_allclose(again.penalty, 0.5 * np.log([2]))
    np.testing.assert_allclose(scorer(crystals[1:2]).penalty, [0.0])
    assert again.unique == 1.0


def test_crystals_are_told_apart_by_what_they_are() -> None:
    one = perovskites(1)
    other_order = replace(one, elements=one.elements[:, [1, 0, 2]])
    larger = replace(one, lattice=one.lattice * [1.2, 1.2, 1.2, 1, 1, 1])
    a_little = replace(one, lattice=one.lattice * [1.0001, 1.0001, 1.0001, 1, 1, 1])
    keys = identities(CrystalBatch.join([one, other_order, larger, a_little, perovskites(2)[1:]]))
    assert keys[0] == keys[1] == keys[3]
    assert len(set(keys)) == 3


def test_overlap_and_failure_get_the_floor() -> None:
    crystals = perovskites(5)
    crystals.lattice[0, :3] = 0.6
    values = iter([np.array([1.0, np.nan, np.inf, 3.0]), np.array([-50.0])])
    scorer = Scorer(lambda batch: next(values), Settings())
    scores = scorer(crystals)
    assert scores.apart.tolist() == [False, True, True, True, True]
    np.testing.assert_array_equal(scores.reward, [np.nan, 1.0, np.nan, np.nan, 3.0])
    np.testing.assert_allclose(scores.value, [0.0, 1.0, 0.0, 0.0, 3.0])
    assert scorer.evaluations == 4
    assert scorer(crystals[1:2]).value == [0.0]  # no worse than the floor
    assert default_floor(np.array([1.0, 2.0, 3.0, 4.0, -1e9])) == pytest.approx(1 - 5 * 2 - 2)
    smaller = Scorer(lambda batch: np.array([2.0, -30.0]), Settings(minimise=True, clip_reward=10.0, floor=-4.0))
    assert smaller(crystals[1:3]).value.tolist() == [-2.0, 10.0]
    with pytest.raises(InputError, match="none of the first 2 crystals has a reward"):
        Scorer(lambda batch: np.full(2, np.nan), Settings())(crystals[1:3])


def test_preference_losses_by_hand() -> None:
    chosen, rejected = torch.tensor([-1.0, -2.0]), torch.tensor([-3.0, -1.0])
    before = torch.tensor([-2.0, -2.0]), torch.tensor([-2.0, -2.0])
    margins = [2.0, -1.0]
    loss, margin = preference_loss(chosen, rejected, *before, beta=0.5)
    assert margin.tolist() == margins
    sigmoid = lambda x: 1 / (1 + math.exp(-x))
    assert float(loss) == pytest.approx(-(math.log(sigmoid(1.0)) + math.log(sigmoid(-0.5))) / 2)
    smooth = preference_loss(chosen, rejected, *before, beta=0.5, label_smoothing=0.1, gamma=0.3).value
    each = [-0.9 * math.log(sigmoid(0.5 * m)) - 0.1 * math.log(sigmoid(-0.5 * m)) for m in margins]
    assert float(smooth) == pytest.approx(sum(each) / 2 + 0.3 * 1.5)
    ipo = preference_loss(chosen, rejected, *before, beta=0.5, ipo=True).value
    assert float(ipo) == pytest.approx(((2 - 1) ** 2 + (-1 - 1) ** 2) / 2)
    better, worse = ranked_pairs(np.ones(4, dtype=int), np.zeros(4))
    assert len(better) == len(worse) == 0


@pytest.mark.parametrize("ipo", [False, True])
def test_preferences_move_the_likelihood(source: runs.Run, ipo: bool) -> None:
    one = tuner(source, method="dpo", ipo=ipo, reward=None, reward_kwargs=None, chosen="a", rejected="b", batchsize=32)
    crystals = perovskites(128, seed=3)
    order = np.argsort(crystals.lattice[:, 0])
    pairs = crystals[np.concatenate([order[:64], order[64:]])].padded(4)
    settings = one.settings
    one = Tuner(load_model(source.path)[0], settings, one.scorer, [221], None, None, pairs)

    def margin() -> float:
        logp = one.model.log_prob(pairs).total
        return float((logp[:64] - logp[64:]).mean())

    before = margin()
    rows = [one.update(one.draw()) for _ in range(12)]
    assert margin() > before + 1.0
    assert rows[-1]["preferred"] > 0.6
    assert rows[-1]["loss"] < rows[0]["loss"]


def test_preferences_among_samples_raise_the_reward(source: runs.Run) -> None:
    draws = tuned(tuner(source, method="dpo", beta=0.1), 6)
    assert draws[-1].scores.reward.mean() > 0.75 * draws[0].scores.reward.mean()


def test_the_likelihood_under_conditions_sums_to_one(source: runs.Run) -> None:
    one = tuner(source, Request(elements="Sr,Ti,O", wyckoff="a"))
    elements = [38, 22, 8]
    crystals = CrystalBatch(
        np.full(3, 221), np.ones((3, 1), dtype=int), np.array(elements)[:, None], np.zeros((3, 1, 3)),
        np.tile([4.0, 4, 4, 90, 90, 90], (3, 1)),
    ).padded(4)  # fmt: skip
    sites = Sites.of(crystals)
    with torch.no_grad():
        parts = log_likelihood(one.network, sites, None, replayed(one.network, sites, one.wanted))
        free = log_likelihood(one.network, sites)
    assert float(parts[:, :2].sum(1).exp().sum()) == pytest.approx(1.0, abs=1e-5)
    assert float(free[:, :2].sum(1).exp().sum()) < 0.9
    torch.testing.assert_close(parts[:, 2:], free[:, 2:])


def test_tuning_under_a_composition(source: runs.Run) -> None:
    draws = tuned(tuner(source, Request(composition="BaTiO3", n_atoms=5), (221, 99)), 6)
    assert {atoms.get_chemical_formula("metal") for draw in draws for atoms in draw.crystals.to_atoms()} == {"BaTiO3"}
    assert set(draws[0].crystals.group.tolist()) == {221, 99}
    assert draws[-1].scores.value.mean() > draws[0].scores.value.mean()


SCRIPT = {"batchsize": 32, "epochs": 6, "lr": 1e-3, "progress": False, "device": "cpu", "diversity": 0.1} | VOLUME


def script(source: runs.Run, **changes: object) -> Settings:
    return Settings(**({"run": str(source.path), "dir": source.path.parent} | SCRIPT | changes))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def whole(source: runs.Run) -> runs.Run:
    return tune(script(source))


def test_the_run_folder_is_one_of_crystal_gpt(whole: runs.Run, source: runs.Run) -> None:
    names = {path.name for path in whole.path.iterdir()}
    assert names == {
        "config.json", "metrics.csv", "pretrained.safetensors", "report.html", "resume.safetensors",
        "structures_tuned.extxyz", "tuning.png", "weights.safetensors",
    }  # fmt: skip
    metrics = whole.metrics()
    assert metrics["iteration"].tolist() == list(range(7))
    assert metrics["kl"][0] == 0
    assert np.isfinite(metrics["nll"]).all()
    assert metrics["evaluations"][-1] == round(32 * metrics["apart"].sum())
    assert metrics["nll"][0] == pytest.approx(-7.0, abs=8)
    model, _ = load_model(whole.path)
    assert len(sample(model, 8, [221])) == 8
    same_tensors(whole.load_weights("pretrained.safetensors"), source.load_weights())
    rewards = [atoms.info["reward"] for atoms in read(whole.path / "structures_tuned.extxyz", ":")]
    assert rewards == sorted(rewards, reverse=True)
    assert np.mean(rewards) == pytest.approx(metrics["reward"][-1])


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_bit(whole: runs.Run, source: runs.Run, tmp_path: Path) -> None:
    given = {"run": source.path, "dir": tmp_path} | SCRIPT | {"progress": "false", "device": "cpu"}
    words = [f"--{name}={value}" for name, value in given.items()]
    run = killed([sys.executable, "agents/crystal_gpt/tune.py", *words], tmp_path, 4)
    assert run.load_state()[1]["epoch"] < 6, "it was not killed in time"
    again = tune(Settings(dir=tmp_path, resume=run.id, progress=False, device="cpu"))
    same_runs(whole, again)


def test_a_finished_run_is_lengthened(whole: runs.Run, source: runs.Run) -> None:
    short = tune(script(source, epochs=2))
    longer = tune(Settings(dir=source.path.parent, resume=short.id, epochs=6, progress=False), {"epochs", "progress"})
    np.testing.assert_array_equal(longer.metrics()["reward"], whole.metrics()["reward"])
    with pytest.raises(SystemExit):
        tune(Settings(dir=source.path.parent, resume=short.id, beta=3.0, progress=False))


def test_the_best_epoch_is_near_enough(source: runs.Run, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    run = tune(script(source, epochs=8, lr=3e-3, max_kl=0.3, beta=0.0, data=str(source.path.parent / "data.extxyz")))
    metrics = run.metrics()
    assert metrics["kl"][-1] > 0.3
    allowed = np.flatnonzero(metrics["kl"] <= 0.3)
    kept = allowed[metrics["score"][allowed].argmax()]
    assert f"kept: epoch {kept}," in caplog.text


def test_data_that_is_gone_is_said(source: runs.Run, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = runs.create(
        tmp_path, source.settings | {"crystal_gpt": source.settings["crystal_gpt"] | {"data": "gone.csv"}}
    )
    run.save_weights(source.load_weights())
    run.save_state(*source.load_state())
    caplog.set_level("INFO")
    made = tune(script(run, run=run.id, epochs=1))
    assert "cannot be read any more" in caplog.text
    assert "nll" not in made.metrics()


def test_data_that_has_changed_is_said(source: runs.Run, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = runs.create(tmp_path, source.settings)
    run.save_weights(source.load_weights())
    tensors, meta = source.load_state()
    run.save_state(tensors, meta | {"fingerprint": "of other crystals"})
    caplog.set_level("INFO")
    made = tune(script(run, run=run.id, epochs=1))
    assert "the data of training has changed" in caplog.text
    assert "duplicates of others" not in caplog.text
    assert "nll" not in made.metrics()


def test_pairs_from_files(source: runs.Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small, large = (str(tmp_path / f"{name}.extxyz") for name in ("small", "large"))
    crystals = perovskites(48, seed=5)
    order = np.argsort(crystals.lattice[:, 0])
    write_structures(small, crystals[order[:24]].to_atoms())
    write_structures(large, crystals[order[24:]].to_atoms())
    none = {"reward": None, "reward_kwargs": None, "diversity": 0.0}
    run = tune(script(source, method="dpo", chosen=small, rejected=large, epochs=5, lr=3e-3, batchsize=16, **none))
    metrics = run.metrics()
    assert metrics["preferred"][-2] > metrics["preferred"][0]
    assert np.isnan(metrics["reward"]).all()
    write_structures(large, crystals[order[25:]].to_atoms())
    with pytest.raises(SystemExit) as exit_:
        tune(script(source, method="dpo", chosen=small, rejected=large, **none))
    assert exit_.value.code == 2
    assert "has 24 crystals and" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"reward": None}, "no reward was given; give one with --reward"),
        ({"reward": None, "method": "dpo"}, "or pairs with --chosen and --rejected"),
        ({"reward": "volume_atom"}, "unknown reward 'volume_atom'; did you mean 'volume_per_atom'"),
        ({"reward_kwargs": "16"}, "reward_kwargs '16' is no JSON object"),
        ({"chosen": "a.csv"}, "chosen was given with method ppo"),
        ({"chosen": "a.csv", "method": "dpo"}, "chosen was given alone"),
        ({"batchsize": 1}, "batchsize is 1; give at least 2"),
        ({"epochs": 0}, "epochs is 0; give at least 1"),
        ({"lr": 0.0}, "lr is 0.0; give a number above 0"),
        ({"beta": -1.0}, "beta is -1.0; give at least 0"),
        ({"beta": 0.0, "target_kl": 1.0}, "beta is 0"),
        ({"method": "dpo", "target_kl": 1.0}, "target_kl was given with method dpo"),
        ({"label_smoothing": 0.5}, "label_smoothing is 0.5"),
        ({"floor": float("nan")}, "floor is nan"),
        ({"composition": "BaUO3"}, "trained without U"),
        ({"conditions": "gap=1"}, "not trained on the property 'gap'"),
        ({"data": "missing.csv"}, "missing.csv"),
        ({"run": "no-such-run"}, "no-such-run"),
        ({"resume": "newest", "dir": Path("/nonexistent")}, "/nonexistent"),
        ({"spacegroup": "231"}, "231"),
    ],
)
def test_wrong_input_is_answered_in_a_sentence(
    source: runs.Run, capsys: pytest.CaptureFixture[str], changes: dict, sentence: str
) -> None:
    with pytest.raises(SystemExit) as exit_:
        tune(script(source, **changes))
    assert exit_.value.code == 2
    told = capsys.readouterr().err
    assert sentence in told
    assert told.count("\n") == 1


def test_resuming_what_was_not_tuned(source: runs.Run, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        tune(Settings(dir=source.path.parent, resume=source.id))
    assert "is no tuned run" in capsys.readouterr().err
