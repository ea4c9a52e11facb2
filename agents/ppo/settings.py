"""Every setting of PPO training, with MolGym's and MeGen's names where they had one."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal


@dataclass
class Settings:
    """Train a PPO agent that builds structures.

    The defaults train the covariant agent on Ga18 from the empty canvas under the bundled DART model.
    """

    # --- the task
    env: str = "GaCluster-v0"
    """Environment id."""
    n: int | None = 18
    """Atoms of the final cluster (GaCluster-v0, LJCluster-v0); None with --grow: any seed."""
    formula: str | None = None
    """Bag(s) to place, e.g. Ga18 or SF6,SOF4 (cycled), instead of n."""
    formulas: str | None = None
    """The same under MolGym's name."""
    eval_formulas: str | None = None
    """Bag(s) of the evaluation, where they differ."""
    size_range: tuple[int, int] | None = None
    """Smallest and largest random bag."""
    symbols: str | None = None
    """Elements in order, e.g. X,Ga; by default those of the formula and the start."""
    canvas_size: int | None = None
    """Most atoms on the canvas; by default what the bag needs."""
    start: str | None = None
    """Where episodes begin: a structure file, or "seeds" for the bundled gallium clusters; None: the empty canvas."""
    initial_structure: str | None = None
    """The same under MolGym's name."""
    grow: int | None = None
    """Atoms to add to a seed; MeGen's task is --start seeds --grow 1 --n null --reward megen."""
    num_refills: int = 0
    """How often an empty bag is refilled."""
    stop: bool = False
    """Offer the stop action."""
    scaffold: str | None = None
    """File whose atoms span the convex hull to stay inside."""
    min_mean_distance: float | None = None
    """Shortest distance (Å) from the focus; the environment's own by default."""
    max_mean_distance: float | None = None
    """Longest distance (Å) from the focus; the environment's own by default."""
    min_atomic_distance: float | None = None
    """A new atom nearer (Å) than this to another is refused; the environment's own by default."""
    max_solo_distance: float | None = None
    """A new atom farther (Å) than this from all others is refused; the environment's own by default."""
    min_reward: float | None = None
    """Floor of a step's reward and the reward of a refused move; the reward's own by default."""
    reward: str | None = None
    """Name of the reward, or import path of an ASE calculator; the environment's own by default."""
    reward_kwargs: dict[str, Any] = field(default_factory=dict)
    """Its arguments, e.g. '{"weights": "file.npz"}'."""
    env_kwargs: dict[str, Any] = field(default_factory=dict)
    """Any other argument of the environment."""

    # --- the agent
    policy: str = "covariant"
    """covariant: the rotationally covariant agent; mlp: Stable-Baselines3's plain network, for comparison."""
    network_width: int = 64
    """Width of the heads' hidden layers (and of the MLP's)."""
    maxl: int = 3
    """Highest degree of the spherical harmonics."""
    num_interactions: int = 2
    """Message-passing layers (MolGym's num_cg_levels)."""
    num_channels_hidden: int = 16
    """Channels per degree in the encoder."""
    num_channels_per_element: int = 4
    """Channels of the direction density."""
    num_gaussians: int = 3
    """Components of the distance mixture."""
    cutoff: float = 6.0
    """Å; atoms see each other up to here."""
    beta: float | None = None
    """None: direction density is a squared series; a number: exp(-beta * squared series) (MolGym used -10 for SF6)."""
    bag_scale: float | None = None
    """What bag counts are divided by; the canvas size by default."""
    bag_encoder: Literal["counts", "composition"] = "counts"
    """What the covariant agent sees: counts of the elements; or composition: properties of the elements, and embeddings
    of what is left and of what is placed, for formulas and elements that it was not trained on."""
    composition_encoder: str | None = None
    """Run id or folder of agents/polysrl/train.py, or a saved encoder, for --bag_encoder composition; by default the
    bundled one."""
    composition_shape: dict[str, Any] | None = None
    """Filled in when training starts: the shape of that encoder, whose weights then are part of the run."""

    # --- the optimisation
    num_steps: int = 50_000
    """Environment steps of the whole training."""
    num_steps_per_iter: int = 1152
    """Environment steps between two updates, over all environments; 1152 are 18 steps of 64."""
    mini_batch_size: int = 128
    """Samples per gradient step."""
    num_envs: int = 64
    """Environments side by side."""
    max_num_train_iters: int = 8
    """Passes over the collected steps per iteration."""
    learning_rate: float = 1e-3
    """Step size of Adam."""
    optimizer: Literal["adam", "amsgrad"] = "adam"
    """Adam, or its AMSGrad variant."""
    clip_ratio: float = 0.2
    """PPO's clipping of the probability ratio."""
    discount: float = 1.0
    """Discount per step; 1 because an episode's return is the energy of its last structure."""
    lam: float = 0.95
    """Lambda of the generalised advantage estimate."""
    vf_coef: float = 0.5
    """Weight of the value loss."""
    entropy_coef: float = 0.0
    """Weight of the entropy bonus."""
    gradient_clip: float = 0.5
    """Largest gradient norm."""
    target_kl: float | None = None
    """An iteration's updates stop when the policy has moved this far (times 1.5); MolGym stopped at 0.01."""
    reward_scale: float = 0.1
    """Factor on the rewards that the learner sees; what is reported is unscaled."""
    max_time: float | None = None
    """Seconds after which training stops at the end of an iteration."""

    # --- the run
    dir: Path = Path("runs")
    """Folder of the runs."""
    name: str = "ppo"
    """Name of the experiment; part of the run's id."""
    seed: int = 0
    """Seed of everything; evaluation uses other seeds."""
    device: str = "cpu"
    """cpu or cuda."""
    threads: int = 1
    """CPU threads of torch; the networks are small, more than one seldom pays."""
    resume: str | None = None
    """Id of a run to go on with, or "newest" (MolGym's load_latest); its settings are kept; num_steps, max_time,
    learning_rate, device and threads may change."""
    load_model: str | None = None
    """Id of a run whose weights the agent begins with."""
    save_freq: int = 1
    """Iterations between two checkpoints."""
    keep_models: bool = False
    """Keep the weights of every checkpoint, not only of the last."""
    eval_freq: int = 10
    """Iterations between two evaluations."""
    num_eval_episodes: int = 64
    """Episodes of an evaluation."""
    eval_deterministic: bool = False
    """Evaluate the agent's best actions instead of samples."""
    save_rollouts: Literal["none", "train", "eval", "all"] = "eval"
    """Which structures are written to structures_train.extxyz and structures_eval.extxyz."""
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    """How much is printed."""
    progress: bool = True
    """Show a progress bar."""
