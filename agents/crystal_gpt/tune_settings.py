"""Every setting of tuning."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from megen_gym.agents.nn.options import check_bounds
from megen_gym.agents.nn.resuming import absolute
from megen_gym.errors import InputError


@dataclass
class Settings:
    """Tune a trained model by a reward, or by pairs of a better and a worse crystal."""

    run: str = "newest"
    """Run whose model is tuned: run id, run folder, or "newest"."""
    dir: Path = Path("runs")
    """Folder of the run folders."""
    name: str = "tuned"
    """Appears in the new run's id."""
    method: Literal["ppo", "reinforce", "dpo"] = "ppo"
    """Clipped policy gradient, one plain step of it for each batch, or preferences."""
    # --- reward
    reward: str | None = None
    """Name of a reward, such as volume_per_atom or emt, or import path."""
    reward_kwargs: str | None = None
    """Its arguments as a JSON object, such as '{"target": 16}'."""
    minimise: bool = False
    """Look for a small reward."""
    per_atom: bool = True
    """Divide rewards that are energies by the number of atoms."""
    clip_reward: float | None = None
    """Rewards beyond plus and minus this count as this (published 10)."""
    floor: float | None = None
    """What crystals without a reward count, and all that have a worse one; null: a spread below the first batch's."""
    min_distance: float = 0.5
    """Å; crystals with atoms nearer than this get the floor instead of a reward; 0 rewards all."""
    diversity: float = 0.0
    """Weight, in units of the reward, of a penalty log(count) for crystals that were drawn before."""
    memory: int = 10
    """Batches back which these counts go, besides the batch itself."""
    # --- what is asked, as in sample.py
    spacegroup: str | None = None
    """Number or symbol, or several with commas between; by default as often as in the training data."""
    elements: str | None = None
    """Elements that may occur, such as Ba,Ti,O, or a JSON file with atom_mask and constraints."""
    composition: str | None = None
    """Exact formula, in any number of units."""
    n_atoms: int | None = None
    """Atoms of the conventional cell, exactly."""
    max_atoms: int | None = None
    """Atoms of the conventional cell at most."""
    wyckoff: str | None = None
    """Letters of all sites, such as "a b c"."""
    remove_radioactive: bool = False
    """No elements without a stable isotope."""
    conditions: str = ""
    """Properties to aim at, such as heat_all=0.5; the model must have been trained with them."""
    # --- tuning
    epochs: int = 30
    """Batches that are drawn, rewarded and learnt from."""
    batchsize: int = 100
    """Crystals of a batch."""
    ppo_epochs: int = 5
    """Steps for each batch."""
    lr: float = 1e-4
    """Learning rate of Adam (published 1e-5)."""
    clip_grad: float = 1.0
    """Largest norm of the gradient."""
    eps_clip: float = 0.2
    """How far from 1 a ratio of likelihoods may be."""
    ratio: Literal["crystal", "part"] = "crystal"
    """Ratio of whole crystals, or of letters, elements, coordinates and lattice each."""
    baseline: Literal["average", "batch"] = "average"
    """What a reward is compared with: moving average over the batches (0.95), or mean of its batch."""
    standardise: bool = True
    """Divide advantages by their root mean square; matters where gradients are not clipped anyway."""
    beta: float = 0.1
    """Weight of the leash: of logp - logp_pretrained in the reward, and of preferences."""
    target_kl: float | None = None
    """Nats from the pretrained model that beta is adapted to; null to leave beta as it is."""
    max_kl: float | None = None
    """Epochs farther than this from the pretrained model are not kept as the best one."""
    # --- preferences
    chosen: str | None = None
    """File of better crystals; without it, pairs are made from samples and the reward."""
    rejected: str | None = None
    """File of worse ones, row by row."""
    label_smoothing: float = 0.0
    """Chance that a pair is the wrong way round."""
    gamma: float = 0.0
    """Weight of the likelihood of the better crystals."""
    ipo: bool = False
    """Squared loss (IPO) in place of the logistic one."""
    # --- judgement
    data: str | None = None
    """Crystals that judge the likelihood; by default those held out in training."""
    eval_freq: int = 1
    """Epochs between these judgements."""
    resume: str | None = None
    """Id of a run to go on with ("newest" for the last one); nothing but budget and printing can be changed."""
    # --- machine
    seed: int = 0
    """Seed of everything that is random."""
    device: str = "auto"
    """auto (CUDA where there is one), cpu, cuda, mps."""
    threads: int = 1
    """CPU threads of torch."""
    progress: bool = True
    """Show a progress bar."""


RESUMABLE = ("epochs", "progress", "threads", "device", "dir")
"""Settings that may change when a run is resumed."""


def resolved(settings: Settings) -> Settings:
    """The settings as they are used: files with their whole path, and REINFORCE with one step for each batch.

    Raises:
        InputError: naming a setting that cannot work.
    """
    at_least = {1: "epochs ppo_epochs eval_freq threads", 0: "seed memory diversity min_distance beta gamma"}
    check_bounds(settings, at_least, above_zero="lr clip_grad eps_clip clip_reward target_kl max_kl")
    if settings.batchsize < 2:
        raise InputError(f"batchsize is {settings.batchsize}; give at least 2, crystals are compared with one another")
    if settings.floor is not None and not abs(settings.floor) < float("inf"):
        raise InputError(f"floor is {settings.floor}; give a finite number")
    if not 0 <= settings.label_smoothing < 0.5:
        raise InputError(f"label_smoothing is {settings.label_smoothing}; give a number from 0 up to, but not, 0.5")
    if settings.resume is None:
        _check_method(settings)
    files: dict[str, Any] = {name: absolute(getattr(settings, name)) for name in ("data", "chosen", "rejected")}
    settings = replace(settings, **files)
    return replace(settings, ppo_epochs=1) if settings.method == "reinforce" else settings


def _check_method(settings: Settings) -> None:
    files = [name for name in ("chosen", "rejected") if getattr(settings, name) is not None]
    if settings.method != "dpo" and files:
        raise InputError(f"{files[0]} was given with method {settings.method}; give --method dpo with it")
    if len(files) == 1:
        raise InputError(f"{files[0]} was given alone; give both files, chosen and rejected")
    if settings.reward is None and not files:
        raise InputError(
            "no reward was given; give one with --reward, such as volume_per_atom"
            + (", or pairs with --chosen and --rejected" if settings.method == "dpo" else "")
        )
    if settings.beta == 0 and (settings.target_kl is not None or settings.method == "dpo"):
        raise InputError("beta is 0, which leaves nothing to adapt or to prefer by; give a number above 0")
    if settings.target_kl is not None and settings.method == "dpo":
        raise InputError("target_kl was given with method dpo, whose beta is fixed; leave it out")
