"""Train DART on own labels: ``python rewards/dart/train.py --dataset labels.extxyz --output weights.npz``.

Any extxyz with gallium clusters and energies will do, such as one made by ``rewards/dart/label.py``. The weights are
used with ``make_reward("dart", weights="weights.npz")``. A killed run goes on from its last checkpoint with the same
command and ``--resume true``.
"""

from __future__ import annotations

import sys
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np
import torch

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from megen_gym.errors import InputError, user_errors
from megen_gym.rewards.base import KCAL_PER_MOL
from megen_gym.rewards.dart import card, features
from megen_gym.rewards.dart.candidates import pack
from megen_gym.rewards.dart.dataset import Index, Labelled, deduplicate, fingerprint, groups, load, split
from megen_gym.rewards.dart.evaluate import Evaluator
from megen_gym.rewards.dart.fit import Fit, Settings, Task
from megen_gym.rewards.dart.net import PUBLISHED_WIDTHS, DartNet
from megen_gym.rewards.dart.weights import save_state


def make_task(
    data: Labelled,
    group: Index,
    sides: tuple[Index, Index, Index],
    seed: int,
    device: str = "cpu",
    packings: int = 0,
    copies: int = 0,
) -> Task:
    """Features of all structures: the data, the free atom, and exploits of the first two sides and of packings.

    The training side is joined by `copies` of each structure near a minimum, moved a little: counts jump at the
    cut-offs where the energy hardly changes, and that is how the network learns it.
    """
    rng = np.random.default_rng(seed)
    structures = [*data.positions, np.zeros((1, 3))]
    traps: list[list[tuple[int, int]]] = []
    for side in sides[:2]:
        traps.append([])
        for row in side[features.references(data[side], group[side])].tolist():
            spoilt = features.overlaps(rng, data.positions[row])
            traps[-1] += [(len(structures) + place, row) for place in range(len(spoilt))]
            structures += spoilt
    for number in range(packings):
        positions = pack(rng, 2 + number % max(1, int(data.sizes.max()) - 1)).positions
        spoilt = features.overlaps(rng, positions)
        traps[0] += [(len(structures) + 1 + place, len(structures)) for place in range(len(spoilt))]
        structures += [positions, *spoilt]
    relaxed = [row for row in sides[0].tolist() if data.kinds[row] not in features.STRAINED] * copies
    train = np.concatenate([sides[0], len(structures) + np.arange(len(relaxed))])
    structures += [features.moved(rng, data.positions[row]) for row in relaxed]
    energies = torch.full((len(structures),), torch.nan)
    energies[: len(data) + 1] = torch.tensor([*data.energies, 0.0])
    energies[len(structures) - len(relaxed) :] = torch.from_numpy(data.energies[relaxed])
    rows = [torch.from_numpy(train), torch.tensor([len(data)]), torch.from_numpy(sides[1])]
    pairs = [torch.tensor(side, dtype=torch.int64).reshape(-1, 2).to(device) for side in traps]
    table = features.featurise(structures).to(device)
    return Task(table, energies.to(device), *(part.to(device) for part in rows), *pairs)


def initial(task: Task, widths: tuple[int, ...], seed: int) -> DartNet:
    """A network with random weights that begins at the mean energy per atom of the training data."""
    torch.manual_seed(seed)
    net = DartNet(widths, repulsion=True).to(task.energies.device)
    size = task.features.mask.sum(1)
    with torch.no_grad():
        # Branches begin small: an atom adds up some twenty of them.
        for name in ("fi2", "fj2", "fk2", "fl2"):
            net.get_parameter(f"{name}.weight").mul_(0.3)
        net.inter4.weight.mul_(10.0)
        net.inter4.bias.fill_(float((task.energies / size)[task.train].median()) / KCAL_PER_MOL)
    return net


@user_errors
def main(
    dataset: Path | list[Path],
    output: Path,
    atom_energy: float | None = None,
    external: Path | None = None,
    external_atom_energy: float | None = None,
    epochs: int = 400,
    lr: float = 1e-3,
    batch: int = 64,
    patience: int = 150,
    seed: int = 0,
    weight_decay: float = 1e-4,
    huber: float = 0.03,
    exploit_weight: float = 1.0,
    packings: int = 60,
    copies: int = 3,
    max_time: float | None = None,
    widths: tuple[int, int, int, int, int] = PUBLISHED_WIDTHS,
    device: str = "cpu",
    resume: bool = False,
) -> None:
    """Train DART and write its weights and, beside them, a model card (.md).

    Args:
        dataset: extxyz file (also .gz), or a list of them, with `info` key binding_energy in eV or a total energy.
        output: npz file for the weights.
        atom_energy: eV, energy of one gallium atom, for files with total energies.
        external: A further labelled extxyz that is only measured on.
        external_atom_energy: atom_energy of that file.
        epochs: Passes over the data.
        lr: Learning rate at the start; it falls as a half cosine.
        batch: Structures per step.
        patience: Epochs without a better validation score before training stops.
        seed: Of the split, the weights and the order.
        weight_decay: Of AdamW.
        huber: eV per atom; larger errors count linearly.
        exploit_weight: Weight of the loss that forbids spoilt structures to win.
        packings: Random packings without labels, 2 atoms up to the largest size, whose spoilt copies must not win.
        copies: Slightly moved copies of each training structure, under the label of the original.
        max_time: Seconds of training; the learning rate falls accordingly.
        widths: Layer sizes: two of each branch, three of the head.
        device: cpu or cuda.
        resume: Go on with a killed run of the same settings.
    """
    settings = Settings(epochs, lr, batch, patience, seed, weight_decay, huber, exploit_weight, max_time)
    checkpoint = output.with_name(f"{output.name}.checkpoint")
    if checkpoint.exists() and not resume:
        raise InputError(
            f"an unfinished run lies at {str(checkpoint)!r}; go on with --resume true, or delete it to begin anew"
        )
    if not output.parent.is_dir():
        raise InputError(f"there is no folder {str(output.parent)!r} for the output; create it or give another path")
    files = dataset if isinstance(dataset, list) else [dataset]
    read = load(files, atom_energy)
    data = deduplicate(read)
    group = groups(data)
    sides = split(group, seed)
    task = make_task(data, group, sides, seed, device, packings, copies)
    fit = Fit(
        initial(task, widths, seed),
        task,
        settings,
        checkpoint,
        {"widths": widths, "packings": packings, "copies": copies, "data": fingerprint(data)},
    )
    if checkpoint.exists():
        fit.load()
    fit.run()

    evaluate = Evaluator(DartNet.from_state(fit.best), device=device)
    elsewhere = {} if external is None else {f"External set {external.name}": load([external], external_atom_energy)}
    judgement = card.judge(partial(card.predict, evaluate), data, group, sides, elsewhere, seed)
    facts = {
        "structures read, without duplicates, independent groups": f"{len(read)}, {len(data)}, {group.max() + 1}",
        "epochs, best epoch, seconds": f"{fit.epoch}, {fit.best_epoch}, {fit.seconds:.0f}",
        "energy of a free atom (eV, exact value 0)": f"{card.predict(evaluate, [np.zeros((1, 3))])[0]:.4f}",
        "repulsion": "A = {:.4f} eV at 2.7 Å, p = {:.3f}".format(
            *(float(fit.best[f"repulsion.{name}"].exp()) for name in ("log_strength", "log_steepness"))
        ),
        "layer sizes": widths,
        **{key.replace("_", " "): value for key, value in asdict(settings).items()},
    }
    text = card.model_card("DART for gallium clusters", judgement, facts)
    save_state(
        output,
        fit.best,
        {"unit": "kcal/mol, repulsion in eV", "facts": {key: str(value) for key, value in facts.items()}},
    )
    output.with_suffix(".md").write_text(text)
    checkpoint.unlink(missing_ok=True)
    print(text)


if __name__ == "__main__":
    from megen_gym.cli import run

    run(main)
