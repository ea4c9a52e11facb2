"""What the leash of tuning buys: ``python examples/leash.py``.

crystal_gpt is trained on the bundled crystals for some epochs, and then tuned by PPO towards a volume of 14 Å³ per atom
in the space group of the perovskites: without a leash to the pretrained model, with a weak and with a strong one. Every
model then draws the same number of crystals. The reward knows nothing of elements; what it costs is seen in the other
columns: crystals that can be charge neutral and have no atoms too near, different formulas, how far the model went
(nats), and what it has forgotten (nats of crystals that were held out in training). The second table has reward and
distance on the way there, so that stopping early can be compared with a leash.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from megen_gym.agents.crystal_gpt.generate import sample
from megen_gym.agents.crystal_gpt.model import load_model
from megen_gym.agents.crystal_gpt.settings import Settings
from megen_gym.agents.crystal_gpt.train import train
from megen_gym.agents.crystal_gpt.tune import tune
from megen_gym.agents.crystal_gpt.tune_settings import Settings as TuneSettings
from megen_gym.cli import run
from megen_gym.errors import InputError
from megen_gym.rewards import make_reward
from megen_gym.rewards.crystals import ValidReward
from megen_gym.structure import StructureBatch

GROUP = 221


def main(
    target: float = 14.0,
    betas: Sequence[float] = (0.0, 0.3, 3.0),
    training: int = 20,
    epochs: int = 30,
    lr: float = 3e-4,
    crystals: int = 500,
    seed: int = 0,
    dir: Path = Path("runs"),
) -> None:
    """Tune with several leashes, and judge what comes out.

    Args:
        target: Å³ per atom.
        betas: Weights of the leash; 0 for none.
        training: Epochs of training.
        epochs: Batches of 100 crystals to tune with.
        lr: Learning rate of tuning.
        crystals: By which each model is judged.
        seed: Of training, tuning and judgement.
        dir: Folder of the runs.
    """
    if crystals < 2 or not betas:
        raise InputError(f"crystals {crystals} and betas {list(betas)} cannot be used; give 2 or more, and a weight")
    pretrained = train(Settings(epochs=training, name="bundled", seed=seed, dir=dir))
    first = load_model(str(pretrained.path), dir)[0]
    metrics = pretrained.metrics()
    judged = {"pretrained": (pretrained.path, float(np.nanmin(metrics["nll"])))}
    way = {}
    for beta in betas:
        tuned = tune(
            TuneSettings(
                run=str(pretrained.path), reward="volume_per_atom", reward_kwargs=json.dumps({"target": target}),
                spacegroup=str(GROUP), beta=beta, epochs=epochs, lr=lr, seed=seed, dir=dir,
            )
        )  # fmt: skip
        history = tuned.metrics()
        judged[f"beta {beta:g}"] = (tuned.path, float(history["nll"][np.nanargmax(history["score"])]))
        way[f"beta {beta:g}"] = history
    reward, possible = make_reward("volume_per_atom", target=target), ValidReward()
    print(f"\n{'':14s}{'reward':>18s}{'valid':>8s}{'different':>11s}{'nats away':>11s}{'nats of held-out':>18s}")
    for name, (path, held_out) in judged.items():
        model = load_model(str(path), dir)[0]
        drawn = sample(model, crystals, [GROUP], min_distance=0.0, seed=seed)
        batch = StructureBatch.from_atoms(drawn.crystals.to_atoms())
        worth, valid = reward.worth(batch)[0], possible.worth(batch)[0]
        away = drawn.logp.sum(1) - first.log_prob(drawn.crystals).total.numpy()
        formulas = {atoms.get_chemical_formula() for atoms in drawn.crystals.to_atoms()}
        error = worth.std() / len(worth) ** 0.5
        print(
            f"{name:14s}{worth.mean():9.2f} ± {error:6.2f}{valid.mean():8.0%}{len(formulas) / crystals:11.0%}"
            f"{abs(away.mean()):11.2f}{held_out:18.2f}"
        )
    marks = sorted({round(epochs * share) for share in (1 / 8, 1 / 4, 1 / 2, 1)})
    print("\nreward (nats away, nats of held-out), by epochs of tuning")
    print(" " * 14 + "".join(f"{mark:>26d}" for mark in marks))
    for name, history in way.items():
        cells = [[history[key][mark] for key in ("reward", "kl", "nll")] for mark in marks]
        print(f"{name:14s}" + "".join(f"{f'{value:.2f} ({far:.2f}, {lost:.1f})':>26s}" for value, far, lost in cells))


if __name__ == "__main__":
    run(main)
