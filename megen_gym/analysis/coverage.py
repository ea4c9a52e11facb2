"""Coverage of a reference by generated crystals: fingerprints of structure and composition, recall and precision.

Needs the extra ``crystals``. The fingerprint of a structure takes some 40 ms per site.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from ase import Atoms
from numpy.typing import ArrayLike
from scipy.spatial.distance import cdist

from megen_gym.analysis.crystal_composition import Formula, reduced_formula
from megen_gym.analysis.crystal_validity import valid_structures
from megen_gym.analysis.crystalnn import each
from megen_gym.analysis.motifs import LENGTH
from megen_gym.errors import InputError, require
from megen_gym.structure import BoolArray, FloatArray, IntArray

CUTOFFS = {"perov_5": (0.2, 4.0), "carbon_24": (0.2, 4.0), "mp_20": (0.4, 10.0)}
"""CDVAE's largest distances of structure and of composition, by data set."""

_CHUNK = 2048
"""Generated crystals whose distances to the reference are held at one time."""


@dataclass(frozen=True, eq=False)
class Fingerprints:
    """What crystals look like and consist of.

    Attributes:
        structure: (B, 61) mean of the sites' CrystalNN fingerprints; NaN where there is none.
        composition: (B, 132) Magpie statistics of the elements; NaN where there is none.
    """

    structure: FloatArray
    composition: FloatArray

    def __len__(self) -> int:
        return len(self.structure)

    def __getitem__(self, rows: slice | IntArray | BoolArray) -> Fingerprints:
        """Those of `rows` (slice, indices or mask)."""
        return Fingerprints(self.structure[rows], self.composition[rows])

    @property
    def failed(self) -> BoolArray:
        """(B,) crystals without a fingerprint of the structure, or with none of the composition."""
        return np.asarray(np.isnan(self.structure).any(1) | np.isnan(self.composition).all(1))


@dataclass(frozen=True)
class Coverage:
    """The outcome of :func:`coverage`.

    Attributes:
        recall: COV-R, share of the reference's crystals that are near a generated one, 0-1.
        precision: COV-P, share of the generated crystals that are near one of the reference, 0-1.
    """

    recall: float
    precision: float


def fingerprints(crystals: Sequence[Atoms], *, processes: int = 1, progress: bool = False) -> Fingerprints:
    """Fingerprints of structure (matminer's CrystalNNFingerprint "ops") and composition (ElementProperty "magpie").

    As in CDVAE (Xie et al., ICLR 2022, arXiv 2110.06197), after Zimmermann & Jain, RSC Adv. 10, 6063 and Ward et al.,
    npj Comput. Mater. 2, 16028. Compositions are featurised once per reduced formula. Crystals refused by
    :func:`~megen_gym.analysis.crystal_validity.valid_structures` get no fingerprint of the structure.

    Args:
        crystals: B crystals, periodic in three directions.
        processes: How many share the structures. More than one needs a script with ``if __name__ == "__main__"``.
        progress: Show a progress bar.

    Raises:
        InputError: if matminer is missing, for a crystal that is not periodic, or less than one process.
    """
    from tqdm import tqdm

    if processes < 1:
        raise InputError(f"cannot work with {processes} processes; give 1 or more")
    composition = np.array([_magpie(reduced_formula(atoms)) for atoms in crystals]).reshape(len(crystals), -1)
    structure = np.full((len(crystals), LENGTH), np.nan)
    rows = np.flatnonzero(valid_structures(crystals))
    settings: dict[str, Any] = {"neighbours": [], "oxidation": {}}
    jobs = [
        (atoms.numbers.tolist(), atoms.positions.tolist(), atoms.cell.array.tolist(), settings)
        for atoms in (crystals[row] for row in rows.tolist())
    ]
    bar = tqdm(each(jobs, processes), total=len(jobs), desc="fingerprints", unit="crystal", disable=not progress)
    for row, sites in zip(rows, bar, strict=True):
        if sites is not None:
            structure[row] = np.mean(sites, axis=0)
    return Fingerprints(structure, composition)


def coverage(
    generated: Fingerprints,
    reference: Fingerprints,
    cutoffs: tuple[float, float] = CUTOFFS["mp_20"],
    *,
    scale: tuple[ArrayLike, ArrayLike] | None = None,
    joint: bool = False,
) -> Coverage:
    """Recall and precision of generated crystals (COV-R and COV-P of CDVAE, Xie et al., ICLR 2022).

    A crystal is covered if a crystal of the other set lies within the cut-off in structure, and one within the cut-off
    in composition. As in the published code these two need not be the same crystal; `joint` asks for that.
    Generated crystals without fingerprint count as not covered; such ones of the reference are left out.

    Args:
        generated: Of B crystals.
        reference: Of R crystals.
        cutoffs: Largest Euclidean distance of structure and of composition, see `CUTOFFS`.
        scale: Mean (132,) and standard deviation (132,) that normalise the composition; by default the
            :func:`normalisation` of the reference. The published code has one fixed scale for all data sets, so that
            its numbers for narrow data sets differ from these. Unknown numbers become 0, the mean.
        joint: Whether one and the same crystal has to be near in both.

    Returns:
        Shares; NaN where there are no crystals to take a share of.

    Raises:
        InputError: for cut-offs that are not above zero, or a scale of other length.
    """
    if not min(cutoffs) > 0:
        raise InputError(f"the cut-offs are {cutoffs}; give two numbers above zero, e.g. {CUTOFFS['mp_20']}")
    made, data = generated[~generated.failed], reference[~reference.failed]
    width = data.composition.shape[1]
    if scale is None:
        mean, deviation = normalisation(data)
    else:
        mean, deviation = (np.asarray(values, dtype=np.float64) for values in scale)
        if len(data) and (mean.shape != (width,) or deviation.shape != (width,)):
            raise InputError(
                f"the scale has shapes {mean.shape} and {deviation.shape}; expected a mean and a standard deviation "
                f"for each of {width} numbers"
            )
    if not len(data) or not len(generated):
        return Coverage(0.0 if len(data) else np.nan, 0.0 if len(generated) else np.nan)
    own, other = (np.nan_to_num((prints.composition - mean) / deviation) for prints in (made, data))
    reached, near = np.zeros((2, len(data)), dtype=bool), 0
    for begin in range(0, len(made), _CHUNK):
        part = slice(begin, begin + _CHUNK)
        close = np.stack(
            [
                cdist(made.structure[part], data.structure) <= cutoffs[0],
                cdist(own[part], other) <= cutoffs[1],
            ]
        )
        if joint:
            close[:] = close.all(0)
        reached |= close.any(1)
        near += int(close.any(2).all(0).sum())
    return Coverage(float(reached.all(0).mean()), near / len(generated))


def normalisation(prints: Fingerprints) -> tuple[FloatArray, FloatArray]:
    """Mean and standard deviation (132,) of the compositions as far as they are known; 1 where they do not vary."""
    values = prints.composition[~prints.failed]
    known = np.isfinite(values)
    count = np.maximum(known.sum(0), 1)
    mean = np.where(known, values, 0).sum(0) / count
    deviation = np.sqrt((np.where(known, values - mean, 0) ** 2).sum(0) / count)
    return mean, np.where(deviation > 1e-9 * (1 + np.abs(mean)), deviation, 1.0)


@lru_cache(maxsize=1)
def _featurizer() -> Any:
    try:
        from matminer.featurizers.composition import ElementProperty
    except ImportError:
        require("matminer", "crystals")
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return ElementProperty.from_preset("magpie")


@lru_cache(maxsize=1 << 16)
def _magpie(formula: Formula) -> FloatArray:
    """(132,) NaN for elements without data."""
    from pymatgen.core import Composition

    featurizer = _featurizer()
    try:
        return np.array(featurizer.featurize(Composition(dict(formula))), dtype=np.float64)
    except Exception:  # no atoms, X, or elements beyond the tables
        return np.full(len(featurizer.feature_labels()), np.nan)
