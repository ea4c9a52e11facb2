"""Ions that solids are made of, and the neutral compositions of them that the bundled polymorphs have.

Radii are Shannon's for six neighbours (Acta Cryst. A 32, 751, 1976), electronegativities Pauling's; both come with
pymatgen.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from functools import lru_cache
from itertools import product

from megen_gym.errors import require

CATIONS = {
    1: "Li Na K Rb Cs Cu Ag Tl Hg",
    2: "Be Mg Ca Sr Ba Ti V Cr Mn Fe Co Ni Cu Zn Ge Pd Cd Sn Eu Yb Pt Hg Pb",
    3: "B Al Sc Ti V Cr Mn Fe Co Ga Y Ru Rh In Sb La Ce Pr Nd Sm Eu Gd Tb Dy Ho Er Tm Yb Lu Au Tl Bi",
    4: "Si Ti V Mn Ge Zr Nb Mo Ru Sn Te Ce Hf W Re Os Ir Pt Pb Th U",
    5: "V Nb Mo Sb Ta W Bi U",
    6: "Mo W Re U",
}
"""By charge, those met in solids."""

ANIONS = {-1: "F Cl Br I", -2: "O S Se Te", -3: "N"}

_RADII = {("Sn", 2): 1.18, ("N", -3): 1.46}
"""Å, where Shannon's table has none for six neighbours: Sn2+ (from SnO), N3- (four neighbours)."""

POLAR = 0.8
"""Pauling's scale: by this every anion exceeds every cation."""

TYPES: dict[str, tuple[tuple[int, ...], tuple[tuple[int, ...], ...], int]] = {
    "AX": ((1, 1), ((1, -1), (2, -2), (3, -3)), 200),
    "AX2": ((1, 2), ((2, -1), (4, -2), (-2, 1)), 200),
    "AX3": ((1, 3), ((3, -1), (6, -2), (-3, 1)), 200),
    "A2X3": ((2, 3), ((3, -2), (-3, 2)), 40),
    "ABX": ((1, 1, 1), ((1, 2, -3), (2, -1, -1), (3, -1, -2)), 120),
    "ABX2": ((1, 1, 2), ((1, 3, -2), (1, 1, -1)), 140),
    "ABX3": ((1, 1, 3), ((1, 5, -2), (2, 4, -2), (3, 3, -2), (1, 2, -1)), 180),
    "AB2X4": ((1, 2, 4), ((2, 3, -2), (4, 2, -2), (6, 1, -2)), 40),
}
"""Of a formula type: how many of each ion, their charges, and how many compositions are taken at most."""

FAMILIAR = """
SrTiO3 BaTiO3 CaTiO3 MgTiO3 CaZrO3 BaZrO3 NaNbO3 KNbO3 LiNbO3 KTaO3 LaAlO3 YAlO3 LaFeO3 KMgF3 NaMgF3 CsCaCl3
LiCoO2 NaFeO2 LiAlO2 LiGaO2 LiScO2 NaLaS2 MgAl2O4 ZnFe2O4 Mg2SiO4 LiMgN LiZnN LiCaN NaCaN SrClF BaClF BaBrF
CaClF LaOF BiOF YOF Al2O3 Cr2O3 Fe2O3 Sc2O3 Y2O3 La2O3 In2O3 Ga2O3 Mg3N2 Ca3N2
"""
"""Taken first, where they belong to a type with too many."""


@dataclass(frozen=True)
class Ion:
    """Symbol, charge, radius in Å and electronegativity (Pauling)."""

    symbol: str
    charge: int
    radius: float
    strength: float


Composition = tuple[Ion, ...]
"""An ion of each kind, in the order of its formula type."""


@lru_cache(maxsize=1)
def ions() -> tuple[Ion, ...]:
    """All of CATIONS and ANIONS.

    Raises:
        InputError: where pymatgen is not installed.
    """
    try:
        from pymatgen.core import Element, Species
    except ImportError:
        require("pymatgen", "crystals")
    found = []
    for charge, symbols in (CATIONS | ANIONS).items():
        for symbol in symbols.split():
            radius = _RADII.get((symbol, charge))
            if radius is None:
                table = Species(symbol, charge).data["Shannon radii"][str(charge)]["VI"]
                radius = float((table.get("High Spin") or next(iter(table.values())))["ionic_radius"])
            found.append(Ion(symbol, charge, radius, float(Element(symbol).X)))
    return tuple(found)


def compositions(kind: str) -> list[Composition]:
    """Ions of the compositions of a formula type; of too many the familiar, then those of smallest checksum."""
    counts, charges, most = TYPES[kind]
    found: dict[str, Composition] = {}
    for wanted in charges:
        for chosen in product(*([ion for ion in ions() if ion.charge == charge] for charge in wanted)):
            cations = [ion.strength for ion in chosen if ion.charge > 0]
            anions = [ion.strength for ion in chosen if ion.charge < 0]
            polar = max(cations) + POLAR <= min(anions)
            if polar and len({ion.symbol for ion in chosen}) == len(chosen):
                found.setdefault(formula_of(chosen, counts), chosen)
    ranked = sorted(found, key=lambda name: (name not in FAMILIAR.split(), zlib.crc32(name.encode())))[:most]
    return [found[formula] for formula in sorted(ranked)]


def formula_of(chosen: Composition, counts: tuple[int, ...]) -> str:
    """Symbols by electronegativity, as in BaTiO3.

    >>> formula_of((Ion("Ti", 4, 0.6, 1.54), Ion("O", -2, 1.4, 3.44)), (1, 2))
    'TiO2'
    """
    parts = sorted((ion.strength, ion.symbol, count) for ion, count in zip(chosen, counts, strict=True))
    return "".join(symbol + (str(count) if count > 1 else "") for _, symbol, count in parts)
