"""Every setting of tuning."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from megen_gym.agents.nn.options import check_bounds
from megen_gym.errors import InputError


@dataclass
class Settings:
    """Tune a trained G-SchNet by a reward."""

    reward: str = "gfn2"
    """Name of a reward (gfn2, emt, molecule_valid, target, ...) or import path of an ASE calculator."""
    reward_kwargs: dict[str, Any] = field(default_factory=dict)
    """Its arguments."""
    minimise: bool = False
    """Look for a small reward."""
    per_atom: bool = True
    """Divide rewards that are energies by the number of atoms."""
    floor: float | None = None
    """What molecules without a reward count, and all that have a worse one; null: below most of the first batch."""
    run: str = "newest"
    """Run whose model is tuned: run id, run folder, or "newest"."""
    condition: str = ""
    """Targets of a conditional model, such as gap=4.0."""
    # --- growing
    batch_size: int = 32
    """Molecules of an epoch."""
    max_n_atoms: int | None = None
    """Atoms at most; by default a quarter more than the largest training molecule."""
    grid_spacing: float = 0.05
    """Å between places that are told apart."""
    grid_distance_min: float | None = None
    """Å between a new atom and its focus at least; by default as generate.py has it."""
    temperature_term: float = 0.1
    """Places are drawn with their probability to the power of its inverse."""
    # --- learning
    epochs: int = 50
    """Batches."""
    steps: int = 2
    """Passes through each of them."""
    minibatch: int = 8
    """Molecules of a step."""
    lr: float = 2e-5
    """Learning rate."""
    eps_clip: float = 0.2
    """How far from 1 the ratio of a decision counts."""
    beta: float = 0.02
    """Weight, in units of the reward, of the leash to the model that tuning began with."""
    normalize_advantage: bool = True
    """Divide advantages by their spread."""
    clip_grad: float = 1.0
    """Largest norm of the gradient."""
    # --- results
    resume: str | None = None
    """Id of a tuning to go on with ("newest" for the last one)."""
    dir: Path = Path("runs")
    """Folder of the run folders."""
    name: str = "tuned"
    """Appears in the run's id."""
    # --- machine
    seed: int = 0
    """Seed of everything that is random."""
    accelerator: str = "auto"
    """auto (CUDA where there is one), cpu, cuda or gpu, mps."""
    threads: int = 1
    """CPU threads of torch."""
    progress: bool = True
    """Show a progress bar."""


RESUMABLE = ("epochs", "progress", "threads", "accelerator", "dir")
"""Settings that may change when a run is resumed."""


def resolved(settings: Settings) -> Settings:
    """The settings.

    Raises:
        InputError: naming a setting that cannot work.
    """
    above_zero = "grid_spacing grid_distance_min temperature_term lr eps_clip clip_grad"
    check_bounds(settings, {1: "batch_size epochs steps minibatch threads max_n_atoms"}, above_zero)
    if not 0 <= settings.beta < float("inf"):
        raise InputError(f"beta is {settings.beta}; give 0 or more")
    return settings
