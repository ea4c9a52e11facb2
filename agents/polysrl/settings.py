"""Every setting of training, by its published name where it had one."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from megen_gym.agents.nn.options import check_bounds, filled
from megen_gym.agents.nn.resuming import absolute
from megen_gym.agents.polysrl.network import Shape
from megen_gym.errors import InputError


@dataclass
class Settings:
    """Train embeddings of compositions on the structures that they have.

    Values that are null take those of the preset.
    """

    # --- data
    data: str | None = None
    """CSV of CIFs, extxyz, ASE db, folder, or Materials Project layout (JSON, plain pickle); the bundle by default."""
    cache: bool = True
    """Keep what was read from the data for the next time."""
    holdout: float = 0.1
    """Share of the compositions that judge the training."""
    property: str | None = None
    """What MPBandG and MPFormE learn; a band gap or an energy of the data by default."""
    # --- network
    embedder: Literal["PolySRL", "PolySRL_det", "3DInfomax", "GraphCL", "MPBandG", "MPFormE"] = "PolySRL"
    """What is trained: PolySRL, its mean alone, or one of the published baselines."""
    preset: Literal["ours", "published"] = "ours"
    """Shares of the atoms, balanced pairs, a start at which samples matter; or all as published."""
    element_features: str = "matscholar"
    """matscholar (published), magpie, cgcnn, megnet16, onehot, or combined (matscholar and magpie)."""
    sto_gnns: Literal["GCN", "GAT", "GIN"] = "GCN"
    """Layers on the graph of the elements."""
    sto_layers: int = 3
    """How many of them."""
    str_layers: int = 3
    """Blocks of message passing in the structures."""
    hidden_dim: int = 200
    """Width of both encoders and of the embedding."""
    no_node_feature: bool | None = None
    """Structures are seen by their distances alone, not by their elements (published; ours false)."""
    # --- loss
    n_samples: int = 8
    """Samples of each distribution."""
    negative_scale: float = 20.0
    """Initial factor of the distance in the soft contrast."""
    shift: float = 20.0
    """Initial shift of it."""
    balance: float | None = None
    """Weight of the pairs that belong together; by default such that both kinds count the same (published 1)."""
    positives: Literal["formula", "identity"] = "formula"
    """Structures of one composition belong together, or each with its own row only."""
    polymorph_batches: bool | None = None
    """Structures of one composition come in one batch (published: wherever they fall)."""
    uniform: float = 0.0
    """Weight of the term that spreads embeddings evenly."""
    vib: float = 1e-8
    """Weight of the information bottleneck."""
    reparameterize: float = 1.0
    """Factor of the noise of the samples."""
    clip: bool = False
    """Keep log standard deviations below 40."""
    tau: float = 0.2
    """Temperature of 3DInfomax and GraphCL."""
    p_e1: float = 0.5
    """Share of the edges that GraphCL leaves out of the first view."""
    p_e2: float = 0.5
    """The same for the second view."""
    # --- training
    lr: float | None = None
    """Learning rate (0.001; published 5e-05)."""
    lr_schedule: Literal["cosine", "constant"] | None = None
    """Down to a hundredth by a cosine, or constant as published."""
    weight_decay: float = 0.0
    """Of Adam."""
    epochs: int = 100
    """Passes through the data at most."""
    max_time: float | None = None
    """Seconds at most; the learning rate is then scheduled by time."""
    es: int | None = None
    """Epochs without a better held-out score after which training ends; null for never."""
    batch_size: int = 256
    """Structures of a batch."""
    grad_clip: bool = True
    """Clip gradients."""
    max_grad: float = 2.0
    """To this norm."""
    ema: float | None = None
    """Decay per step of the moving average of the weights that is judged and kept (0.99; published 0)."""
    eval_freq: int = 5
    """Epochs between judgements."""
    spread: bool = True
    """Also fit, at the end, the calibrated spread of a composition's structures."""
    # --- results
    resume: str | None = None
    """Id of a run to go on with ("newest" for the last one)."""
    dir: Path = Path("runs")
    """Folder of the run folders."""
    name: str = "composition"
    """Appears in the run's id."""
    writer: bool = False
    """Write TensorBoard events beside metrics.csv."""
    # --- machine
    seed: int = 0
    """Seed of everything that is random."""
    device: str = "auto"
    """auto (CUDA where there is one), cpu, cuda, mps; a number means that CUDA device."""
    threads: int = 1
    """CPU threads of torch."""
    progress: bool = True
    """Show a progress bar."""


PRESETS: dict[str, dict[str, Any]] = {
    "ours": {"lr": 1e-3, "lr_schedule": "cosine", "polymorph_batches": True, "ema": 0.99, "no_node_feature": False},
    "published": {
        "lr": 5e-5,
        "lr_schedule": "constant",
        "polymorph_batches": False,
        "ema": 0.0,
        "balance": 1.0,
        "no_node_feature": True,
    },
}

RESUMABLE = (
    "cache",
    "epochs",
    "max_time",
    "es",
    "progress",
    "threads",
    "device",
    "dir",
    "data",
    "writer",
    "eval_freq",
    "spread",
)
"""Settings that may change when a run is resumed."""


def resolved(settings: Settings) -> Settings:
    """The settings with the values of the preset and the whole path of the data, if they can work.

    Raises:
        InputError: naming a setting that cannot.
    """
    settings = filled(settings, PRESETS[settings.preset])
    device = f"cuda:{settings.device}" if settings.device.isdigit() else settings.device
    at_least = {
        1: "str_layers n_samples epochs es batch_size eval_freq threads",
        0: "uniform vib reparameterize weight_decay seed balance shift",
    }
    check_bounds(settings, at_least, "lr max_time max_grad negative_scale tau", fractions="holdout ema p_e1 p_e2")
    if settings.property is not None and not settings.embedder.startswith("MP"):
        raise InputError(f"{settings.embedder} learns no property; leave --property out, or take MPBandG or MPFormE")
    shape_of(settings)
    return replace(settings, data=absolute(settings.data), device=device)


def shape_of(settings: Settings) -> Shape:
    """Of the composition network."""
    s = settings
    weighting: Literal["fractions", "counts"] = "counts" if s.preset == "published" else "fractions"
    return Shape(s.element_features, s.sto_gnns, s.sto_layers, s.hidden_dim, weighting)
