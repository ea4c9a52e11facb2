"""Every setting of property regression."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from megen_gym.agents.crystal_gpt.network import Shape
from megen_gym.agents.nn.options import check_bounds
from megen_gym.agents.nn.resuming import absolute
from megen_gym.errors import InputError


@dataclass
class Settings:
    """Train a transformer that predicts a property of crystals."""

    # --- data
    data: str | None = None
    """CSV with a column of CIFs, extxyz, folder of CIFs, ASE db, ...; a bundled synthetic set by default."""
    property: str | None = None
    """Column of the data that is predicted; the error message without it lists all."""
    symprec: float = 0.01
    """Å, within which atoms count as equivalent."""
    holdout: float = 0.1
    """Share of the crystals that is not trained on but judges the model; with the same seed that of train.py."""
    duplicates: Literal["group", "drop", "keep"] = "group"
    """Crystals that are there twice: all on one side of the split, or the first one only, or wherever they fall."""
    n_max: int | None = None
    """Sites at most; by default those of the largest crystal."""
    max_sites: int | None = None
    """Leave out crystals with more sites."""
    cache: bool = True
    """Keep what was read from the data for the next time."""
    # --- network
    load: str | None = None
    """Run (folder or id) of train.py whose transformer training starts from; by default a new one."""
    freeze: bool = False
    """Leave the loaded transformer as it is and train the perceptron behind it alone."""
    order: Literal["first", "last"] | None = None
    """The lattice only beside the pooled states ("last", by default), or as a token before the sites too."""
    transformer_layers: int | None = None
    """Blocks (4)."""
    num_heads: int | None = None
    """Attention heads (4)."""
    key_size: int | None = None
    """Width of a head (16)."""
    model_size: int | None = None
    """Width of a token (64)."""
    Nf: int | None = None
    """Waves by which a coordinate is seen (5)."""
    hidden: int = 128
    """Width of the perceptron behind the transformer."""
    dropout_rate: float = 0.1
    """Dropout in the perceptron, and in a transformer that is new."""
    # --- training
    loss: Literal["huber", "mse"] = "huber"
    """Squared error, or one that grows linearly beyond a standard deviation of the property."""
    epochs: int = 200
    """Passes through the data at most."""
    max_time: float | None = None
    """Seconds at most; the learning rate is then scheduled by time."""
    patience: int | None = 50
    """Epochs without a smaller held-out error after which training ends; null for never."""
    batchsize: int = 100
    """Crystals of a batch."""
    lr: float = 2e-3
    """Learning rate, with a cosine down to a hundredth."""
    trunk_lr: float = 1.0
    """Learning rate of the transformer over that of the perceptron."""
    weight_decay: float = 0.02
    """Of AdamW."""
    clip_grad: float = 1.0
    """Largest norm of the gradient."""
    ema: float = 0.99
    """Decay per step of the moving average of the weights that is judged and kept; 0 for none."""
    resume: str | None = None
    """Id of a run to go on with ("newest" for the last one); nothing but budget and printing can be changed."""
    # --- results
    dir: Path = Path("runs")
    """Folder of the run folders."""
    name: str = "property"
    """Appears in the run's id."""
    save_freq: int = 1
    """Epochs between checkpoints."""
    # --- machine
    seed: int = 0
    """Seed of everything that is random."""
    device: str = "auto"
    """auto (CUDA where there is one), cpu, cuda, mps."""
    threads: int = 1
    """CPU threads of torch."""
    progress: bool = True
    """Show a progress bar."""


RESUMABLE = ("epochs", "max_time", "patience", "progress", "threads", "device", "dir", "data", "cache")
"""Settings that may change when a run is resumed."""

_TRUNK = {
    "order": "order", "transformer_layers": "layers", "num_heads": "heads", "key_size": "key", "model_size": "width",
    "Nf": "frequencies",
}  # fmt: skip
"""Settings that shape a new transformer, and what :class:`.network.Shape` calls them."""


def checked(settings: Settings) -> Settings:
    """The settings, with the whole path of the data, if they can work.

    Raises:
        InputError: naming one that cannot.
    """
    at_least = {
        1: "transformer_layers num_heads key_size model_size Nf hidden epochs batchsize save_freq threads n_max "
        "max_sites patience",
        0: "weight_decay trunk_lr seed",
    }
    fractions = "holdout dropout_rate ema"
    check_bounds(settings, at_least, above_zero="symprec lr clip_grad max_time", fractions=fractions)
    if settings.freeze and settings.load is None:
        raise InputError("freeze is for a transformer that was trained before; name its run with --load")
    for name in (*_TRUNK, "n_max"):
        if settings.load is not None and getattr(settings, name) is not None:
            raise InputError(f"{name} is given, but the run of --load decides it; leave --{name} out")
    return replace(settings, data=absolute(settings.data))


def shape_of(settings: Settings, n_max: int) -> Shape:
    """The sizes of a new transformer."""
    given: dict[str, Any] = {to: getattr(settings, name) for name, to in _TRUNK.items()}
    given = {name: value for name, value in given.items() if value is not None}
    return replace(Shape(order="last", n_max=n_max, dropout=settings.dropout_rate), **given)
