"""Which molecules are the same, and which are known: compared by canonical SMILES."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from megen_gym.errors import InputError, require
from megen_gym.structure import BoolArray, IntArray

SPLITS = ("train", "val", "test")
"""Sets of a split; a molecule that occurs in several counts for the first."""

Smiles = Sequence[str | None]
"""Canonical SMILES, None for an invalid molecule."""


def keys(smiles: Smiles, *, ignore_enantiomers: bool = False, ignore_isomerism: bool = False) -> list[str | None]:
    """Names under which two molecules are equal; None stays None.

    Args:
        smiles: (M,) SMILES.
        ignore_enantiomers: A molecule equals its mirror image; diastereomers still differ.
        ignore_isomerism: All stereoisomers are equal, cis and trans as well: only the bonds count.

    Raises:
        InputError: for text that is no SMILES, or where RDKit is missing.

    >>> keys(["C[C@H](O)F", "C[C@@H](O)F"], ignore_enantiomers=True)
    ['C[C@@H](O)F', 'C[C@@H](O)F']
    """
    if not (ignore_enantiomers or ignore_isomerism):
        return list(smiles)
    found: dict[str | None, str | None] = {None: None}
    for one in smiles:
        if one is not None and one not in found:
            found[one] = _flat(one) if ignore_isomerism else _either(one)
    return [found[one] for one in smiles]


def _flat(smiles: str) -> str:
    """Without stereochemistry; read twice, since hydrogen that a double bond's geometry needs goes after that."""
    chem = _rdkit()
    if not set(smiles) & set("@/\\"):
        return smiles
    plain = chem.MolToSmiles(_mol(smiles), isomericSmiles=False)
    return str(chem.MolToSmiles(_mol(plain), isomericSmiles=False))


def _either(smiles: str) -> str:
    """The first by alphabet of a molecule and its mirror image."""
    if "@" not in smiles:
        return smiles
    chem, mol = _rdkit(), _mol(smiles)
    for atom in mol.GetAtoms():
        atom.InvertChirality()
    return str(min(chem.CanonSmiles(smiles), chem.CanonSmiles(chem.MolToSmiles(mol))))


def _rdkit() -> Any:
    try:
        from rdkit import Chem
    except ImportError:
        require("rdkit", "molecules")
    return Chem


def _mol(smiles: str) -> Any:
    mol = _rdkit().MolFromSmiles(smiles)
    if mol is None:
        raise InputError(f"{smiles[:80]!r} is no SMILES that RDKit can read; correct it, or compute it by check()")
    return mol


@dataclass(frozen=True, eq=False)
class Identity:
    """Who is who among M molecules.

    Attributes:
        first: (M,) the first molecule with the same key, itself where it is the first; -1 where invalid.
        known: (M,) the first molecule of the comparison set with the same key; -1 where there is none.
        split: (M,) the set of the split that it is in, "" for none; None without a split.
    """

    first: IntArray
    known: IntArray
    split: tuple[str, ...] | None = None

    @property
    def valid(self) -> BoolArray:
        """(M,) whether it has a key."""
        return np.asarray(self.first >= 0)

    @property
    def unique(self) -> BoolArray:
        """(M,) whether it is the first of its key."""
        return np.asarray(self.first == np.arange(len(self.first)))

    @property
    def novel(self) -> BoolArray:
        """(M,) whether it is unique and not in the comparison set."""
        return np.asarray(self.unique & (self.known < 0))

    @property
    def unseen(self) -> BoolArray:
        """(M,) whether it is unique and neither in the training nor in the validation set; novel ones without a split.

        As in schnetpack-gschnet's check_validity.py: what is in the test set was not used for training.
        """
        if self.split is None:
            return self.novel
        return np.asarray(self.unique & ~np.isin(np.array(self.split, dtype=str), SPLITS[:2]))


def identify(own: Smiles, compared: Smiles = (), splits: Mapping[str, ArrayLike] | None = None) -> Identity:
    """Find duplicates among molecules, and those that a comparison set knows.

    Args:
        own: (M,) their :func:`keys`.
        compared: (R,) keys of the comparison set, made with the same options.
        splits: Rows of the comparison set by ``train``, ``val``, ``test``; only these then are compared with.

    Raises:
        InputError: for a split with other names, or rows that the comparison set does not have.

    >>> verdict = identify(["C", "CC", "C", None, "CO"], ["O", "CC", "CO"], {"train": [1], "test": [2]})
    >>> verdict.unique.tolist(), verdict.novel.tolist(), verdict.split
    ([True, True, False, False, True], [True, False, False, False, False], ('', 'train', '', '', 'test'))
    >>> verdict.unseen.tolist()
    [True, False, False, False, True]
    """
    firsts: dict[str, int] = {}
    first = [-1 if key is None else firsts.setdefault(key, row) for row, key in enumerate(own)]
    places: dict[str, int] = {}
    members = np.full(len(compared), "all" if splits is None else "", dtype="U8")
    if splits is not None:
        if set(splits) - set(SPLITS):
            raise InputError(f"the split has the sets {', '.join(splits)}; expected some of {', '.join(SPLITS)}")
        for name in reversed([name for name in SPLITS if name in splits]):
            rows = np.asarray(splits[name], dtype=np.int64)
            if len(rows) and not (rows.min() >= 0 and rows.max() < len(compared)):
                raise InputError(
                    f"the set {name!r} of the split has rows up to {rows.max()} of {len(compared)} molecules; "
                    "give the file that was split"
                )
            members[rows] = name
    order = [row for name in (*SPLITS, "all") for row in np.flatnonzero(members == name).tolist()]
    for row in order:
        if (key := compared[row]) is not None:
            places.setdefault(key, row)
    known = np.array([-1 if key is None else places.get(key, -1) for key in own], dtype=np.int64)
    split = None if splits is None else tuple(str(members[row]) if row >= 0 else "" for row in known)
    return Identity(np.array(first, dtype=np.int64), known, split)
