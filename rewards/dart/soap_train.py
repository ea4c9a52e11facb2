"""Fit the SOAP model on the labels that DART is trained on.

``python rewards/dart/soap_train.py --dataset labels.extxyz --output soap.npz``; the split is that of ``train.py``.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from megen_gym.errors import user_errors
from megen_gym.rewards.dart import card
from megen_gym.rewards.dart.dataset import deduplicate, groups, load, split
from megen_gym.rewards.dart.net import PairRepulsion
from megen_gym.rewards.dart.soap import DESCRIPTOR, ZETA, Floats, Soap, SoapRidge, kernels, repel
from megen_gym.rewards.dart.weights import save_state

RIDGES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)


def spread(pool: Floats, count: int, rng: np.random.Generator, most: int = 8000) -> Floats:
    """(count, F) rows of `pool` that lie far apart, by farthest-point sampling of at most `most` of them."""
    pool = pool[rng.permutation(len(pool))[:most]]
    chosen = [0]
    distance = 1 - pool @ pool[0]
    while len(chosen) < min(count, len(pool)) and distance.max() > 1e-8:
        chosen.append(int(distance.argmax()))
        distance = np.minimum(distance, 1 - pool @ pool[chosen[-1]])
    return pool[chosen]


@user_errors
def main(
    dataset: Path | list[Path],
    output: Path,
    atom_energy: float | None = None,
    external: Path | None = None,
    external_atom_energy: float | None = None,
    points: int = 600,
    seed: int = 0,
    strength: float = 0.1,
    steepness: float = 10.5,
) -> None:
    """Fit, choose the ridge on the validation side, write weights and, beside them, a model card (.md).

    Args:
        dataset: extxyz file (also .gz), or a list of them, with `info` key binding_energy in eV or a total energy.
        output: npz file for the weights.
        atom_energy: eV, energy of one gallium atom, for files with total energies.
        external: A further labelled extxyz that is only measured on.
        external_atom_energy: atom_energy of that file.
        points: Number of sparse points.
        seed: Of the split and the choice of points.
        strength: eV, repulsion of a pair at 2.7 Å.
        steepness: Exponent of the repulsion.
    """
    data = deduplicate(load(dataset if isinstance(dataset, list) else [dataset], atom_energy))
    group = groups(data)
    sides = split(group, seed)
    soap, repulsion = Soap(), PairRepulsion(strength, steepness)
    spectra = [soap(positions) for positions in data.positions]
    sparse = spread(np.concatenate([spectra[row] for row in sides[0]]), points, np.random.default_rng(seed))
    free = soap(np.zeros((1, 3)))
    design = np.array([kernels(each, sparse) for each in [*spectra, free]])
    target = np.array([*(e - repel(repulsion, p) for e, p in zip(data.energies, data.positions, strict=True)), 0.0])

    # A label counts by how near its structure is to the best of its size: strained ones only have to be roughly right.
    each = data.energies / data.sizes
    lowest = {size: each[data.sizes == size].min() for size in np.unique(data.sizes)}
    above = each - np.array([lowest[size] for size in data.sizes])
    weight = np.array([*1 / (data.sizes * (0.01 + 0.1 * above)), 100.0])
    rows = np.array([*sides[0], len(data)])
    left = design[rows] * weight[rows, None]
    gram = (sparse @ sparse.T) ** ZETA
    best, coefficients, ridge = np.inf, np.zeros(len(sparse)), RIDGES[0]
    for trial in RIDGES:
        normal = left.T @ left + trial * gram + 1e-8 * np.eye(len(sparse))
        solution = np.linalg.solve(normal, left.T @ (target[rows] * weight[rows]))
        error = np.abs((design @ solution - target) * weight)[sides[1]].mean()
        if error < best:
            best, coefficients, ridge = error, solution, trial
    arrays = {"points": sparse, "coefficients": coefficients, "repulsion": np.array([strength, steepness])}
    about = {"zeta": ZETA, "descriptor": DESCRIPTOR, "unit": "eV"}
    save_state(output, {name: torch.from_numpy(value) for name, value in arrays.items()}, about)

    model = SoapRidge(output)
    elsewhere = {} if external is None else {f"External set {external.name}": load([external], external_atom_energy)}
    judgement = card.judge(model.energies, data, group, sides, elsewhere, seed)
    facts = {
        "sparse points, zeta": f"{len(sparse)}, {ZETA}",
        "ridge, chosen on the validation set": ridge,
        "SOAP": DESCRIPTOR,
        "repulsion": f"A = {strength} eV at 2.7 Å, p = {steepness}",
        "energy of a free atom (eV, exact value 0)": f"{model.energies([np.zeros((1, 3))])[0]:.4f}",
    }
    text = card.model_card("SOAP and kernel ridge regression for gallium clusters", judgement, facts)
    output.with_suffix(".md").write_text(text)
    print(text)


if __name__ == "__main__":
    from megen_gym.cli import run

    run(main)
