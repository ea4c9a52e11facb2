"""From a data file to a model with its data: what is done before the first epoch, the same way after a restart."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from pickle import UnpicklingError

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from megen_gym.agents.cryingan.networks import GAN, load_gan
from megen_gym.agents.cryingan.settings import Settings
from megen_gym.agents.cryingan.sites import Sites, match, occupancies, statistics
from megen_gym.agents.cryingan.symmetry import Symmetry, find_symmetry
from megen_gym.agents.cryingan.system import System, read_training
from megen_gym.agents.cryingan.training import Trainer
from megen_gym.analysis.compare import quick_score
from megen_gym.analysis.ensemble import Reference
from megen_gym.errors import InputError
from megen_gym.structure import FloatArray, IntArray

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


def prepare(
    settings: Settings, device: str, stored: Mapping[str, Tensor] | None = None, fingerprint: str | None = None
) -> Prepared:
    """Read the data, find their sites, build the networks.

    Args:
        settings: Nothing null.
        device: For the networks.
        stored: Tensors of a checkpoint, whose sites and symmetry are taken instead of being found again.
        fingerprint: Of the data that belong to it.

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
        advice = f"or --batch_size {len(rows)}" if len(rows) > 1 else "at least 2"
        raise InputError(
            f"{settings.training_data} has {len(rows)} structures to train on ({count} are held out), fewer than a "
            f"batch of {settings.batch_size}; give more structures {advice}"
        )
    reference = Reference(system.batch(fractions[held if count else rows]))
    digest = hashlib.sha256(np.ascontiguousarray(np.round(fractions, 6)).tobytes())
    digest.update(json.dumps(system.to_json()).encode())
    if fingerprint not in (None, digest.hexdigest()):
        raise InputError(
            f"{settings.training_data} does not hold the structures that run {settings.resume} was trained on; "
            "give the same data, or start a new run"
        )

    training = fractions[rows]
    sites, symmetry, matched = known_sites(stored) if stored else learned_sites(settings, system, training)
    spacing = float(reference.sorted_nearest.mean())
    torch.manual_seed(settings.seed)
    gan = GAN.build(settings, system, sites, spacing).to(device)
    gan.valid_distance = reference.valid_distance
    load_parts(gan, settings)
    return Prepared(Trainer(gan, training, matched, symmetry, device), reference, digest.hexdigest(), count)


def learned_sites(settings: Settings, system: System, fractions: FloatArray) -> tuple[Sites, Symmetry, IntArray]:
    """Sites and symmetry of the data (B, N, 3), and the atom (B, N) of each structure at each site."""
    anchors, matched, moved = match(system, fractions)
    occupancy = occupancies(system, matched)
    found = find_symmetry(system, anchors, occupancy, moved) if settings.augment else Symmetry.identity(len(anchors))
    return statistics(system, anchors, occupancy, moved, found), found, matched


def known_sites(stored: Mapping[str, Tensor]) -> tuple[Sites, Symmetry, IntArray]:
    """The same from a checkpoint."""
    sites, symmetry = (
        kind(**{field.name: stored[f"{name}.{field.name}"].numpy() for field in fields(kind)})
        for name, kind in (("sites", Sites), ("symmetry", Symmetry))
    )
    assert isinstance(sites, Sites)
    assert isinstance(symmetry, Symmetry)
    return sites, symmetry, stored["matched"].numpy()


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
    wanted = module.state_dict()
    found = stored_module(name, where, settings, list(wanted))
    if {k: v.shape for k, v in found.items()} != {k: v.shape for k, v in wanted.items()}:
        raise InputError(
            f"the weights {where} do not fit the {name} network of --preset {settings.preset}; give weights of the "
            "same preset, composition, latent_dim, gen_channels_1 and n_neighbors"
        )
    module.load_state_dict(found)


def stored_module(name: str, where: str, settings: Settings, keys: list[str]) -> dict[str, Tensor]:
    """The tensors of one network by its keys; empty where there are none that fit."""
    path, part = Path(where), "average" if name == "generator" else name
    if not path.is_file():
        modules = load_gan(where, settings.dir)[0].modules
        return modules[part].state_dict() if part in modules else {}
    try:
        if path.suffix == ".safetensors":
            prefix = f"{part}."
            return {k.removeprefix(prefix): v for k, v in load_file(path).items() if k.startswith(prefix)}
        loaded = torch.load(path, map_location="cpu", weights_only=True)
        values = [value for value in loaded.values() if isinstance(value, Tensor)]
    except (
        OSError,
        EOFError,
        RuntimeError,
        AttributeError,
        KeyError,
        ValueError,
        SafetensorError,
        UnpicklingError,
    ) as e:
        reason = (str(e) or type(e).__name__).splitlines()[0][:80]
        raise InputError(
            f"{where} holds no weights that can be read ({reason}); give a run, .safetensors, or a PyTorch state dict"
        ) from None
    return dict(zip(keys, values, strict=True)) if len(values) == len(keys) else {}
