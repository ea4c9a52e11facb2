"""Formulas to vectors, to their spread, and to properties, in the manner of scikit-learn."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from megen_gym import runs
from megen_gym.agents.nn.epochs import part
from megen_gym.agents.nn.finding import Kind
from megen_gym.agents.polysrl.compositions import Compositions
from megen_gym.agents.polysrl.elements import check_elements
from megen_gym.agents.polysrl.folds import Scaler
from megen_gym.agents.polysrl.network import CompositionNetwork, Shape
from megen_gym.agents.polysrl.published import CHECKPOINTS, read_checkpoint
from megen_gym.agents.polysrl.regression import Fit, Property, PropertyModel
from megen_gym.agents.polysrl.spread import Spread
from megen_gym.agents.polysrl.training import embed, embed_means
from megen_gym.errors import InputError, nearest
from megen_gym.structure import FloatArray, IntArray

KIND = Kind("polysrl", "training of PolySRL", "agents/polysrl/train.py")

BUNDLE = Path(__file__).parent / "bundle"
"""Weights that come with the library: trained on the bundled synthetic polymorphs."""

SPREAD, ENCODER = "spread.safetensors", "encoder.safetensors"

Formulas = Sequence[str] | Compositions


class CompositionEncoder:
    """Compositions as vectors with an uncertainty; properties of them, once fitted.

    Reduced and multiplied formulas are the same: BaTiO3 and Ba2Ti2O6 give one and the same result.

    Args:
        network: Trained; by default the bundled one.
        spread: Of the structures of a composition; by default the bundled one, if `network` is too.
        **options: Of :class:`.regression.Fit`, for :meth:`fit`.

    Raises:
        InputError: for an unknown option.

    >>> encoder = CompositionEncoder()
    >>> mean, std = encoder.transform(["BaTiO3", "Ba2Ti2O6", "GaAs"], return_std=True)
    >>> mean.shape == std.shape == (3, encoder.hidden), bool(np.array_equal(mean[0], mean[1]))
    (True, True)
    """

    def __init__(self, network: CompositionNetwork | None = None, spread: Spread | None = None, **options: Any) -> None:
        self._given = network is not None
        if network is None:
            network, bundled = _bundled()
            spread = spread or bundled
        self.network = network.eval().requires_grad_(False)
        self.structures = spread
        try:
            self.options = Fit(**options)
        except TypeError:
            known = list(Fit.__dataclass_fields__)
            wrong = next((name for name in options if name not in known), None)
            if wrong is None:
                raise InputError(f"the options {options} have a value of the wrong kind; see Fit") from None
            raise InputError(f"there is no option {wrong!r}; {nearest(wrong, known)}") from None
        self.model: PropertyModel | None = None

    @classmethod
    def load(cls, where: str | Path | None = None, dir: str | Path = "runs") -> CompositionEncoder:
        """The bundled encoder, that of a run of train.py (folder, id or "newest"), a file of :meth:`save`, or a
        checkpoint of the published code (``.pt``).

        Raises:
            InputError: where there is none.
        """
        if where is None or str(where) == "bundle":
            return cls()
        path = Path(where)
        if path.suffix in (*CHECKPOINTS, ".safetensors") and not path.exists():
            raise InputError(f"the file {path} does not exist; give a saved encoder, or a run")
        if path.suffix in CHECKPOINTS and path.is_file():
            return cls(read_checkpoint(path))
        if path.is_file():
            return _read(path)
        run = KIND.find(where, dir)
        tensors, meta = run.load_state()
        if not tensors or "shape" not in meta:
            raise InputError(f"run {run.id} has no network yet; train it with agents/polysrl/train.py")
        judged = math.isfinite(meta["best"]) and (run.path / runs.WEIGHTS).exists()
        tensors = run.load_weights() if judged else part(tensors, "average.")
        network = CompositionNetwork(Shape(**meta["shape"]))
        network.load_state_dict(part(tensors, "composition."))
        fitted = run.path / SPREAD
        return cls(network, Spread.load(fitted) if fitted.exists() else None)

    @property
    def hidden(self) -> int:
        """H, the length of a vector."""
        return self.network.shape.hidden_dim

    def transform(self, formulas: Formulas, return_std: bool = False) -> FloatArray | tuple[FloatArray, FloatArray]:
        """(B, H) vectors of length one; with `return_std` also (B, H) standard deviations along each axis.

        Raises:
            InputError: for a formula that cannot be read, or an element without features.
        """
        compositions = self.compositions(formulas)
        first, index = _different(compositions, self.network)
        if not return_std:
            return embed_means(self.network, compositions[first])[index]
        mean, log_std = embed(self.network, compositions[first])
        return mean[index], np.exp(log_std)[index]

    def spread(self, formulas: Formulas) -> FloatArray:
        """(B,) how far the structures of each composition lie from one another, see :class:`.spread.Spread`.

        In units of the spread of all structures of all compositions; large where many polymorphs are expected.

        Raises:
            InputError: as :meth:`transform`, and for an encoder that was trained without it.
        """
        if self.structures is None:
            raise InputError("this encoder was trained without the spread and knows none; train one with --spread true")
        compositions = self.compositions(formulas)
        first, index = compositions.unique()
        return self.structures.std(compositions[first])[index]

    def fit(self, formulas: Formulas, target: Sequence[float] | FloatArray) -> CompositionEncoder:
        """Learn a property of compositions, with the network or, by the option ``freeze``, with a head behind it.

        Unfrozen, a network of the option ``shape`` starts anew, unless `network` was given.

        Args:
            formulas: B of them.
            target: (B,) in any unit.

        Raises:
            InputError: as :meth:`transform`, and for targets that cannot be used.
        """
        compositions = self.compositions(formulas)
        try:
            values = np.asarray(target, dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise InputError(f"targets are no numbers ({error}); give one number for each formula") from None
        if values.shape != (len(compositions),):
            raise InputError(f"{len(compositions)} formulas have targets of shape {values.shape}; give one each")
        start = self.network if self.options.freeze or self._given else None
        self.model = PropertyModel.fit(compositions, values, self.options, start)
        return self

    def predict(self, formulas: Formulas, return_std: bool = False) -> FloatArray | tuple[FloatArray, FloatArray]:
        """(B,) the property; with `return_std` also (B,) its standard deviation, both in the unit of the target.

        Raises:
            InputError: as :meth:`transform`, and before :meth:`fit`.
        """
        if self.model is None:
            raise InputError("this encoder has learned no property yet; call fit(formulas, target) first")
        compositions = self.compositions(formulas)
        first, index = _different(compositions, self.model.members[0].network)
        value, std = self.model.predict(compositions[first])
        return (value[index], std[index]) if return_std else value[index]

    def compositions(self, formulas: Formulas) -> Compositions:
        """Of formulas, checked.

        Raises:
            InputError: as :meth:`transform`.
        """
        found = formulas if isinstance(formulas, Compositions) else Compositions.parse(formulas)
        if not len(found):
            raise InputError("no compositions were given; give at least one")
        tables = {self.network.shape.element_features}
        if self.model is not None:
            tables.add(self.model.members[0].network.shape.element_features)
        for name in sorted(tables):
            check_elements(found.numbers, name)
        return found

    def save(self, path: str | Path) -> None:
        """Network, spread and fitted property in one safetensors file, for :meth:`load`."""
        from safetensors.torch import save

        meta: dict[str, Any] = {"shape": asdict(self.network.shape)}
        tensors = {f"network.{name}": value for name, value in self.network.state_dict().items()}
        if self.structures is not None:
            tensors |= {f"spread.{name}": value for name, value in self.structures.describe().items()}
        if self.model is not None:
            members = self.model.members
            meta["property"] = {
                "shape": asdict(members[0].network.shape), "freeze": members[0].freeze, "members": len(members),
                "scaler": asdict(self.model.scaler), "factor": self.model.factor,
            }  # fmt: skip
            for number, member in enumerate(members):
                tensors |= {f"member.{number}.{name}": value for name, value in member.state_dict().items()}
        packed = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
        runs.write_bytes(path, save(packed, {"encoder": json.dumps(meta)}))


def _different(compositions: Compositions, network: CompositionNetwork) -> tuple[IntArray, IntArray]:
    """Rows that a network can tell apart, and the index of each row among them: by shares, or, as in published
    checkpoints, by amounts."""
    if network.shape.weighting == "fractions":
        return compositions.unique()
    every = np.arange(len(compositions))
    return every, every


def _read(path: Path) -> CompositionEncoder:
    """What :meth:`CompositionEncoder.save` wrote."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            tensors: dict[str, Tensor] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            meta: Mapping[str, Any] = json.loads(file.metadata()["encoder"])
        meta["shape"]["weighting"]
    except (SafetensorError, KeyError, TypeError, ValueError):
        raise InputError(f"{path} is no saved encoder; give a file of CompositionEncoder.save, or a run") from None
    network = CompositionNetwork(Shape(**meta["shape"]))
    network.load_state_dict(part(tensors, "network."))
    fitted = part(tensors, "spread.")
    spread = Spread.restore(fitted) if fitted else None
    encoder = CompositionEncoder(network, spread)
    if "property" in meta:
        kept = meta["property"]
        members = []
        for number in range(kept["members"]):
            member = Property(CompositionNetwork(Shape(**kept["shape"])), 0.0, kept["freeze"])
            member.load_state_dict(part(tensors, f"member.{number}."))
            members.append(member.eval().requires_grad_(False))
        encoder.model = PropertyModel(members, Scaler(**kept["scaler"]), kept["factor"])
    return encoder


def _bundled() -> tuple[CompositionNetwork, Spread | None]:
    found = _read(BUNDLE / ENCODER)
    return found.network, found.structures
