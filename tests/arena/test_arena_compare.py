"""The command: tables, resuming, failures, refusals."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from megen_gym.arena.cell import Cell, Outcome
from megen_gym.arena.compare import compare
from megen_gym.arena.found import Finds, load_finds
from megen_gym.arena.measure import best_and_low, row_of
from megen_gym.errors import InputError
from megen_gym.io import energy_of, read_structures

ROOT = Path(__file__).resolve().parents[2]
OWN = """
import os
import numpy as np

class Still:
    def __init__(self, env, seed=0):
        self.seed, self.asked = seed, 0

    def predict(self, observation, state=None, episode_start=None, deterministic=False):
        self.asked += 1
        if self.asked > 9 and self.seed == 1:
            raise RuntimeError("no more")
        if self.asked > 9 and self.seed == 2:
            os._exit(3)
        return np.zeros((len(observation["species"]), 6)), state
"""
ARGUMENTS = {"env": "LJCluster-v0", "n": "6", "policies": "random,compact,own:Still", "budget": 120, "seeds": "0,1,2"}


def rows(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def without_cpu(path: Path) -> list[dict[str, str]]:
    return [{key: value for key, value in row.items() if not key.startswith("cpu")} for row in rows(path)]


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("own")
    (folder / "own.py").write_text(OWN)
    return folder


@pytest.fixture(scope="module")
def compared(own: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    sys.path.insert(0, str(own))
    try:
        return compare(**ARGUMENTS, output=tmp_path_factory.mktemp("arena") / "out", progress=False)
    finally:
        sys.path.remove(str(own))


def test_the_folder_has_everything(compared: Path) -> None:
    names = {path.name for path in compared.iterdir()}
    assert names == {
        "cells", "comparison.json", "comparison.png", "report.html", "seeds.csv", "structures.extxyz", "table.csv",
        "table.md",
    }  # fmt: skip
    lowest = read_structures(compared / "structures.extxyz")
    assert {atoms.info["policy"] for atoms in lowest} >= {"random", "compact"}
    assert min(energy_of(atoms) for atoms in lowest) == pytest.approx(-12.712062, abs=1e-4)
    assert "3Dmol" in (compared / "report.html").read_text()
    assert "first hit" in (compared / "table.md").read_text()


def test_a_policy_that_fails_loses_its_own_rows_only(compared: Path) -> None:
    seeds = rows(compared / "seeds.csv")
    errors = {(row["policy"], row["seed"]): row["error"] for row in seeds if row["error"]}
    assert errors == {
        ("own:Still", "1"): "RuntimeError: no more",
        ("own:Still", "2"): "the process died (exit code 3)",
    }
    assert len(seeds) == 9
    table = {row["policy"]: row for row in rows(compared / "table.csv")}
    assert table["own:Still"]["failed"] == "2"
    assert float(table["random"]["valid"]) > 0.9
    assert float(table["random"]["evaluations"]) <= 120
    assert float(table["compact"]["hits"]) >= 1
    assert float(table["compact"]["best"]) == pytest.approx(-12.712062, abs=1e-4)


def test_the_same_command_again_plays_nothing(compared: Path, own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(own))
    before = {name: (compared / name).read_bytes() for name in ("table.csv", "table.md", "seeds.csv")}
    monkeypatch.setattr("megen_gym.arena.compare.play_cells", lambda *_: pytest.fail("a cell was played again"))
    compare(**ARGUMENTS, output=compared, progress=False)
    assert before == {name: (compared / name).read_bytes() for name in before}


def test_a_killed_comparison_goes_on_to_the_same_table(compared: Path, own: Path, tmp_path: Path) -> None:
    words = [f"--{key}={value}" for key, value in ARGUMENTS.items()]
    command = [sys.executable, "-m", "megen_gym", "compare", *words, "--output", str(tmp_path), "--progress", "false"]
    environment = os.environ | {"PYTHONPATH": str(own)}
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, start_new_session=True)
    deadline = time.monotonic() + 120
    while not any(tmp_path.glob("cells/*/cell.json")) and time.monotonic() < deadline:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    done = len(list(tmp_path.glob("cells/*/cell.json")))
    assert 1 <= done < 9
    told = subprocess.check_output([*command, "--jobs", "2"], cwd=ROOT, env=environment, text=True)
    assert f"{done} of 9 cells are done already" in told
    for name in ("table.csv", "seeds.csv"):
        assert without_cpu(tmp_path / name) == without_cpu(compared / name)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"policies": "random,gred"}, "did you mean 'greedy'"),
        ({"policies": "random,minima_hopping", "env": "GaCluster-v0"}, "cannot play GaCluster-v0 n=6"),
        ({"policies": "random,random"}, "different ones"),
        ({"policies": "a=random,a=compact"}, "one label twice"),
        ({"policies": "a=b=random"}, "unknown policy 'b=random'"),
        ({"policies": ""}, "separated by commas"),
        ({"env": "Nope-v0"}, "Nope"),
        ({"env": "CartPole-v1", "n": None}, "CartPole-v1"),
        ({"env": "CrystalSlots-v0"}, "no such argument"),
        ({"n": "6.5"}, "whole numbers"),
        ({"seeds": "a"}, "whole numbers"),
        ({"seeds": "0,00"}, "twice"),
        ({"n": "5,6", "known_minimum": -9.1}, "one by one"),
        ({"policies": "own_broken:Thing"}, "cannot be imported"),
        ({"policies": "covariant@newest", "dir": Path("nowhere")}, "no agent trained by PPO"),
        ({"budget": 0}, "^budget is 0"),
        ({"jobs": 0}, "^jobs is 0"),
        ({"n": "9" * 20}, "up to 999999999"),
        ({"n": "6", "env_kwargs": {"n": 7}}, "give one of them"),
        ({"window": 0.0}, "window"),
        ({"rewards": "drat"}, "did you mean 'dart'"),
        ({"policy_kwargs": {"greedy": {"k": 3}}}, "not among the policies"),
        ({"reference": Path("nowhere.xyz")}, "nowhere.xyz"),
    ],
)
def test_wrong_input_is_refused_before_anything_is_written(changed: dict, words: str, tmp_path: Path) -> None:
    arguments = {**ARGUMENTS, "policies": "random", **changed}
    with pytest.raises(InputError, match=words):
        compare(**arguments, output=tmp_path / "out", progress=False)
    assert not (tmp_path / "out").exists()


def test_another_folder_is_left_alone(compared: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    folder = shutil.copytree(compared, tmp_path / "copy")
    table = (folder / "table.md").read_text()
    with pytest.raises(InputError, match="no comparison"):
        compare("LJCluster-v0", "6", "random", budget=60, output=tmp_path, progress=False)
    for changed in ({"n": "7"}, {"budget": 61}):
        with pytest.raises(InputError, match="other environments or another budget"):
            compare(**({**ARGUMENTS, "policies": "random"} | changed), output=folder, progress=False)
    assert (folder / "table.md").read_text() == table
    assert [path.name for path in tmp_path.glob("*.*")] == ["notes.txt"]


def test_a_comparison_in_which_all_failed_ends_so(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"every policy failed.*gallium only"):
        compare("LJCluster-v0", "6", "random", budget=60, rewards="dart", output=tmp_path / "out", progress=False)
    assert "gallium only" in (tmp_path / "out" / "table.md").read_text()


def test_one_policy_competes_with_several_options(tmp_path: Path) -> None:
    folder = compare(
        "LJCluster-v0", "6", "compact,loose=compact", budget=60, seeds="0", output=tmp_path / "out",
        policy_kwargs={"loose": {"temperature": 5.0}}, progress=False,
    )  # fmt: skip
    table = (folder / "table.md").read_text()
    assert "loose=compact" in table
    first, second = (load_finds(next(folder.glob(f"cells/*{name}-s0*"))) for name in ("-v0-compact", "loose=compact"))
    assert first.value.tolist() != second.value.tolist()


def test_damaged_cells_are_named(compared: Path, own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(own))
    for name, change in (("cell.json", "{"), ("found.npz", ""), ("found.npz", None)):
        folder = shutil.copytree(compared, tmp_path / f"{name}{change}")
        path = next(folder.glob(f"cells/*random-s0*/{name}"))
        path.unlink() if change is None else path.write_text(change)
        with pytest.raises(InputError, match=r"damaged|gone"):
            compare(**ARGUMENTS, output=folder, progress=False)


def test_a_trained_agent_competes(tmp_path: Path) -> None:
    from megen_gym.agents.ppo.settings import Settings
    from megen_gym.agents.ppo_train import train

    small = {"num_envs": 4, "num_steps": 40, "num_steps_per_iter": 20, "mini_batch_size": 20, "num_eval_episodes": 2}
    small |= {"num_channels_hidden": 4, "network_width": 8, "num_interactions": 1, "maxl": 2}
    train(Settings(env="LJCluster-v0", n=5, dir=tmp_path, progress=False, **small))
    folder = compare(
        "LJCluster-v0", "6", "covariant@newest,regrow@newest", 60, "0", tmp_path / "out", dir=tmp_path, progress=False
    )
    table = rows(folder / "table.csv")
    assert [row["failed"] for row in table] == ["0", "0"]
    cells = json.loads((folder / "comparison.json").read_text())["cells"]
    assert all(cell["weights"] and Path(cell["run"]).is_dir() for cell in cells)


def test_several_tasks_rewards_and_a_reference(compared: Path, tmp_path: Path) -> None:
    folder = compare(
        "LJCluster-v0", "5,6", "compact", 100, "0", tmp_path / "out", rewards="lennard_jones,contacts",
        reference=compared / "structures.extxyz", progress=False,
    )  # fmt: skip
    table = {row["task"]: row for row in rows(folder / "table.csv")}
    assert len(table) == 4
    assert float(table["LJCluster-v0 n=6 reward=lennard_jones"]["novel"]) == 0.0
    assert float(table["LJCluster-v0 n=5 reward=lennard_jones"]["novel"]) == 1.0
    assert float(table["LJCluster-v0 n=5 reward=contacts"]["best"]) <= 0, "a penalty"


def finds() -> Finds:
    """Five pairs: a low one twice, a higher one, an invalid one and one without a value."""
    positions = np.zeros((5, 2, 3))
    positions[:, 1, 0] = [2.65, 2.65, 2.9, 1.0, 2.65]
    value = np.array([-1.0, -1.0, -0.95, -5.0, np.nan])
    valid = np.array([True, True, True, False, True])
    return Finds(
        np.arange(1, 6), value, valid, np.ones(5, dtype=bool), np.ones((5, 2), dtype=np.int16), positions,
        np.zeros((0, 3, 3)),
    )  # fmt: skip


def test_the_numbers_of_a_row() -> None:
    outcome = Outcome(Cell("LJCluster-v0", {"n": 2}, "random", 0, 10), 5, 3, -1.0, 0.5, True, True, ("X", "Ar"))
    best, low = best_and_low([outcome], [finds()], None, False)
    assert (best, low) == (-1.0, pytest.approx(-0.9))
    row = row_of(outcome, finds(), low)
    assert (row.structures, row.valid, row.best, row.minima, row.hit) == (5, 0.8, -1.0, 2, 3.0)
    assert row.unique == pytest.approx(2 / 4)
    assert row_of(outcome, finds(), -0.99).minima == 1
    assert row_of(Outcome(outcome.cell, error="died"), finds(), low).error == "died"


def test_cells_are_told_apart() -> None:
    cell = Cell("LJCluster-v0", {"n": 2}, "random", 0, 10)
    other = Cell("LJCluster-v0", {"n": 3}, "random", 0, 10)
    trained = Cell(**{**vars(cell), "weights": "a"})
    assert len({cell.key, other.key, trained.key}) == 3
    assert json.loads(json.dumps(vars(cell))) == vars(cell)
