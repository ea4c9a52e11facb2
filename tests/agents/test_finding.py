"""Runs of one kind among those of others."""

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from megen_gym import runs
from megen_gym.agents.nn.finding import Kind
from megen_gym.agents.nn.resuming import checkpoint_of, reopened
from megen_gym.errors import InputError

MODEL = Kind("net", "net run", "agents/net.py")
TRAINING = Kind("net", "training of net", "agents/net.py", without="tune")


def made(folder: Path, weights: bool = True, state: bool = True, **settings: object) -> runs.Run:
    run = runs.create(folder, settings)
    if state:
        run.save_state({"a": torch.zeros(1)}, {})
    if weights:
        run.save_weights({"a": torch.zeros(1)})
    return run


def test_the_newest_is_one_of_its_kind_with_weights(tmp_path: Path) -> None:
    trained, tuned = made(tmp_path, net={}), made(tmp_path, net={}, tune={})
    made(tmp_path, weights=False, net={})
    made(tmp_path, weights=False, state=False, net={})
    made(tmp_path, other={})
    assert MODEL.find("newest", tmp_path).id == MODEL.newest(tmp_path).id == tuned.id
    assert TRAINING.newest(tmp_path).id == trained.id


def test_where_none_has_weights_the_newest_is_one_that_can_go_on(tmp_path: Path) -> None:
    made(tmp_path, weights=False, net={})
    last = made(tmp_path, weights=False, net={})
    made(tmp_path, weights=False, state=False, net={})
    assert MODEL.newest(tmp_path).id == last.id


def test_a_run_is_found_by_id_and_by_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = made(tmp_path / "runs", net={})
    assert MODEL.find(run.id, tmp_path / "runs").id == MODEL.find(run.path, "elsewhere").id == run.id
    monkeypatch.chdir(tmp_path)
    assert MODEL.find(run.id).id == MODEL.find("newest").id == run.id


def test_a_run_of_another_kind_is_refused(tmp_path: Path) -> None:
    other, tuned = made(tmp_path, other={}), made(tmp_path / "more", net={}, tune={})
    with pytest.raises(InputError, match=rf"run {other.id} is no net run; give one that agents/net\.py made"):
        MODEL.find(other.path)
    with pytest.raises(InputError, match="is no training of net"):
        TRAINING.find(tuned.id, tmp_path / "more")
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(InputError, match=r"holds no net run; train one first: python agents/net\.py"):
            MODEL.newest(folder)


@dataclass
class Wanted:
    dir: Path
    name: str = "first"
    seed: int = 3
    epochs: int = 1
    resume: str | None = None


def test_a_run_is_made_and_opened_again_with_its_settings(tmp_path: Path) -> None:
    new = Wanted(tmp_path)
    assert reopened(MODEL, new, new, None, ()) == (None, new)
    run = MODEL.create(new, "mine", source={"net": 1})
    assert (run.id, run.seed) == ("mine", 3)
    assert run.settings["net"] | {"dir": tmp_path} == vars(new)
    assert run.settings["source"] == {"net": 1}
    more = Wanted(tmp_path, epochs=5, resume="mine")
    again, settings = reopened(MODEL, more, new, None, ("epochs",))
    assert again is not None
    assert (again.id, settings) == ("mine", more)
    for none in (None, again):
        assert checkpoint_of(none) == ({}, {})
    run.save_state({"a": torch.ones(1)}, {"epoch": 2})
    assert checkpoint_of(again)[1] == {"epoch": 2}
