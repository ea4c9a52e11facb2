"""Grow molecules: ``python agents/gschnet/generate.py --n_molecules 1000 --max_n_atoms 35 --condition gap=4.0``.

They go to a database in the run's folder, numbered by itself, with the log-probability of each. The last line says how
many are valid, unique and novel. Documentation: docs/gschnet.md.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent.parent)

from megen_gym.cli import console_log, listed
from megen_gym.errors import InputError, user_errors

if TYPE_CHECKING:
    from ase import Atoms

    from megen_gym.agents.gschnet.generating import Generated, Start
    from megen_gym.runs import Run

LOG = logging.getLogger("megen_gym")

CLEARANCE = 0.8
"""Of the shortest distance in the training data: nearer than this no atom of a periodic structure may be."""

ORGANIC = {"H", "B", "C", "N", "O", "F", "Si", "P", "S", "Cl", "Se", "Br", "I"}
"""Elements whose valences decide whether a molecule is valid."""


@dataclass
class Settings:
    """Grow molecules with a trained G-SchNet."""

    run: str = "newest"
    """Run folder, run id, or "newest"."""
    modeldir: str | None = None
    """The same as run."""
    dir: Path = Path("runs")
    """Folder of the run folders."""
    n_molecules: int = 100
    """Attempts; molecules that are not finished with max_n_atoms atoms are left out."""
    batch_size: int = 64
    """Molecules that grow side by side."""
    max_n_atoms: int | None = None
    """Atoms at most; by default a quarter more than the largest training molecule."""
    condition: str = ""
    """Targets, such as gap=4.0,composition=C7H10O2; may be given several times."""
    outputfile: str | None = None
    """Name in generated_molecules of the run, or a path (.db or .xyz); an existing one is appended to."""
    grid_distance_min: float | None = None
    """Å between a new atom and its focus at least; 0.7, or where no training atoms are so near, 0.9 of the shortest."""
    grid_spacing: float = 0.05
    """Å between places that are told apart."""
    temperature_term: float = 0.1
    """Places are drawn with their probability to the power of its inverse."""
    tolerance: float = 1e-3
    """Share of the probability of places that may be left out."""
    substructure: str | None = None
    """File whose first structure is on the canvas to begin with."""
    cell: str | None = None
    """Å, edges a,b,c of an empty periodic cell to grow in, for models of periodic structures."""
    substructure_finished: str = ""
    """Its atoms (indices with commas) beside which nothing may be placed."""
    keep_origin: bool = False
    """Its origin is where the centre of mass shall be; by default its own centre of mass is."""
    relax: str | None = None
    """Relax what was grown: tblite, emt, lj, or the import path of an ASE calculator."""
    relax_kwargs: dict[str, Any] = field(default_factory=dict)
    """Arguments of that calculator."""
    relax_steps: int = 200
    """Most steps."""
    evaluate: bool = True
    """Say how many are valid, unique and novel."""
    view_molecules: bool = False
    """Show them in ASE's viewer."""
    view: bool = False
    """The same as view_molecules."""
    seed: int = 0
    """Of all draws."""
    use_gpu: bool = True
    """Grow on the GPU where there is one."""
    threads: int = 1
    """CPU threads of torch."""
    progress: bool = True
    """Show a progress bar."""


@user_errors
def generate(settings: Settings) -> Path | None:
    """Grow and write molecules.

    Returns:
        The file; None where not one was finished.
    """
    import torch
    from tqdm import tqdm

    from megen_gym.agents.gschnet.asking import parse_conditions, values_of
    from megen_gym.agents.gschnet.generating import check
    from megen_gym.agents.gschnet.generating import generate as grow
    from megen_gym.agents.gschnet.model import load_model
    from megen_gym.agents.gschnet.outputs import write_molecules
    from megen_gym.agents.gschnet.sampling import Drawing
    from megen_gym.agents.nn.devices import device_of, keep_memory

    console_log()
    if not settings.temperature_term > 0 or not 0 < settings.tolerance < 1 or settings.threads < 1 or settings.seed < 0:
        raise InputError(
            f"temperature_term is {settings.temperature_term}, tolerance {settings.tolerance}, threads "
            f"{settings.threads}, seed {settings.seed}; give a temperature above 0, a tolerance between 0 and 1, at "
            "least one thread, and a seed from 0"
        )
    keep_memory()
    torch.set_num_threads(settings.threads)
    model, run = load_model(
        settings.modeldir or settings.run, settings.dir, device_of("auto" if settings.use_gpu else "cpu")
    )
    asked = parse_conditions(settings.condition)
    values = values_of(model.conditions, asked) if model.conditions or asked else None
    most = -(-5 * model.largest // 4) if settings.max_n_atoms is None else settings.max_n_atoms
    nearest = model.grid_distance_min if settings.grid_distance_min is None else settings.grid_distance_min
    clearance = CLEARANCE * model.shortest if any(model.pbc) else 0.0
    drawing = Drawing(settings.grid_spacing, nearest, settings.temperature_term, settings.tolerance, clearance)
    check_output(run, settings.outputfile)
    start = read_start(settings)
    check(model, settings.n_molecules, most, settings.batch_size, start)
    check_relax(settings)
    with tqdm(total=settings.n_molecules, unit="molecule", disable=not settings.progress) as bar:

        def report(done: Generated) -> None:
            bar.update(done.attempts - bar.n)
            bar.set_postfix_str(f"{done.failed} not finished", refresh=False)

        made = grow(
            model,
            settings.n_molecules,
            most,
            batch_size=settings.batch_size,
            drawing=drawing,
            seed=settings.seed,
            values=values,
            start=start,
            report=report,
        )
    if made.failed:
        LOG.info(f"{made.failed} of {made.attempts} were not finished with {most} atoms and are left out")
    if not made.structures:
        LOG.info("nothing was finished" + ("" if made.stopped else ": train longer, or give a larger max_n_atoms"))
        LOG.info("valid -  unique -  novel -  (n = 0)")
        stopped(made)
        return None
    structures, energies = (made.structures, {}) if made.stopped else relaxed(made.structures, settings)
    properties: dict[str, Sequence[float]] = {"log_prob": made.log_prob, "decisions": made.decisions, **energies}
    remembered = asdict(drawing) | {"seed": settings.seed, "max_n_atoms": most, "relax": settings.relax}
    remembered |= {"atom_types": list(model.network.shape.atom_types), "run": run.id}
    units = dict.fromkeys(energies, "eV")
    path = write_molecules(run.path, structures, properties, units, numbers(asked), remembered, settings.outputfile)
    LOG.info(f"{len(structures)} molecules are in {path}, mean log-probability {mean(made.log_prob):.1f}")
    stopped(made)
    if settings.view or settings.view_molecules:
        show(structures)
    if settings.evaluate:
        LOG.info(judged(structures, run, settings.progress))
    return path


def stopped(made: Generated) -> None:
    """End the process as Ctrl-C does, if that ended the growing.

    Raises:
        SystemExit: 130.
    """
    if made.stopped:
        LOG.info(f"stopped after {made.attempts} attempts")
        raise SystemExit(130)


def numbers(asked: dict[str, str]) -> dict[str, float | str]:
    """Values that are numbers as such.

    >>> numbers({"gap": "4.0", "composition": "CH4"})
    {'gap': 4.0, 'composition': 'CH4'}
    """
    found: dict[str, float | str] = {}
    for name, word in asked.items():
        try:
            found[name] = float(word)
        except ValueError:
            found[name] = word
    return found


def mean(values: Sequence[float]) -> float:
    """Of a list."""
    return sum(values) / len(values)


def check_output(run: Run, outputfile: str | None) -> None:
    """Whether molecules can be written there, before any is grown.

    Raises:
        InputError: for a name that does not fit, or a file that nothing can be appended to.
    """
    from megen_gym.agents.gschnet.outputs import metadata_of, output_path

    path = output_path(run.path, outputfile)
    if path is None or not path.exists():
        return
    if path.suffix == ".gz":
        raise InputError(f"{path} exists and is compressed, so that nothing can be appended; give another outputfile")
    if path.suffix == ".db" and path.stat().st_size:
        metadata_of(path)


def read_start(settings: Settings) -> Start | None:
    """The substructure that is asked for.

    Raises:
        InputError: for a file without structures, or atoms that are not there.
    """
    if settings.cell is not None:
        return empty_cell(settings)
    if settings.substructure is None:
        return None
    from megen_gym.agents.gschnet.generating import Start
    from megen_gym.io import read_structures

    words = listed(settings.substructure_finished)
    if not all(word.isdecimal() for word in words):
        raise InputError(f"substructure_finished is {settings.substructure_finished!r}; give indices such as 0,3")
    structures = read_structures(settings.substructure)
    return Start.of(structures[0], tuple(int(word) for word in words), settings.keep_origin)


def empty_cell(settings: Settings) -> Start:
    """Nothing, in the cell that is asked for.

    Raises:
        InputError: for a cell that cannot be read, or beside a substructure.
    """
    import numpy as np
    from ase import Atoms

    from megen_gym.agents.gschnet.generating import Start

    words = str(settings.cell).split(",")
    try:
        edges = [float(word) for word in words]
    except ValueError:
        edges = []
    if len(edges) != 3 or not all(0 < edge < np.inf for edge in edges) or settings.substructure is not None:
        raise InputError(f"cell is {settings.cell!r}; give three edges in Å, such as 8,8,12, and no substructure")
    return Start.of(Atoms(cell=edges, pbc=True))


def check_relax(settings: Settings) -> None:
    """Whether the calculator can be made, before anything is grown.

    Raises:
        InputError: if it cannot.
    """
    if settings.relax is not None:
        from megen_gym.analysis.relax import relax_one

        relax_one(settings.relax, settings.relax_kwargs, steps=settings.relax_steps)


def relaxed(structures: list[Atoms], settings: Settings) -> tuple[list[Atoms], dict[str, list[float]]]:
    """The structures after relaxation, and their energies in eV; those that the calculator fails on stay."""
    if settings.relax is None:
        return structures, {}
    from megen_gym.analysis.relax import relax

    results = relax(
        structures, settings.relax, settings.relax_kwargs, steps=settings.relax_steps, progress=settings.progress
    )
    failed = [one.error for one in results if one.error]
    if failed:
        LOG.info(f"{len(failed)} of {len(results)} molecules stay as they were grown: {failed[0]}")
    return [one.atoms for one in results], {"energy": [one.energy for one in results]}


def judged(structures: Sequence[Atoms], run: Run, progress: bool) -> str:
    """One line: how many are valid, unique, and not among the training molecules."""
    from megen_gym.analysis.molecule_report import summary

    strange = sorted({name for atoms in structures for name in atoms.symbols} - ORGANIC)
    if strange or any(atoms.pbc.any() for atoms in structures):
        return f"not judged: valences of {', '.join(strange) or 'periodic structures'} are not known"
    try:
        return summary(structures, seen(structures, run), progress=progress)
    except InputError as error:
        return f"not judged: {error}"


def seen(structures: Sequence[Atoms], run: Run) -> list[Atoms] | None:
    """Training molecules of the same formulas; None where they cannot be read any more."""
    from megen_gym.agents.gschnet.data import assemble
    from megen_gym.agents.gschnet.model import KIND
    from megen_gym.agents.gschnet.settings import Settings as Training
    from megen_gym.agents.nn.resuming import settings_of

    level = LOG.level
    try:
        LOG.setLevel("ERROR")  # what reading had to say was said in training
        data = assemble(replace(settings_of(Training, run.settings[KIND.key]), cache_path=None, progress=False), run)
    except InputError as error:
        LOG.setLevel(level)
        LOG.info(f"novelty is left out: {error}")
        return None
    finally:
        LOG.setLevel(level)
    formulas = {atoms.get_chemical_formula() for atoms in structures}
    training = data.molecules[data.parts.train].to_atoms()
    return [atoms for atoms in training if atoms.get_chemical_formula() in formulas]


def show(structures: Sequence[Atoms]) -> None:
    """In ASE's viewer, a window of its own."""
    from ase.visualize import view

    if sys.platform == "linux" and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        LOG.warning("there is no display to view molecules on; see the file elsewhere with: ase gui FILE")
        return
    view(list(structures))


def words(arguments: Sequence[str]) -> list[str]:
    """The command line with several ``--condition`` joined into one, and ``--view`` alone meaning yes.

    >>> words(["--condition", "gap=4", "--view", "--seed", "1", "--condition=n_atoms=9"])
    ['--view', 'true', '--seed', '1', '--condition', 'gap=4,n_atoms=9']
    """
    rest: list[str] = []
    asked: list[str] = []
    queue = list(arguments)
    while queue:
        word = queue.pop(0)
        if word == "--condition" and queue:
            asked.append(queue.pop(0))
        elif word.startswith("--condition="):
            asked.append(word.partition("=")[2])
        else:
            rest.append(word)
            if word in ("--view", "--view_molecules") and (not queue or queue[0].startswith("--")):
                rest.append("true")
    return [*rest, "--condition", ",".join(asked)] if asked else rest


def main() -> None:
    """Command line."""
    from megen_gym.cli import run

    sys.argv[1:] = words(sys.argv[1:])
    generate(run(Settings))


if __name__ == "__main__":
    main()
