"""From the rollouts of a run to structures to be trusted: filtered, without duplicates, relaxed, in any format."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from ase import Atoms

from megen_gym import io, runs
from megen_gym.analysis.relax import relax as relax_structures
from megen_gym.analysis.table import Quality, quality, quality_table, render
from megen_gym.analysis.unique import Method
from megen_gym.analysis.unique import unique as group_duplicates
from megen_gym.analysis.validity import valid_clusters
from megen_gym.errors import InputError
from megen_gym.structure import BoolArray, StructureBatch, check_symbols

Mode = Literal["train", "eval", "all"]

BARE = {"--unique": "distances", "--valid_only": "true"}
"""Options that may be given without a value, and what they mean then."""


def bare_flags(arguments: Sequence[str]) -> list[str]:
    """Command line in which the options of `BARE` have a value.

    >>> bare_flags(["--unique", "--dir", "runs", "--valid_only"])
    ['--unique=distances', '--dir', 'runs', '--valid_only=true']
    """
    following = [*arguments, "--"][1:]
    return [
        f"{word}={BARE[word]}" if word in BARE and after.startswith("--") else word
        for word, after in zip(arguments, following, strict=True)
    ]


class _Sieve:
    """Structures, and a count of what was dropped and why."""

    def __init__(self, structures: list[Atoms]) -> None:
        self.structures = structures
        self.counts = [("read", len(structures))]

    def keep(self, reason: str, good: Callable[[list[Atoms]], Sequence[bool] | BoolArray]) -> None:
        """Drop the structures for which `good` is false, under the name `reason`."""
        if not self.structures:
            return
        kept = [atoms for atoms, ok in zip(self.structures, good(self.structures), strict=True) if ok]
        if len(kept) < len(self.structures):
            self.counts.append((f"dropped: {reason}", len(self.structures) - len(kept)))
        self.structures = kept


def export_structures(
    dir: str = "runs",
    symbols: str | None = None,
    mode: Mode = "eval",
    name: str | None = None,
    canvas_size: int | None = None,
    output: Path | None = None,
    unique: Method | None = None,
    tolerance: float | None = None,
    valid_only: bool = False,
    relax: str | None = None,
    relax_kwargs: dict[str, Any] | None = None,
    relax_steps: int = 200,
    fmax: float = 0.05,
    poscar: Path | None = None,
    cif: Path | None = None,
    db: Path | None = None,
) -> None:
    """Write the structures that a run built; seeds that were left unchanged are never among them.

    Args:
        dir: Folder of the runs, or one run.
        symbols: Elements that may occur, e.g. X,Ga; by default those of the run.
        mode: Structures built in training, in evaluation, or all.
        name: Id of the run; by default the newest that built structures in episodes.
        canvas_size: Leave out structures with more atoms than this.
        output: The (ext)xyz file; by default structures_<mode>.xyz in the run folder.
        unique: Leave out duplicates, found by sorted distances (also if given without a value) or by SOAP; of equal
            structures the one of lowest energy is kept.
        tolerance: Of --unique: Å between sorted distances (0.05), or 1 - SOAP similarity (2e-5).
        valid_only: Leave out structures that are not valid clusters.
        relax: Relax with this ASE calculator: lj, emt, tblite, or an import path.
        relax_kwargs: Its arguments, e.g. '{"sigma": 2.4}'.
        relax_steps: Most steps of a relaxation.
        fmax: eV/Å at which a relaxation ends.
        poscar: Folder for VASP files POSCAR_0000...
        cif: Folder for CIF files.
        db: ASE database to append to.
    """
    run = _chosen(dir, name)
    target = output or run.path / f"structures_{mode}.xyz"
    _check_names(run, target, db)
    sieve = _Sieve(_read(run, mode))
    _check_symbols(sieve.structures, symbols, run)
    sieve.keep("unchanged seed", lambda built: [len(atoms) > atoms.info["n_start"] for atoms in built])
    sieve.keep("overlap or not finite", lambda built: [io.fault(atoms) is None for atoms in built])
    sieve.keep("larger than canvas_size", lambda built: [canvas_size is None or len(a) <= canvas_size for a in built])
    quality_rows = _quality(sieve.structures)
    if valid_only:
        sieve.keep("not valid", _valid)
    if unique is not None:
        sieve.keep("duplicate", lambda built: _representatives(built, unique, tolerance))
    if relax is not None and sieve.structures:
        results = relax_structures(sieve.structures, relax, relax_kwargs, fmax=fmax, steps=relax_steps)
        reason = next((r.error for r in results if r.error), None)
        sieve.keep(f"not relaxed, e.g. {reason}", lambda built: [r.error is None for r in results])
        sieve.structures = [_mark(r.atoms, r.before, r.converged) for r in results if r.error is None]
        if valid_only:
            sieve.keep("not valid after relaxing", lambda built: valid_clusters(StructureBatch.from_atoms(built)))
        if unique is not None:
            sieve.keep("duplicate after relaxing", lambda built: _representatives(built, unique, tolerance))
    left = sieve.structures
    if not left:
        counts = ", ".join(f"{number} {reason.removeprefix('dropped: ')}" for reason, number in sieve.counts)
        raise InputError(
            f"no structure of run {run.id} is left to write ({counts}); loosen the filters or train longer"
        )
    for folder, pattern in ((poscar, io.POSCAR), (cif, io.CIF)):
        if folder is not None:
            io.check_folder(folder, pattern, len(left))
    for atoms in left:
        atoms.info["run"] = run.id
    io.write_structures(target, left)
    written = [f"{len(left)} in {target}"]
    for folder, write in ((poscar, io.write_poscars), (cif, io.write_cifs)):
        if folder is not None:
            written.append(f"{len(write(folder, left))} in {folder}")
    if db is not None:
        written.append(f"{io.write_db(db, left, run=run.id)} new in {db}")
    print(f"run {run.id}, {mode} structures")
    print(render([["", "structures"], *([reason, str(n)] for reason, n in sieve.counts), ["written", str(len(left))]]))
    print(f"\nwhat was built\n{quality_table(quality_rows)}\n\nwritten: {'; '.join(written)}")


def _check_names(run: runs.Run, target: Path, db: Path | None) -> None:
    """Refuse before any work: an ending that cannot be written, or a file that the export itself reads."""
    if io.file_format(target) != "extxyz":
        raise InputError(f"cannot write structures to {target}; expected a name that ends in .xyz or .extxyz")
    if target.resolve() in [(run.path / f"structures_{mode}.extxyz").resolve() for mode in ("train", "eval")]:
        raise InputError(f"{target} holds what the run built; choose another --output")
    if db is not None and db.suffix != ".db":
        raise InputError(f"cannot write a database to {db}; expected a name that ends in .db")


def _chosen(dir: str, name: str | None) -> runs.Run:
    """The run that is named, or the newest one that builds structures in episodes: generators beside it do not."""
    run = runs.locate(dir, name)
    if name is None and not _builds(run):
        run = next((other for other in reversed(runs.every(dir)) if _builds(other)), run)
    return run


def _builds(run: runs.Run) -> bool:
    return any((run.path / f"structures_{mode}.extxyz").is_file() for mode in ("train", "eval"))


def _read(run: runs.Run, mode: Mode) -> list[Atoms]:
    modes = ("train", "eval") if mode == "all" else (mode,)
    files = [path for one in modes if (path := run.path / f"structures_{one}.extxyz").is_file()]
    if not any(path.stat().st_size for path in files):
        others = [p.name for p in sorted(run.path.glob("structures_*.extxyz")) if p.stat().st_size]
        hint = f"it has {', '.join(others)}: choose another --mode" if others else "train with --save_rollouts=all"
        raise InputError(f"run {run.id} has no structures for mode {mode}; {hint}")
    structures = []
    for path in files:
        for index, atoms in enumerate(
            io.read_structures(path, check=False, tail="drop") if path.stat().st_size else ()
        ):
            if "n_start" not in atoms.info:
                raise InputError(
                    f"structure {index} of {path} does not say with how many atoms its episode began (n_start), so an "
                    "unchanged seed cannot be told from a built structure; add n_start to its comment line"
                )
            structures.append(atoms)
    return structures


def _check_symbols(structures: list[Atoms], symbols: str | None, run: runs.Run) -> None:
    """Refuse symbols that lack an element of the run or of its structures."""
    if symbols is None:
        return
    known = check_symbols([name.strip() for name in symbols.split(",")])
    own = run.settings.get("symbols") or ()
    needed = set(own.split(",") if isinstance(own, str) else own) - {"X"}
    needed |= {symbol for atoms in structures for symbol in atoms.symbols}
    missing = sorted(needed - set(known))
    if missing:
        raise InputError(
            f"run {run.id} builds with {', '.join(missing)}, which --symbols={symbols} does not name; "
            f"use --symbols=X,{','.join(sorted(needed))}"
        )


def _valid(structures: list[Atoms]) -> BoolArray:
    """What the run called valid (where it says so) and, without a cell, is a valid cluster."""
    batch = StructureBatch.from_atoms(structures)
    said = np.array([bool(atoms.info.get("valid", True)) for atoms in structures])
    return said if any(batch.pbc) else said & valid_clusters(batch)


def _representatives(structures: list[Atoms], method: Method, tolerance: float | None) -> BoolArray:
    order = np.argsort([io.energy_of(atoms) for atoms in structures], kind="stable")
    keep = np.zeros(len(structures), dtype=bool)
    keep[order[group_duplicates(StructureBatch.from_atoms(structures)[order], method, tolerance)[0]]] = True
    return keep


def _mark(atoms: Atoms, before: float, converged: bool) -> Atoms:
    atoms.info |= {"energy_before": before, "converged": converged}
    return atoms


def _quality(structures: list[Atoms]) -> list[Quality]:
    policies: dict[str, list[Atoms]] = {}
    for atoms in structures:
        policies.setdefault(str(atoms.info.get("policy", "unknown")), []).append(atoms)
    rows = []
    for policy, made in policies.items():
        batch = StructureBatch.from_atoms(made)
        energies = [io.energy_of(atoms) for atoms in made]
        rewards = [float(atoms.info.get("reward", np.nan)) for atoms in made]
        method: Method = "soap" if any(batch.pbc) else "distances"
        rows.append(quality(policy, batch, energies, valid=_valid(made), rewards=rewards, method=method))
    return rows
