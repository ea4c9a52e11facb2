"""Judge molecules: ``python agents/gschnet/evaluate.py --data molecules.extxyz --reference training.db``.

Valid, unique, novel, and as close to real molecules in composition, rings, bonds, angles and a property as another set
of real molecules is. Any file of molecules will do. Documentation: docs/gschnet.md.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent.parent)

from megen_gym.cli import console_log
from megen_gym.errors import InputError, user_errors

if TYPE_CHECKING:
    from megen_gym.analysis.molecule_identity import Identity
    from megen_gym.analysis.molecule_report import Aim
    from megen_gym.analysis.molecule_table import MoleculeReport
    from megen_gym.analysis.molecule_validity import Validity


@dataclass
class Settings:
    """Judge molecules beside real ones."""

    data: Path
    """File of the molecules to judge: ASE database, extended XYZ, trajectory, or a folder of files."""
    reference: Path | None = None
    """File of the molecules that the model was trained with; without it, only validity and uniqueness are known."""
    held_out: Path | None = None
    """File of real molecules that it has not seen; by default, parts of the reference are compared with each other."""
    compare_db_path: Path | None = None
    """Another name of --reference."""
    compare_db_split_path: Path | None = None
    """split.npz of the training: novelty against its rows of the reference, and what is in its test set is unseen."""
    compare_db_results_path: str | None = None
    """Like --results_path, for the reference."""
    output: Path | None = None
    """Folder for report.md, report.csv, molecules.csv and report.png; by default beside the data, NAME_evaluation."""
    timeout: float = 2.0
    """Seconds per molecule, after which it counts as invalid; 0 for no limit."""
    allowed_charges: list[int] | None = None
    """Total charges, tried in this order (default 0); others than 0 only with --allow_charged_fragments true."""
    allow_charged_fragments: bool = False
    """Put formal charges on atoms, not unpaired electrons."""
    allow_radical_electrons: bool = False
    """Accept unpaired electrons."""
    compute_ring_statistics: bool = True
    """Rings by size as columns of the tables per molecule."""
    ignore_enantiomers: bool = False
    """A molecule and its mirror image are the same."""
    ignore_isomerism: bool = False
    """All stereoisomers are the same molecule."""
    results_path: str | None = None
    """File (.csv, .json) of verdicts per molecule: what it has of these molecules is not computed again; "auto" for
    NAME_validity.csv beside the data."""
    force_recomputation: bool = False
    """Replace what the results files hold."""
    results_db_path: str | None = None
    """ASE database (.db) for the valid unique molecules; "auto" for NAME_valid.db beside the data."""
    sort: bool = True
    """Order that database by size and composition."""
    write_to_input_db: bool = False
    """Write smiles and data["validity"] into the rows of the data, an ASE database."""
    property: Literal["gap", "homo", "lumo", "energy", "energy_per_atom", "dipole"] | None = None
    """Compute this property of the valid molecules, and of as many real ones."""
    method: str = "GFN2-xTB"
    """How: GFN2-xTB, GFN1-xTB or IPEA1-xTB."""
    target: float | None = None
    """Value of the property that was asked for, in eV (dipole: e Å)."""
    window: float = 0.5
    """Largest difference from it that counts as a hit, likewise."""
    workers: int = 1
    """Processes that judge the validity."""
    seed: int = 0
    """Of the draws of real molecules."""
    progress: bool = True
    """Show progress bars."""


@user_errors
def evaluate(settings: Settings) -> tuple[Validity, MoleculeReport | None]:
    """Write the judgement; the verdict on each molecule and the report (None without a reference) come back.

    Raises:
        InputError: for files that cannot be read, options that exclude each other, or missing packages.
    """
    from megen_gym.analysis.molecule_bonds import BondRules
    from megen_gym.analysis.molecule_identity import identify, keys
    from megen_gym.analysis.molecule_plots import plot_report
    from megen_gym.analysis.molecule_report import report, summary
    from megen_gym.analysis.molecule_store import annotate_db, judge, read_splits, write_molecules, write_results
    from megen_gym.io import read_structures
    from megen_gym.runs import make_folder, write_text

    log = console_log()
    rules = BondRules(
        tuple(settings.allowed_charges or (0,)), settings.allow_charged_fragments, settings.allow_radical_electrons
    )
    compared, aim, results = checked(settings), aim_of(settings), beside(settings.data, settings.results_path, "csv")
    names = {"ignore_enantiomers": settings.ignore_enantiomers, "ignore_isomerism": settings.ignore_isomerism}
    how: dict[str, Any] = {"timeout": settings.timeout, "workers": settings.workers, "progress": settings.progress}
    samples = read_structures(settings.data, check=False)
    real = None if compared is None else read_structures(compared, check=False)
    held_out = None if settings.held_out is None else read_structures(settings.held_out, check=False)
    split_file = settings.compare_db_split_path
    splits = None if split_file is None or compared is None else read_splits(split_file, compared)
    folder = settings.output or settings.data.with_name(f"{stem(settings.data)}_evaluation")
    make_folder(folder)

    verdict = judge(samples, rules, results, force=settings.force_recomputation, **how)
    data_results = None if compared is None else beside(compared, settings.compare_db_results_path, "csv")
    known = None if real is None else judge(real, rules, data_results, force=settings.force_recomputation, **how)
    if known is not None and real is not None and data_results is not None:
        write_results(data_results, real, known, rules)
    other = None if held_out is None else judge(held_out, rules, **how)
    found = identify(keys(verdict.smiles, **names), [] if known is None else keys(known.smiles, **names), splits)
    columns = per_molecule(verdict, found, known is not None, settings.compute_ring_statistics)
    for path in (folder / "molecules.csv", results):
        if path is not None:
            write_results(path, samples, verdict, rules, columns)
    if (database := beside(settings.data, settings.results_db_path, "db")) is not None:
        rows = found.unique.nonzero()[0].tolist()
        write_molecules(database, [samples[row] for row in rows], [verdict.smiles[row] for row in rows], settings.sort)
        log.info(f"{len(rows)} valid unique molecules: {database}")
    if settings.write_to_input_db:
        annotate_db(settings.data, verdict, progress=settings.progress)
    judged = None
    if real is not None:
        judged = report(
            samples, real, held_out, validity=verdict, reference_validity=known, held_out_validity=other,
            splits=splits, aim=aim, seed=settings.seed, **names,
        )  # fmt: skip
        log.info("\n" + judged.table(kinds=True) + "\n")
        text = f"# {settings.data.name} beside {compared}\n\n{judged.table('markdown', kinds=True, explain=True)}\n"
        write_text(folder / "report.md", text)
        write_text(folder / "report.csv", judged.table("csv", kinds=True) + "\n")
    values = None if judged is None else judged.values
    plot_report(folder / "report.png", (samples, verdict), None if known is None else (real or [], known), values, aim)
    for word, count in verdict.reasons.items():
        log.info(f"{count} of {len(samples)} invalid: {word}")
    if (late := verdict.reasons.get("timeout")) is not None:
        log.info(f"{late} molecules were given up after {settings.timeout:g} s; a larger --timeout may decide them")
    log.info(f"written to {folder}")
    log.info(summary(samples, real, validity=verdict, reference_validity=known, splits=splits, **names))
    return verdict, judged


def checked(settings: Settings) -> Path | None:
    """The file to compare with, after a look at the options that depend on each other."""
    if settings.compare_db_path is not None and settings.reference not in (None, settings.compare_db_path):
        raise InputError(
            f"compare_db_path is {settings.compare_db_path}, reference {settings.reference}; they mean the same, "
            "give one"
        )
    compared = settings.reference or settings.compare_db_path
    for name in ("held_out", "compare_db_split_path", "compare_db_results_path", "property"):
        if compared is None and getattr(settings, name) is not None:
            raise InputError(f"{name} was given without a reference to compare with; give --reference too")
    if settings.target is not None and settings.property is None:
        raise InputError(f"the target {settings.target} was given without its property; give --property gap")
    if (database := beside(settings.data, settings.results_db_path, "db")) in (settings.data, compared) and database:
        raise InputError(f"the results database {database} would replace a file that is read; give another path")
    if settings.write_to_input_db and settings.data.suffix != ".db":
        raise InputError(f"write_to_input_db needs an ASE database, {settings.data} is none; give data in a .db file")
    return compared


def aim_of(settings: Settings) -> Aim | None:
    """The property to compute; refuses a method that is unknown, or a missing package, before any work."""
    from megen_gym.analysis.molecule_property import UNITS, xtb_property
    from megen_gym.analysis.molecule_report import Aim

    if settings.property is None:
        return None
    computed = xtb_property(settings.property, settings.method, progress=settings.progress)
    return Aim(computed, settings.property, UNITS[settings.property], settings.target, settings.window)


def stem(path: Path) -> str:
    """The name of a file without its ending."""
    return path.name.partition(".")[0]


def beside(data: Path, given: str | None, kind: str) -> Path | None:
    """The path that was given, "auto" being a name beside the data; for kind csv, .csv and .json are accepted."""
    if given is None:
        return None
    automatic = data.with_name(f"{stem(data)}_{'validity' if kind == 'csv' else 'valid'}.{kind}")
    path = automatic if given == "auto" else Path(given)
    endings = (".csv", ".json") if kind == "csv" else (".db",)
    if path.suffix not in endings:
        raise InputError(f"{path} has no known ending for results; give a name that ends in {' or '.join(endings)}")
    return path


def per_molecule(verdict: Validity, found: Identity, compared: bool, rings: bool) -> dict[str, list[Any]]:
    """Columns of the table per molecule."""
    from megen_gym.analysis.molecule_rings import RINGS, ring_counts

    columns: dict[str, list[Any]] = {"unique": found.unique.astype(int).tolist(), "same_as": found.first.tolist()}
    if compared:
        columns["reference_row"] = found.known.tolist()
    if found.split is not None:
        columns["split"] = list(found.split)
    if rings:
        columns |= dict(zip(RINGS, ring_counts(verdict.readings).T.tolist(), strict=True))
    return columns


def main() -> None:
    """Command line."""
    from megen_gym.cli import run

    evaluate(run(Settings))


if __name__ == "__main__":
    main()
