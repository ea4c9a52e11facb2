"""Checkpoints of the published code, whose composition encoders count atoms instead of sharing them."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path
from pickle import UnpicklingError

import torch
from torch import Tensor

from megen_gym.agents.polysrl.network import CompositionNetwork, Shape
from megen_gym.errors import InputError

CHECKPOINTS = (".pt", ".pth", ".ckpt")

_HEADS = {
    "mean_set2set.lstm": "mean_set.lstm", "mean_lin": "mean_out", "var_set2set.lstm": "std_set.lstm",
    "var_lin": "std_out", "gnn.lin": "join",
}  # fmt: skip

_UNUSED = re.compile(r"gnn\.bns\.|gnn\.lin_ih\.|predictor|head|negative_scale|shift")
"""Parts that no embedding goes through."""


def read_checkpoint(path: str | Path) -> CompositionNetwork:
    """The composition network of a published checkpoint: GCN layers of 200 features on matscholar's embeddings.

    Both layouts are read, that of torch-geometric 1.7 (``convs.0.weight``) and that of later versions
    (``convs.0.lin.weight``), which by itself silently keeps random weights for the former. The baselines have no
    variance head; theirs stays as it begins.

    Args:
        path: A dictionary of tensors; nothing in it is run.

    Raises:
        InputError: for a file that is none, or one of another architecture.
    """
    path = Path(path)
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (UnpicklingError, RuntimeError, EOFError, KeyError, IndexError, zipfile.BadZipFile, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:120]
        raise InputError(f"{path} is no dictionary of tensors ({reason}); give a published checkpoint") from None
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise InputError(f"{path} holds more than tensors by name; give a published checkpoint")
    found: dict[str, Tensor] = {}
    strange = []
    for name, value in state.items():
        layer = re.fullmatch(r"gnn\.convs\.(\d+)\.(bias|weight|lin\.weight)", name)
        head = next((old for old in _HEADS if name.startswith(f"{old}.")), None)
        if layer is not None:
            number, kind = layer.groups()
            if kind == "bias":
                found[f"layers.{number}.bias"] = value
            else:
                found[f"layers.{number}.linear.weight"] = value.T.contiguous() if kind == "weight" else value
        elif head is not None:
            found[_HEADS[head] + name.removeprefix(head).removesuffix("_l0")] = value
        elif not _UNUSED.match(name):
            strange.append(name)
    if strange or "join.weight" not in found or "mean_out.weight" not in found:
        raise InputError(
            f"{path} is no published composition encoder with GCN layers "
            f"({strange[0] + ' is not known' if strange else 'parts are missing'}); give one of those"
        )
    size = len(found["join.bias"])
    layers = sum(name.endswith("linear.weight") for name in found)
    network = CompositionNetwork(Shape("matscholar", "GCN", layers, size, "counts"))
    found["table"] = network.table
    missing = set(network.state_dict()) - set(found)
    if any(not name.startswith("std_") for name in missing):
        raise InputError(f"{path} lacks {sorted(missing)[0]}; give a whole checkpoint")
    try:
        network.load_state_dict(network.state_dict() | found)
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise InputError(f"{path} does not fit ({reason}); give a published checkpoint") from None
    return network.eval()
