"""Every setting of training, with the published names (CrystalFormer's) where they had one."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from megen_gym.agents.nn.options import check_bounds, condition_names, filled
from megen_gym.agents.nn.resuming import absolute


@dataclass
class Settings:
    """Train a transformer that writes crystals site by site.

    Settings that are null take the value of the preset.
    """

    # --- data
    data: str | None = None
    """CSV with a column of CIFs, extxyz, folder of CIFs, ASE db, ...; a bundled synthetic set by default."""
    symprec: float = 0.01
    """Å, within which atoms count as equivalent."""
    holdout: float = 0.1
    """Share of the crystals that is not trained on but judges the model."""
    duplicates: Literal["group", "drop", "keep"] = "group"
    """Crystals that are there twice: all on one side of the split, or the first one only, or wherever they fall."""
    n_max: int | None = None
    """Sites at most; by default those of the largest crystal."""
    max_sites: int | None = None
    """Leave out crystals with more sites."""
    conditions: str = ""
    """What can be asked of samples, separated by commas: columns of the data, and composition, elements, n_atoms."""
    condition_dropout: float = 0.2
    """Chance that a condition is not shown to the model in training, and that none of them is."""
    cache: bool = True
    """Keep what was read from the data for the next time."""
    # --- network
    order: Literal["first", "last"] = "last"
    """The lattice before the sites (crystal_gpt), or after them (CrystalFormer)."""
    preset: Literal["small", "published"] = "small"
    """About 0.35 million weights, or CrystalFormer's sizes."""
    transformer_layers: int | None = None
    """Blocks (4; published 16)."""
    num_heads: int | None = None
    """Attention heads (4; published 16)."""
    key_size: int | None = None
    """Width of a head (16; published 64)."""
    model_size: int | None = None
    """Width of a token (64; published 64)."""
    h0_size: int | None = None
    """Width of the perceptrons that decide (128; published 256)."""
    Nf: int = 5
    """Waves by which a coordinate is seen."""
    Kx: int = 16
    """Components of the density of a coordinate."""
    Kl: int = 8
    """Components of the density of a lattice parameter (published 4)."""
    coordinate: Literal["von_mises", "wrapped_normal"] = "von_mises"
    """Kind of these components."""
    floor: float = 1e-3
    """Smallest spread: radians, and published units of the lattice."""
    dropout_rate: float = 0.2
    """Dropout in the network (published 0.1)."""
    # --- training
    epochs: int = 200
    """Passes through the data at most."""
    max_time: float | None = None
    """Seconds at most; the learning rate is then scheduled by time."""
    patience: int | None = 30
    """Epochs without a better held-out likelihood after which training ends; null for never."""
    batchsize: int = 100
    """Crystals of a batch."""
    optimizer: Literal["adam", "adamw", "sgd"] = "adamw"
    """Stochastic gradient descent is with momentum 0.9."""
    lr: float = 2e-3
    """Learning rate (published 1e-4)."""
    lr_decay: float = 0.0
    """Divide it by 1 + lr_decay x steps, as published; 0 for a cosine down to a hundredth."""
    weight_decay: float = 0.1
    """Of AdamW."""
    clip_grad: float = 1.0
    """Largest norm of the gradient."""
    ema: float = 0.99
    """Decay per step of the moving average of the weights that is judged and kept; 0 for none."""
    lamb_a: float = 1.0
    """Weight of the elements in the loss."""
    lamb_w: float = 1.0
    """Weight of the letters."""
    lamb_l: float = 1.0
    """Weight of the lattice."""
    load: str | None = None
    """Run (folder or id) whose weights training starts from."""
    resume: str | None = None
    """Id of a run to go on with ("newest" for the last one); nothing but budget and printing can be changed."""
    # --- results
    dir: Path = Path("runs")
    """Folder of the run folders."""
    name: str = "crystal"
    """Appears in the run's id."""
    eval_freq: int = 1
    """Epochs between judgements by the held-out crystals."""
    save_freq: int = 1
    """Epochs between checkpoints."""
    tensorboard: bool = False
    """Write TensorBoard events beside metrics.csv."""
    # --- machine
    seed: int = 0
    """Seed of everything that is random."""
    device: str = "auto"
    """auto (CUDA where there is one), cpu, cuda, mps."""
    threads: int = 1
    """CPU threads of torch."""
    progress: bool = True
    """Show a progress bar."""


_PRESETS: dict[str, dict[str, int]] = {
    "small": {"transformer_layers": 4, "num_heads": 4, "key_size": 16, "model_size": 64, "h0_size": 128},
    "published": {"transformer_layers": 16, "num_heads": 16, "key_size": 64, "model_size": 64, "h0_size": 256},
}

RESUMABLE = ("epochs", "max_time", "patience", "progress", "threads", "device", "dir", "data", "cache", "tensorboard")
"""Settings that may change when a run is resumed."""


def resolved(settings: Settings) -> Settings:
    """The settings with the preset's values for those that are null, and with the whole path of the data.

    Raises:
        InputError: naming a setting that cannot work.
    """
    settings = filled(settings, _PRESETS[settings.preset])
    at_least = {
        1: "transformer_layers num_heads key_size model_size h0_size Nf Kx Kl epochs batchsize eval_freq save_freq "
        "threads n_max max_sites patience",
        0: "lr_decay weight_decay lamb_a lamb_w lamb_l seed",
    }
    fractions = "holdout condition_dropout dropout_rate ema"
    check_bounds(settings, at_least, above_zero="symprec floor lr clip_grad max_time", fractions=fractions)
    condition_names(settings.conditions)
    return replace(settings, data=absolute(settings.data))
