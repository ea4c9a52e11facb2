"""Every setting of CryinGAN training, with the published names where they had one."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from megen_gym.agents.nn.finding import Kind
from megen_gym.agents.nn.options import check_bounds, filled
from megen_gym.errors import InputError

KIND = Kind("cryingan", "CryinGAN run", "agents/cryingan/train.py")


@dataclass
class Settings:
    """Train a generator of crystals that share cell, composition and number of atoms.

    Settings that are null take the value of the preset.
    """

    # --- data
    training_data: str = ""
    """File of structures (extxyz, also gzipped, CIF, ...), or a folder of them."""
    pbc: str | None = None
    """Periodic axes, such as TTF for a slab, where they differ from those in the file."""
    holdout: float = 0.1
    """Share of the structures that is not trained on but judges the generator."""
    # --- networks
    preset: Literal["default", "published"] = "default"
    """The networks and the training of this library, or those of the published CryinGAN, layer for layer."""
    latent_dim: int | None = None
    """Random numbers of a structure (published: 64), or, beside its site, of an atom (default: 8)."""
    gen_channels_1: int | None = None
    """Channels after the first layer of the published generator (128); width of the default generator's atoms (32)."""
    n_neighbors: int = 6
    """Distances of each atom that the distance critic sees; with the default networks, to each element."""
    bn_eps: float = 0.8
    """BatchNorm's eps in the published generator; 1e-5 is the sane value, 0.8 the published one."""
    # --- training
    n_epochs: int = 200
    """Passes through the data."""
    max_time: float | None = None
    """Stop after so many seconds."""
    batch_size: int = 32
    """Structures of a batch."""
    g_lr: float | None = None
    """Learning rate of the generator (2e-4; published 5e-5)."""
    coord_lr: float | None = None
    """Learning rate of the coordinate critic (5e-4; published 5e-5)."""
    dist_lr: float | None = None
    """Learning rate of the distance critic (5e-4; published 5e-5)."""
    b1: float | None = None
    """Adam's beta 1 (0; published 0.5)."""
    b2: float | None = None
    """Adam's beta 2 (0.9; published 0.999)."""
    step_size: int | None = None
    """Epochs after which the learning rates are multiplied by gamma (20; published 100000)."""
    gamma: float | None = None
    """Factor of that decay (0.8; published 0.95)."""
    weight_dist: float = 0.05
    """Weight of the distance critic; 0 trains without it, at the speed of that."""
    gen_int: int | None = None
    """Batches of the critics for one of the generator (2; published 5)."""
    ema: float | None = None
    """Decay of the moving average of the generator's weights that samples are drawn from (0.999; published 0: none)."""
    augment: bool | None = None
    """Turn and shift real structures by the symmetry of their average (yes; published no)."""
    translate: str = ""
    """Axes (such as xy) along which critics see structures randomly shifted, for data without a preferred origin."""
    # --- start
    load_generator: str | None = None
    """Weights to start the generator from: run folder, id, .safetensors, or a published state dict."""
    load_coord_disc: str | None = None
    """The same for the coordinate critic."""
    load_dist_disc: str | None = None
    """The same for the distance critic."""
    resume: str | None = None
    """Id of a run to go on with ("newest" for the last one); nothing but budget and printing can be changed."""
    load_checkpoint: str | None = None
    """The same under the published name."""
    # --- results
    dir: Path = Path("runs")
    """Folder of the run folders."""
    name: str = "cryingan"
    """Appears in the run's id."""
    msave_dir: str = "model_saves"
    """Folder for numbered weights, inside the run folder unless absolute."""
    msave_freq: int = 100
    """Epochs between them."""
    gsave_dir: str = "gen_data"
    """Folder for samples as extxyz, inside the run folder unless absolute."""
    gsave_freq: int = 100
    """Epochs between them."""
    n_save: int = 100
    """Structures in each of those files."""
    eval_freq: int = 5
    """Epochs between judgements of the generator against the held-out structures."""
    n_eval: int = 256
    """Structures of a judgement."""
    save_freq: int = 1
    """Epochs between checkpoints."""
    print_freq: int = 20
    """Batches between updates of the progress line."""
    # --- machine
    seed: int = 0
    """Seed of everything that is random."""
    device: str = "auto"
    """auto (CUDA where there is one), cpu, cuda, mps."""
    disable_cuda: bool = False
    """Use the CPU even where there is a GPU."""
    threads: int = 1
    """CPU threads of torch."""
    progress: bool = True
    """Show a progress bar."""


_PRESETS: dict[str, dict[str, Any]] = {
    "default": {
        "latent_dim": 8, "gen_channels_1": 32, "g_lr": 2e-4, "coord_lr": 5e-4, "dist_lr": 5e-4, "b1": 0.0, "b2": 0.9,
        "step_size": 20, "gamma": 0.8, "gen_int": 2, "ema": 0.999, "augment": True,
    },
    "published": {
        "latent_dim": 64, "gen_channels_1": 128, "g_lr": 5e-5, "coord_lr": 5e-5, "dist_lr": 5e-5, "b1": 0.5, "b2":
        0.999, "step_size": 100000, "gamma": 0.95, "gen_int": 5, "ema": 0.0, "augment": False,
    },
}  # fmt: skip


def resolved(settings: Settings) -> Settings:
    """The settings with the preset's values for those that are null.

    Raises:
        InputError: naming a setting that cannot work.
    """
    settings = filled(settings, _PRESETS[settings.preset])
    at_least = {
        2: "batch_size",
        1: "latent_dim gen_channels_1 n_neighbors n_epochs step_size gen_int msave_freq gsave_freq n_save "
        "eval_freq n_eval save_freq print_freq threads",
        0: "g_lr coord_lr dist_lr gamma bn_eps weight_dist seed",
    }
    check_bounds(settings, at_least, fractions="b1 b2 ema holdout")
    if settings.max_time is not None and not settings.max_time > 0:
        raise InputError(f"max_time is {settings.max_time}; give a number of seconds above 0")
    if settings.pbc is not None and (len(settings.pbc) != 3 or not set(settings.pbc) <= set("TF")):
        raise InputError(f"pbc is {settings.pbc!r}; give T or F for each of the three axes, such as TTF")
    if not set(settings.translate) <= set("xyz"):
        raise InputError(f"translate is {settings.translate!r}; give axes such as xy, or nothing")
    if settings.load_checkpoint is not None and settings.resume is None:
        settings = replace(settings, resume=settings.load_checkpoint)
    return settings


RESUMABLE = (
    "n_epochs",
    "max_time",
    "print_freq",
    "progress",
    "threads",
    "device",
    "disable_cuda",
    "dir",
    "training_data",
)
"""Settings that may change when a run is resumed."""
