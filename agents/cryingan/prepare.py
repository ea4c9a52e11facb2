"""From a data file to a model with its data: what is done before the first epoch, the same way after a restart."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from megen_gym.agents.cryingan.networks import GAN, load_gan
from megen_gym.agents.cryingan.settings import Settings
from megen_gym.agents.cryingan.sites import match, occupancies, statistics
from megen_gym.agents.cryingan.symmetry import Symmetry, find_symmetry
from megen_gym.agents.cryingan.system import read_training
from megen_gym.agents.cryingan.training import Trainer
from megen_gym.analysis.compare import quick_score
from megen_gym.analysis.ensemble import Reference
from megen_gym.errors import InputError

FEWEST_HELD_OUT = 10
"""Structures; with fewer the training set judges."""

JUDGING_SEED = 12345


@dataclass(eq=False)
class Prepared:
    """A model, its trainer, and the judge.

    Attributes:
        trainer: With the model and the structures that are trained on.
        reference: Held-out structures, or all where there are too few to hold out.
        fingerprint: SHA-256 of the data, by which a resumed run knows them again.
        held_out: How many structures are held out.
    """

    trainer: Trainer
    reference: Reference
    fingerprint: str
    held_out: int

    @property
    def gan(self) -> GAN:
        """The model."""
        return self.trainer.gan

    def judge(self) -> dict[str, float]:
        """Metrics of `n_eval` structures against the reference, and ``score`` in Å, the sum of the deviations.

        An invalid structure counts like a deviation of 1 Å.
        """
        self.gan.calibrate()
        metrics = quick_score(self.gan.sample(self.gan.settings.n_eval, JUDGING_SEED), self.reference)
        return {"score": metrics["w1_neighbour"] + metrics["w1_height"] + 1 - metrics["valid"]} | metrics

    def measure_scores(self) -> None:
        """Note how the critics score real structures: what a reward is centred and scaled by."""
        gan, trainer = self.gan, self.trainer
        with torch.no_grad():
            parts = [gan.scores(part) for part in torch.split(trainer.real, 256)]
            real = torch.cat([a + gan.settings.weight_dist * b for a, b in parts]).double()
        gan.real_score = (real.mean().item(), max(real.std().item(), 1e-12))


def prepare(settings: Settings, device: str) -> Prepared:
    """Read the data, find their sites, build the networks.

    Args:
        settings: Nothing null.
        device: For the networks.

    Raises:
        InputError: for data that cannot be trained on.
    """
    if not settings.training_data:
        raise InputError("no training data were given; give --training_data FILE, structures in extxyz, CIF or POSCAR")
    system, fractions = read_training(settings.training_data, settings.pbc)
    order = np.random.default_rng(settings.seed).permutation(len(fractions))
    count = round(settings.holdout * len(fractions))
    count = count if count >= FEWEST_HELD_OUT else 0
    rows, held = np.sort(order[count:]), np.sort(order[:count])
    if len(rows) < settings.batch_size:
        raise InputError(
            f"{settings.training_data} has {len(rows)} structures to train on ({count} are held out), fewer than a "
            f"batch of {settings.batch_size}; give more structures or --batch_size {max(2, len(rows))}"
        )
    reference = Reference(system.batch(fractions[held if count else rows]))
    fingerprint = hashlib.sha256(np.ascontiguousarray(np.round(fractions, 6)).tobytes()).hexdigest()

    training = fractions[rows]
    anchors, matched, moved = match(system, training)
    occupancy = occupancies(system, matched)
    symmetry = find_symmetry(system, anchors, occupancy, moved) if settings.augment else Symmetry.identity(len(anchors))
    sites = statistics(system, anchors, occupancy, moved, symmetry)
    spacing = float(reference.sorted_nearest.mean())
    torch.manual_seed(settings.seed)
    gan = GAN.build(settings, system, sites, spacing).to(device)
    load_parts(gan, settings)
    return Prepared(Trainer(gan, training, matched, symmetry, device), reference, fingerprint, count)


def load_parts(gan: GAN, settings: Settings) -> None:
    """Start networks from weights of another run, or from published state dicts.

    Raises:
        InputError: if the weights do not fit the network.
    """
    for name, where in {
        "generator": settings.load_generator,
        "coordinate": settings.load_coord_disc,
        "distance": settings.load_dist_disc,
    }.items():
        if where is None:
            continue
        if name not in gan.modules:
            raise InputError("load_dist_disc was given but weight_dist is 0; leave one of them out")
        load_module(gan.modules[name], name, where, settings)
        if name == "generator":
            gan.average.load_state_dict(gan.generator.state_dict())


def load_module(module: nn.Module, name: str, where: str, settings: Settings) -> None:
    """Fill one network from a run, a safetensors file, or a state dict in the published order of layers."""
    path = Path(where)
    wanted = module.state_dict()
    if path.is_file() and path.suffix == ".safetensors":
        from safetensors.torch import load_file

        tensors = load_file(path)
        part = "average" if name == "generator" else name
        found = {k.removeprefix(f"{part}."): v for k, v in tensors.items() if k.startswith(f"{part}.")}
    elif path.is_file():
        loaded = torch.load(path, map_location="cpu", weights_only=True)
        tensors_only = [v for v in loaded.values() if isinstance(v, Tensor)]
        found = dict(zip(wanted, tensors_only, strict=False)) if len(tensors_only) == len(wanted) else {}
    else:
        other = load_gan(where, settings.dir)[0]
        found = other.modules["average" if name == "generator" else name].state_dict() if name in other.modules else {}
    if {k: v.shape for k, v in found.items()} != {k: v.shape for k, v in wanted.items()}:
        raise InputError(
            f"the weights {where} do not fit the {name} network of --preset {settings.preset}; give weights of the "
            "same preset, composition, latent_dim, gen_channels_1 and n_neighbors"
        )
    module.load_state_dict(found)
