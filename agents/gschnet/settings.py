"""Every setting of training, by the last word of its published name (schnetpack-gschnet) where it had one."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from megen_gym.agents.nn.options import check_bounds, condition_names, filled
from megen_gym.agents.nn.resuming import absolute
from megen_gym.errors import InputError, nearest

if TYPE_CHECKING:
    from megen_gym.agents.gschnet.preparing import Connectivity


@dataclass
class Settings:
    """Train a network that grows molecules atom by atom.

    Sizes that are null take the value of the preset.
    """

    # --- data
    datapath: str | None = None
    """ASE database (SchNetPack's layout or plain), extxyz, QM9 archive, ...; ASE's own molecules by default."""
    data: str | None = None
    """The same as datapath."""
    atom_types: str = "1,6,7,8,9"
    """Atomic numbers or symbols that occur in the data."""
    distance_unit: str = "Ang"
    """Unit of positions in files that do not say."""
    property_units: dict[str, str] = field(default_factory=dict)
    """Units to convert properties to (or, in files that do not say, the units they have)."""
    remove_uncharacterized: bool | str = True
    """Leave out the uncharacterized molecules of QM9, by the list beside the data or the one of this path."""
    num_train: float = 0.8
    """Molecules to train on: a number, or a share below 1."""
    num_val: float = 0.1
    """Molecules that judge the training."""
    num_test: float | None = None
    """Molecules kept aside; the rest by default."""
    filter: str = ""
    """Molecules to keep aside for the test, such as "composition==C7O2H10" or "gap<4.0 and n_atoms>20"."""
    split_file: str | None = None
    """A split.npz to take instead."""
    data_workdir: str | None = None
    """Folder on fast storage that the data is copied to for the time of the run."""
    cache_path: str | None = None
    """Folder where neighbour lists are kept."""
    keep_cache: bool = False
    """Leave them there when the run has finished."""
    cache_workdir: str | None = None
    """Folder on fast storage that they are copied to."""
    # --- building
    model_cutoff: float = 10.0
    """Å, atoms nearer than this exchange messages."""
    prediction_cutoff: float = 5.0
    """Å, atoms nearer to the focus than this predict type and distance."""
    placement_cutoff: float = 1.7
    """Å, atoms nearer to the focus than this can be placed beside it."""
    use_covalent_radii: bool = True
    """Neighbours must also be nearer than the sum of their covalent radii."""
    covalent_radius_factor: float = 1.1
    """Times that sum."""
    draw_random_samples: int = 10
    """Random steps of each molecule in a batch; 0 for all of them."""
    placement: Literal["closest_to_origin", "closest_to_focus", "random"] = "closest_to_origin"
    """Which missing neighbour of the focus comes next."""
    use_origin: bool = True
    """An origin token marks the centre of mass; without it building starts at any atom (always so if periodic)."""
    position_noise: float = 0.0
    """Å by which atoms on the canvas are displaced in training."""
    origin_type: int = 121
    """Atomic number that stands for the origin token."""
    focus_type: int = 122
    """Atomic number that stands for the focus token."""
    stop_type: int = 123
    """Atomic number that stands for the stop marker."""
    # --- network
    model: Literal["schnet", "equivariant"] = "schnet"
    """Distances to neighbours (published), or direction and distance from the focus."""
    preset: Literal["small", "published"] = "small"
    """About 0.27 million weights, which learn several times faster on a CPU, or the published 1.17 million."""
    features: int | None = None
    """Width of the features (64; published 128)."""
    n_interactions: int | None = None
    """Interaction blocks (6; published 9)."""
    n_rbf: int = 25
    """Gaussians by which a distance is seen."""
    cutoff_fn: Literal["cosine", "hard"] = "cosine"
    """How filters end at the cut-off."""
    head_layers: int = 5
    """Layers of the perceptrons that decide."""
    head_hidden: int | None = None
    """Their width (128; published 256)."""
    distance_prediction_min_dist: float = 0.0
    """Å, first distance bin."""
    distance_prediction_max_dist: float | None = None
    """Å, last distance bin; the sum of prediction and placement cut-off by default."""
    n_bins: int | None = None
    """Distance bins; 30 per Å, and one, by default."""
    dist_label_width_factor: float = 0.1
    """Smearing of target distances; below 0.01 for none."""
    average_type_distributions: bool = False
    """Average what atoms say of the next type instead of multiplying it."""
    conditions: str = ""
    """What can be asked of molecules: properties of the data, composition, relative_atomic_energy, n_atoms, ..."""
    condition_options: dict[str, dict[str, float]] = field(default_factory=dict)
    """By condition: condition_min, condition_max, grid_spacing, n_features, n_layers, skip_h."""
    # --- training
    batch_size: int = 10
    """Molecules of a batch."""
    max_epochs: int = 1000
    """Passes through the data at most."""
    max_time: float | None = None
    """Seconds at most; the learning rate is then scheduled by time."""
    patience: int | None = 25
    """Epochs without a better validation loss after which training ends; null for never."""
    lr: float | None = None
    """Learning rate (0.004; with the published sizes 0.001; published 0.0001)."""
    lr_schedule: Literal["auto", "plateau", "cosine"] = "auto"
    """Reduced when the validation loss stands still (published), or by a cosine; auto: the latter with max_time."""
    lr_decay_factor: float = 0.5
    """What it is reduced by."""
    lr_patience: int = 10
    """Epochs it may stand still."""
    min_lr: float = 1e-6
    """Smallest learning rate."""
    weight_decay: float = 0.0
    """Of AdamW."""
    gradient_clip_val: float = 1.0
    """Largest norm of the gradient; 0 for none (published)."""
    ema: float = 0.999
    """Decay per step of the moving average of the weights that is judged and kept; 0 for none."""
    distance_weight: float = 1.0
    """Weight of the position in the loss."""
    # --- results
    load: str | None = None
    """Run (folder or id) whose weights training starts from."""
    id: str | None = None
    """Name of the run's folder; a run of that name goes on."""
    resume: str | None = None
    """Id of a run to go on with ("newest" for the last one)."""
    dir: Path = Path("runs")
    """Folder of the run folders."""
    name: str = "molecule"
    """Appears in the run's id."""
    tensorboard: bool = False
    """Write TensorBoard events beside metrics.csv."""
    # --- machine
    seed: int = 0
    """Seed of everything that is random."""
    accelerator: str = "auto"
    """auto (CUDA where there is one), cpu, cuda or gpu, mps."""
    num_workers: int = 0
    """Threads that prepare batches beside the network."""
    threads: int = 1
    """CPU threads of torch."""
    progress: bool = True
    """Show a progress bar."""
    refresh_rate: int = 1
    """Batches between updates of the progress bar."""


_PRESETS: dict[str, dict[str, float]] = {
    "small": {"features": 64, "n_interactions": 6, "head_hidden": 128, "lr": 4e-3},
    "published": {"features": 128, "n_interactions": 9, "head_hidden": 256, "lr": 1e-3},
}

RESUMABLE = (
    "max_epochs", "max_time", "patience", "progress", "refresh_rate", "threads", "accelerator", "dir", "datapath",
    "data", "tensorboard", "data_workdir", "cache_path", "keep_cache", "cache_workdir", "num_workers", "id",
)  # fmt: skip
"""Settings that may change when a run is resumed."""


def resolved(settings: Settings) -> Settings:
    """The settings with the sizes of the preset, one name for the data, its whole path, and cut-offs that fit.

    Raises:
        InputError: naming a setting that cannot work.
    """
    settings = filled(settings, _PRESETS[settings.preset])
    if settings.data is not None and settings.datapath is not None and settings.data != settings.datapath:
        raise InputError(f"data is {settings.data} and datapath {settings.datapath}; give one of them")
    at_least = {
        1: "features n_interactions head_layers head_hidden batch_size max_epochs patience lr_patience threads "
        "refresh_rate",
        2: "n_rbf n_bins",
        0: "draw_random_samples position_noise weight_decay seed num_workers distance_weight dist_label_width_factor "
        "min_lr distance_prediction_min_dist gradient_clip_val",
    }
    above_zero = "model_cutoff prediction_cutoff placement_cutoff lr max_time"
    check_bounds(settings, at_least, above_zero, fractions="ema lr_decay_factor")
    if settings.placement_cutoff > settings.prediction_cutoff:
        raise InputError(
            f"placement_cutoff {settings.placement_cutoff} is above prediction_cutoff {settings.prediction_cutoff}; "
            "atoms that can be placed must be predicted: give a smaller one"
        )
    low, high = settings.distance_prediction_min_dist, settings.distance_prediction_max_dist
    if low >= (settings.prediction_cutoff + settings.placement_cutoff if high is None else high):
        raise InputError(
            f"distance_prediction_min_dist is {low} and distance_prediction_max_dist {high}; give a larger second one"
        )
    tokens = [settings.origin_type, settings.focus_type, settings.stop_type]
    types = numbers_of(settings.atom_types)
    if len(set(tokens)) < 3 or set(tokens) & set(types) or not all(0 < token < 130 for token in tokens):
        raise InputError(
            f"origin_type, focus_type and stop_type are {tokens}; give three numbers up to 129 that are no atom types"
        )
    asked = condition_names(settings.conditions)
    for name in settings.condition_options:
        if name not in asked:
            raise InputError(f"condition_options names {name!r}, which is no condition; {nearest(name, asked)}")
    path = absolute(settings.datapath if settings.data is None else settings.data)
    return replace(settings, datapath=path, data=None)


def numbers_of(text: str) -> tuple[int, ...]:
    """Atomic numbers of a list with commas, ascending.

    Raises:
        InputError: for what is no element.

    >>> numbers_of("1, C,8")
    (1, 6, 8)
    """
    from ase.data import atomic_numbers

    found = []
    for word in (part.strip() for part in text.strip("[]() ").split(",")):
        number = int(word) if word.isdigit() else atomic_numbers.get(word, 0)
        if not 1 <= number <= 118:
            raise InputError(f"atom type {word!r} is no element; give atomic numbers or symbols such as 1,6,7,8,9")
        found.append(number)
    return tuple(sorted(set(found)))


def connectivity_of(settings: Settings) -> Connectivity:
    """What makes atoms neighbours."""
    from megen_gym.agents.gschnet.preparing import Connectivity

    return Connectivity(settings.placement_cutoff, settings.use_covalent_radii, settings.covalent_radius_factor)
