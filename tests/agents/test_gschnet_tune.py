"""Tuning of G-SchNet: likelihoods of what was grown, a reward that rises, resuming, wrong input."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from script_checks import same_runs

from megen_gym import cli, runs
from megen_gym.agents.gschnet.model import Model, load_model
from megen_gym.agents.gschnet.network import GSchNet, Shape
from megen_gym.agents.gschnet.preparing import Connectivity
from megen_gym.agents.gschnet.sampling import Drawing, Grower
from megen_gym.agents.gschnet.settings import Settings as Training
from megen_gym.agents.gschnet.train import train
from megen_gym.agents.gschnet.tune import judge_of, tune
from megen_gym.agents.gschnet.tune_settings import Settings
from megen_gym.agents.gschnet.tuning import Tuner, grow, log_probs
from megen_gym.structure import FloatArray

SMALL = {"batch_size": 6, "minibatch": 3, "max_n_atoms": 6, "grid_spacing": 0.3, "temperature_term": 1.0, "steps": 1}


def model_of(std: float = 0.3) -> Model:
    torch.manual_seed(0)
    network = GSchNet(Shape((1, 6, 8), features=8, n_interactions=2, head_hidden=16)).eval()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=std)
    return Model(network, Connectivity(), 6, 0.7)


def carbon(structures: Sequence[Atoms]) -> FloatArray:
    """Share of carbon."""
    return np.array([(atoms.numbers == 6).mean() for atoms in structures])


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    sizes = {"features": 8, "n_interactions": 2, "head_hidden": 16}
    return train(Training(max_epochs=1, dir=folder, progress=False, num_train=20, num_val=5, **sizes)).path  # type: ignore[arg-type]


def test_likelihoods_are_those_of_growing() -> None:
    model = model_of()
    grower = Grower(model.network, Drawing(0.3, 0.7, 1.0), np.random.default_rng(0))
    growth = grower.begin(8, 6)
    told: list[tuple[int, int, float, int]] = []
    copy = Grower(model.network, Drawing(0.3, 0.7, 1.0), np.random.default_rng(0))
    grown = grow(copy, 8, 6)
    while growth.unfinished.any():
        rows = np.flatnonzero(growth.unfinished)
        choices, before = np.maximum(growth.open[rows].sum(1), 1), growth.count[rows]
        done = grower.decide(growth, rows)
        kept = ~growth.failed[rows]
        values = done.log_prob + np.log(choices)
        told += list(zip(rows[kept], before[kept], values[kept], done.kind[kept], strict=True))
    told.sort(key=lambda one: one[0])
    assert [one[0] for one in told] == grown.molecule.tolist()
    mine = log_probs(model.network, grower, grown, np.arange(8)).detach().numpy()
    expected = np.array([value for _, _, value, _ in told])
    np.testing.assert_allclose(mine, expected, atol=2e-3)
    some = np.array([1, 4])
    part = log_probs(model.network, grower, grown, some).detach().numpy()
    np.testing.assert_allclose(part, mine[np.isin(grown.molecule, some)], atol=1e-4)


def test_the_reward_rises() -> None:
    settings = Settings(**(SMALL | {"batch_size": 48, "minibatch": 16, "steps": 2}), lr=1e-2, beta=0.0, floor=0.0)  # type: ignore[arg-type]
    tuner = Tuner(model_of(), carbon, settings)
    rows = [tuner.run_epoch()[0] for _ in range(12)]
    shares = [row["reward"] for row in rows]
    assert np.mean(shares[-3:]) > np.mean(shares[:3]) + 0.15
    assert rows[0]["kl"] == pytest.approx(0.0, abs=1e-3)


def test_tuning_leaves_a_run_that_goes_on_as_if_it_had_not_stopped(trained: Path) -> None:
    def settings(**more: object) -> Settings:
        return Settings(reward="contacts", run=str(trained), dir=trained.parent, progress=False, **(SMALL | more))  # type: ignore[arg-type]

    whole = tune(settings(epochs=3))
    part = tune(settings(epochs=1))
    again = tune(settings(epochs=3, resume=part.id), given={"epochs", "resume"})
    assert again.path == part.path
    same_runs(whole, again)
    assert (whole.path / "tuning.png").is_file()
    assert (whole.path / "split.npz").read_bytes() == (trained / "split.npz").read_bytes()
    model, run = load_model("newest", trained.parent)
    assert run.id == runs.newest(trained.parent).id
    assert model.network.shape.features == 8


def test_energies_are_rewarded_per_atom() -> None:
    judge = judge_of(Settings(reward="emt"))
    both = judge_of(Settings(reward="emt", per_atom=False))
    pair = [Atoms("CO", [(0, 0, 0), (0, 0, 1.2)])]
    np.testing.assert_allclose(2 * judge(pair), both(pair))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--reward", "gfn3"], "unknown reward 'gfn3'"),
        (["--lr", "0"], "lr is 0"),
        (["--batch_size", "0"], "batch_size is 0"),
        (["--reward", "contacts", "--condition", "gap=3"], "knows no condition 'gap'"),
        (["--reward", "contacts", "--run", "nowhere"], "no run 'nowhere'"),
    ],
)
def test_wrong_input(words: list[str], message: str, trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path.name for path in trained.parent.iterdir()}
    with pytest.raises(SystemExit) as stop:
        tune(cli.run(Settings, ["--dir", str(trained.parent), *words]))
    assert stop.value.code == 2
    assert message in capsys.readouterr().err
    assert {path.name for path in trained.parent.iterdir()} == before
