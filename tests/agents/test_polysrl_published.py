from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from torch import Tensor

from megen_gym.agents.polysrl import CompositionEncoder
from megen_gym.agents.polysrl.network import CompositionNetwork, Shape
from megen_gym.agents.polysrl.published import read_checkpoint
from megen_gym.errors import InputError

FORMULAS = ["ZrSe3", "Zr2Se6", "CaTiO3", "GaAs"]


def network() -> CompositionNetwork:
    torch.manual_seed(0)
    return CompositionNetwork(Shape("matscholar", "GCN", 3, 200, "counts")).eval()


def published_state(mine: CompositionNetwork, layout: str) -> dict[str, Tensor]:
    """The same weights under the names of the published code, with the parts that it has but does not use."""
    state = {
        "negative_scale": torch.ones(1),
        "gnn.lin_ih.weight": torch.ones(200, 200),
        "predictor.bias": torch.ones(1),
    }
    for number, layer in enumerate(mine.layers):
        weight = layer.linear.weight.detach().clone()
        name, value = ("weight", weight.T.contiguous()) if layout == "1.7" else ("lin.weight", weight)
        state[f"gnn.convs.{number}.{name}"], state[f"gnn.convs.{number}.bias"] = value, layer.bias.detach().clone()
        state[f"gnn.bns.{number}.running_mean"] = torch.zeros(200)
    for theirs, module in (
        ("gnn.lin", mine.join), ("mean_lin", mine.mean_out), ("var_lin", mine.std_out),
    ):  # fmt: skip
        state |= {f"{theirs}.{name}": value.clone() for name, value in module.state_dict().items()}
    for theirs, lstm in (("mean_set2set", mine.mean_set.lstm), ("var_set2set", mine.std_set.lstm)):
        state |= {f"{theirs}.lstm.{name}_l0": value.clone() for name, value in lstm.state_dict().items()}
    return state


@pytest.mark.parametrize("layout", ["1.7", "2"])
def test_a_published_checkpoint_gives_the_same_embeddings_in_both_layouts(layout: str, tmp_path: Path) -> None:
    mine = network()
    torch.save(published_state(mine, layout), tmp_path / "PolySRL.pt")
    there = CompositionEncoder.load(tmp_path / "PolySRL.pt").transform(FORMULAS, return_std=True)
    here = CompositionEncoder(mine).transform(FORMULAS, return_std=True)
    for a, b in zip(there, here, strict=True):
        assert (a == b).all()
    assert abs(here[1][0] - here[1][1]).max() > 1e-3, "counts, as published, tell ZrSe3 from Zr2Se6"


def test_a_baseline_without_a_variance_head_is_read(tmp_path: Path) -> None:
    mine = network()
    state = {name: value for name, value in published_state(mine, "1.7").items() if not name.startswith("var_")}
    torch.save(state, tmp_path / "MPFormE.pt")
    there = CompositionEncoder.load(tmp_path / "MPFormE.pt").transform(FORMULAS)
    assert (there == CompositionEncoder(mine).transform(FORMULAS)).all()


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return exec, ("raise SystemExit('was run')",)


def test_files_that_are_no_checkpoint_are_refused_and_nothing_in_them_is_run(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    path.write_bytes(pickle.dumps({"gnn.lin.weight": Evil()}))
    with pytest.raises(InputError, match="no dictionary of tensors"):
        read_checkpoint(path)
    path.write_bytes(b"")
    with pytest.raises(InputError, match="no dictionary of tensors"):
        read_checkpoint(path)
    torch.save({"epoch": 3}, path)
    with pytest.raises(InputError, match="more than tensors"):
        read_checkpoint(path)
    torch.save({"weight": torch.ones(3)}, path)
    with pytest.raises(InputError, match="weight is not known"):
        read_checkpoint(path)
    state = published_state(network(), "2")
    del state["mean_lin.bias"]
    torch.save(state, path)
    with pytest.raises(InputError, match=r"lacks mean_out\.bias"):
        read_checkpoint(path)
    state["mean_lin.bias"] = torch.ones(7)
    torch.save(state, path)
    with pytest.raises(InputError, match="does not fit"):
        read_checkpoint(path)
