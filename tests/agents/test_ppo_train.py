"""Training as a user runs it: the run folder, SIGKILL and resume, wrong input."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from ase.io import read
from script_checks import killed, same_runs

from megen_gym import runs
from megen_gym.agents.ppo.build import load_policy
from megen_gym.agents.ppo.settings import Settings
from megen_gym.agents.ppo_train import train
from megen_gym.envs.vector import make_vec
from megen_gym.rollout import rollout

ROOT = Path(__file__).resolve().parents[2]
SMALL = {
    "n": 4,
    "num_envs": 4,
    "num_steps_per_iter": 32,
    "mini_batch_size": 16,
    "max_num_train_iters": 2,
    "num_channels_hidden": 4,
    "network_width": 8,
    "num_interactions": 1,
    "maxl": 2,
    "eval_freq": 2,
    "num_eval_episodes": 4,
    "progress": False,
    "log_level": "ERROR",
}
CLOCK = {"seconds", "cpu_seconds"}


def small(folder: Path, **changes: object) -> Settings:
    return Settings(**{**SMALL, "dir": folder, **changes})  # type: ignore[arg-type]


def command(folder: Path, **changes: object) -> list[str]:
    options = {**SMALL, "dir": folder, **changes}
    return [
        sys.executable,
        "agents/ppo_train.py",
        *(f"--{name}={json.dumps(value) if isinstance(value, bool) else value}" for name, value in options.items()),
    ]


def call(folder: Path, **changes: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(folder, **changes), cwd=ROOT, capture_output=True, text=True, timeout=180)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> runs.Run:
    return train(small(tmp_path_factory.mktemp("whole"), num_steps=128, save_rollouts="all"))


def test_the_run_folder_is_complete(whole: runs.Run) -> None:
    names = {path.name for path in whole.path.iterdir()}
    assert names >= {
        "config.json", "metrics.csv", "weights.safetensors", "resume.safetensors", "structures_eval.extxyz",
        "structures_train.extxyz", "structures_compared.extxyz", "learning_curve.png", "table.md", "tensorboard",
    }  # fmt: skip
    metrics = whole.metrics()
    assert metrics["steps"].tolist() == [32, 64, 96, 128]
    assert np.isfinite(metrics["eval/return_mean"]).tolist() == [False, True, False, True]
    assert np.isfinite(metrics["loss/value_loss"]).all()
    table = (whole.path / "table.md").read_text()
    assert all(name in table for name in ("random valid", "greedy", "covariant"))
    built = read(whole.path / "structures_eval.extxyz", ":")
    assert len(built) == 8
    assert all(atoms.info["n_start"] == 0 and len(atoms) <= 4 for atoms in built)
    for atoms in built:
        assert atoms.info["reward"] == pytest.approx(-atoms.get_potential_energy(), rel=1e-5) or not atoms.info["valid"]


def test_training_is_reproducible(whole: runs.Run, tmp_path: Path) -> None:
    same_runs(whole, train(small(tmp_path, num_steps=128, save_rollouts="all")), CLOCK)


def test_resumed_in_two_parts_equals_the_whole(whole: runs.Run, tmp_path: Path) -> None:
    first = train(small(tmp_path, num_steps=64, save_rollouts="all"))
    second = train(Settings(dir=tmp_path, resume=first.id, num_steps=128))
    assert second.id == first.id
    same_runs(whole, second, CLOCK)
    for name in ("structures_train.extxyz", "structures_eval.extxyz"):
        ours, theirs = (len(read(run.path / name, ":")) for run in (whole, second))
        assert ours == theirs, name


def test_sigkill_loses_at_most_one_iteration(whole: runs.Run, tmp_path: Path) -> None:
    run = killed(command(tmp_path, num_steps=100_000, save_rollouts="all"), tmp_path)
    seen = int(run.metrics()["iteration"][-1])
    assert seen >= 2
    saved = int(run.load_state()[1]["iteration"])
    assert saved >= seen - 1
    target = max(4, saved + 1)
    again = train(Settings(dir=tmp_path, resume="newest", num_steps=32 * target))
    np.testing.assert_array_equal(again.metrics()["iteration"], np.arange(1, target + 1))
    for name in set(whole.metrics()) - CLOCK:
        if not name.startswith("eval/"):
            np.testing.assert_array_equal(again.metrics()[name][:4], whole.metrics()[name], err_msg=name)


def test_a_trained_agent_is_a_policy(whole: runs.Run) -> None:
    policy = load_policy(whole)
    env = make_vec("GaCluster-v0", 8, n=4)
    played = rollout(policy, env, 8, seed=5, deterministic=True)
    assert len(played.structures) == 8
    repeated = rollout(policy, env, 8, seed=5, deterministic=True)
    np.testing.assert_array_equal(played.structures.positions, repeated.structures.positions)


def test_the_plain_mlp_trains_too(tmp_path: Path) -> None:
    run = train(small(tmp_path, policy="mlp", num_steps=64))
    assert run.metrics()["steps"][-1] == 64
    assert "mlp" in (run.path / "table.md").read_text()


def test_megens_task_and_time_limit(tmp_path: Path) -> None:
    run = train(small(tmp_path, n=None, start="seeds", grow=1, reward="megen", num_steps=10**6, max_time=1.0))
    assert 0 < run.metrics()["steps"][-1] < 10**6
    assert np.isfinite(run.metrics()["eval/return_mean"][-1]), "stopped by the clock, and still evaluated at the end"
    assert (run.path / "structures_eval.extxyz").exists()
    built = read(run.path / "structures_compared.extxyz", ":")
    assert {len(atoms) - atoms.info["n_start"] for atoms in built} <= {0, 1}


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"n": 0}, "at least 1"),
        ({"formula": "Qq3"}, "unknown element"),
        ({"reward": "drat"}, "did you mean 'dart'"),
        ({"canvas_size": 3}, "the canvas holds 3"),
        ({"start": "nowhere.xyz"}, "does not exist"),
        ({"resume": "no-such-run"}, "no run"),
        ({"num_envs": 64}, "num_steps_per_iter 32 is less than num_envs 64"),
        ({"num_steps": 0}, "num_steps is 0"),
        ({"policy": "covarient"}, "did you mean 'covariant'"),
        ({"env": "GaClusterr-v0"}, "cannot be made"),
        ({"env_kwargs": {"colour": "red"}}, "no such argument"),
        ({"reward": "emt"}, "no energy for a single Ga atom"),
        ({"learning_rate": -1.0}, "learning_rate is -1.0"),
        ({"seed": -1}, "seed is -1"),
        ({"num_refills": -1}, "refills is -1"),
        ({"device": "cuda:99"}, "use --device cpu"),
    ],
)
def test_wrong_input_is_one_sentence(
    changes: dict[str, object], sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        train(small(tmp_path, **{"num_steps": 64, **changes}))
    assert stop.value.code == 2
    said = capsys.readouterr().err.strip()
    assert sentence in said
    assert "\n" not in said
    assert not list(tmp_path.iterdir()), "nothing is written"


def test_an_unknown_policy_on_the_command_line(tmp_path: Path) -> None:
    wrong = call(tmp_path, policy="covarient")
    assert wrong.returncode == 2
    assert wrong.stderr.strip().count("\n") == 0
    assert "did you mean 'covariant'" in wrong.stderr
    assert not list(tmp_path.glob("*/config.json"))


def test_an_empty_file_to_start_from_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty.xyz").touch()
    with pytest.raises(SystemExit) as stop:
        train(small(tmp_path / "runs", start=str(tmp_path / "empty.xyz"), num_steps=64))
    assert stop.value.code == 2
    assert "empty.xyz" in capsys.readouterr().err
    assert not list(tmp_path.glob("runs/*"))


def test_a_single_initial_structure_serves_training_and_evaluation(tmp_path: Path) -> None:
    seed = tmp_path / "seed.xyz"
    seed.write_text("3\n\nGa 0 0 0\nGa 2.6 0 0\nGa 1.3 2.25 0\n")
    run = train(small(tmp_path / "runs", n=5, initial_structure=str(seed), num_steps=32))
    assert {atoms.info["n_start"] for atoms in read(run.path / "structures_compared.extxyz", ":")} == {3}


def test_resuming_refuses_what_cannot_change(whole: runs.Run, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        train(Settings(dir=whole.path.parent, resume=whole.id, beta=-10.0))
    assert "leave --beta out" in capsys.readouterr().err


def test_a_corrupt_checkpoint_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = train(small(tmp_path, num_steps=32))
    (run.path / "resume.safetensors").write_bytes(b"not a checkpoint")
    with pytest.raises(SystemExit):
        train(Settings(dir=tmp_path, resume=run.id, num_steps=64))
    assert "resume.safetensors" in capsys.readouterr().err
    assert run.metrics()["steps"][-1] == 32
