"""Judge a model: ``python agents/crystal_gpt/evaluate.py --run ID --n 1000``.

Its samples are judged by the metrics of the field, each beside what real crystals reach on the same metric, and real
crystals by their likelihood under the model. Documentation: docs/crystal_gpt.md.
"""

from __future__ import annotations

import logging
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent.parent)

from megen_gym.agents.nn.options import check_bounds
from megen_gym.cli import console_log
from megen_gym.errors import InputError, user_errors

if TYPE_CHECKING:
    from collections.abc import Callable

    from ase import Atoms

    from megen_gym.agents.crystal_gpt.data import Dataset, Split
    from megen_gym.agents.crystal_gpt.model import Model
    from megen_gym.analysis.crystal_table import CrystalReport
    from megen_gym.analysis.stability_report import StabilityJudge
    from megen_gym.runs import Run


@dataclass
class Settings:
    """Judge a trained model by its samples and by the likelihood of real crystals."""

    run: str = "newest"
    """Run id, run folder, or "newest"."""
    dir: Path = Path("runs")
    """Folder of the run folders."""
    n: int = 1000
    """Crystals to draw; 0 for the likelihood alone."""
    data: str | None = None
    """File of crystals that the model has not seen; by default those that training held out."""
    spacegroup: str | None = None
    """Draw these space groups only; by default as often as in the training data."""
    temperature: float = 1.0
    """Of the draws."""
    top_p: float = 1.0
    """Of the draws."""
    min_distance: float = 0.5
    """Å; crystals with atoms nearer than this are drawn again, as sample.py does; 0 judges all draws."""
    cutoffs: Literal["perov_5", "carbon_24", "mp_20"] = "mp_20"
    """Data set whose published cut-offs of coverage count."""
    symprec: float = 0.01
    """Å, for the symmetry of samples."""
    cap: int | None = 300
    """Crystals at most for uniqueness, novelty, coverage and stability, which are slow; null for all."""
    calculator: str | None = None
    """Calculator (emt, lj, tblite, import path): judge stability too, by energies above a convex hull."""
    calculator_kwargs: dict[str, Any] | None = None
    """Its arguments, e.g. '{"method": "GFN1-xTB"}'."""
    relax_steps: int = 200
    """Most steps of the relaxation of cell and positions before that; 0 for crystals as they were drawn."""
    keep_symmetry: bool = True
    """Hold the space group while relaxing."""
    hull: Path | None = None
    """File of crystals with energies; by default those of the data, computed by the calculator, make the hull."""
    hull_cutoff: float = 0.1
    """eV per atom above the hull up to which a crystal is stable."""
    output: Path | None = None
    """Folder for evaluation.md, evaluation.csv and evaluation.png; by default the run's."""
    processes: int = 1
    """Processes for the fingerprints of coverage."""
    seed: int = 0
    """Of the draws."""
    device: str = "auto"
    """auto (CUDA where there is one), cpu, cuda, mps."""
    threads: int = 1
    """CPU threads of torch."""
    progress: bool = True
    """Show progress bars."""


@user_errors
def evaluate(settings: Settings) -> tuple[dict[str, float], CrystalReport | None]:
    """Write the judgement; nats per crystal and the report come back.

    Raises:
        InputError: for a model or data that cannot be used.
    """
    import torch

    from megen_gym.agents.crystal_gpt.generate import sample
    from megen_gym.agents.crystal_gpt.model import load_model
    from megen_gym.agents.crystal_gpt.outputs import check_output
    from megen_gym.agents.crystal_gpt.sampling import Drawing
    from megen_gym.agents.nn.devices import device_of
    from megen_gym.analysis.coverage import CUTOFFS
    from megen_gym.analysis.crystal_report import crystal_report
    from megen_gym.envs.wyckoff import load_groups
    from megen_gym.runs import make_folder, write_text

    log = console_log()
    check_bounds(settings, {1: "threads processes"})
    if not (settings.cap is None or settings.cap >= 2) or not settings.symprec > 0:
        raise InputError(f"cap is {settings.cap}, symprec {settings.symprec}; give at least 2, and a number above 0")
    if settings.output is not None:
        check_output(settings.output, 1)
    if settings.n < 0 or settings.seed < 0 or settings.temperature <= 0 or not 0 < settings.top_p <= 1:
        raise InputError("n, seed, temperature or top_p cannot be used; give 0 or more, above 0, and above 0 up to 1")
    torch.set_num_threads(settings.threads)
    model, run = load_model(settings.run, settings.dir, device_of(settings.device))
    other = None if settings.data is None else unseen(settings, run)
    if settings.n == 0 and other is not None:
        nats, sentence = likelihood(model, other)
        log.info(sentence)
        return nats, None
    split = trained_split(settings, run, log)
    held_out = split.valid if other is None else other
    if len(held_out) < 2:
        raise InputError(
            f"there are {len(held_out)} crystals to judge by; give a file of at least two with --data, or train with a "
            "larger --holdout"
        )
    nats, sentence = likelihood(model, held_out)
    log.info(sentence)
    if settings.n == 0:
        return nats, None
    judge = stability_judge(settings, split, held_out)
    groups = [] if settings.spacegroup is None else [group.number for group in load_groups(settings.spacegroup)]
    made = sample(
        model, settings.n, groups, drawing=Drawing(settings.temperature, None, settings.top_p),
        min_distance=settings.min_distance, seed=settings.seed, progress=settings.progress,
    )  # fmt: skip
    drawn = f"{made.refused} of {made.drawn} crystals were refused: atoms nearer than {settings.min_distance} Å"
    log.info(drawn)
    report = crystal_report(
        made.crystals.to_atoms(), made.crystals.group.tolist(), split.train.crystals.to_atoms(),
        held_out.crystals.to_atoms(), held_out_groups=held_out.crystals.group.tolist(),
        cutoffs=CUTOFFS[settings.cutoffs], symprec=settings.symprec, cap=settings.cap, processes=settings.processes,
        seed=settings.seed, progress=settings.progress,
    )  # fmt: skip
    if judge is not None:
        rows, notes = judge(made.crystals.to_atoms(), cap=settings.cap, seed=settings.seed, progress=settings.progress)
        report = replace(report, rows=(*report.rows, *rows), left_out=(*report.left_out, *notes))
    log.info("\n" + report.table(explain=False))
    folder = settings.output or run.path
    make_folder(folder)
    text = f"# {run.id}\n\n{sentence}. {drawn}.\n\n{report.table('markdown', explain=True)}\n"
    write_text(folder / "evaluation.md", text)
    write_text(folder / "evaluation.csv", report.table("csv") + "\n")
    plot(folder / "evaluation.png", made.crystals.to_atoms(), held_out.crystals.to_atoms())
    log.info(f"written to {folder}: evaluation.md, evaluation.csv, evaluation.png")
    return nats, report


def trained_split(settings: Settings, run: Run, log: logging.Logger) -> Split:
    """The split that the model was trained with.

    Raises:
        InputError: where the training data is gone or has changed.
    """
    from megen_gym.agents.crystal_gpt.settings import Settings as Training
    from megen_gym.agents.crystal_gpt.train import fingerprint, prepare
    from megen_gym.agents.nn.resuming import settings_of

    kept = settings_of(Training, run.settings["crystal_gpt"])
    _, split, _ = prepare(replace(kept, progress=settings.progress), log)
    seen = fingerprint(split.train.crystals)
    if run.load_state()[1].get("fingerprint", seen) != seen:
        raise InputError(
            f"the data of run {run.id} ({kept.data or 'the bundled set'}) has changed since it was trained; restore "
            "it, or train anew"
        )
    return split


def unseen(settings: Settings, run: Run) -> Dataset:
    """The crystals of the file that the user gives."""
    from megen_gym.agents.crystal_gpt.data import load
    from megen_gym.agents.crystal_gpt.settings import Settings as Training
    from megen_gym.agents.nn.resuming import settings_of

    kept = settings_of(Training, run.settings["crystal_gpt"])
    data = load(settings.data, kept.symprec, cache=kept.cache, progress=settings.progress)
    if kept.max_sites is not None:
        data = data[(data.crystals.n_sites <= kept.max_sites).nonzero()[0]]
    return data


def stability_judge(settings: Settings, split: Split, held_out: Dataset) -> StabilityJudge | None:
    """What judges stability; None without a calculator.

    Raises:
        InputError: for a hull without a calculator, or what cannot be used.
    """
    from megen_gym.analysis.stability_report import StabilityJudge

    if settings.calculator is None:
        if settings.hull is not None or settings.calculator_kwargs is not None:
            raise InputError("hull or calculator_kwargs was given without a calculator; give --calculator with it")
        return None
    return StabilityJudge(
        split.train.crystals.to_atoms(), held_out.crystals.to_atoms(), settings.calculator, settings.calculator_kwargs,
        steps=settings.relax_steps, keep_symmetry=settings.keep_symmetry, hull=settings.hull,
        cutoff=settings.hull_cutoff,
    )  # fmt: skip


def likelihood(model: Model, data: Dataset) -> tuple[dict[str, float], str]:
    """Nats per crystal in all and by part, with spreads of at least 0.001, and the sentence that says so."""
    import numpy as np

    from megen_gym.agents.crystal_gpt.network import Parts
    from megen_gym.agents.crystal_gpt.training import PUBLISHED_FLOOR

    few = data.crystals.n_sites <= model.network.shape.n_max
    if not few.any():
        raise InputError(
            f"all crystals to judge by have more than the {model.network.shape.n_max} sites of the model; give others"
        )
    parts = model.log_prob(data.crystals[few], None, PUBLISHED_FLOOR)
    table = -np.stack([part.double().numpy() for part in (parts.total, *parts)], 1)
    mean = dict(zip(("total", *Parts._fields), table.mean(0).tolist(), strict=True))
    error = table[:, 0].std() / len(table) ** 0.5
    sentence = f"{mean['total']:.3f} ± {error:.3f} nats per crystal ({len(table)} crystals, spreads at least 0.001): "
    sentence += ", ".join(f"{name} {mean[name]:.3f}" for name in Parts._fields)
    if not few.all():
        sentence += f"; {int((~few).sum())} crystals of more than {model.network.shape.n_max} sites were left out"
    return mean, sentence


def plot(path: Path, made: list[Atoms], real: list[Atoms]) -> None:
    """Draw densities, numbers of elements and atoms, and volumes per atom of samples and of real crystals."""
    import numpy as np

    from megen_gym.analysis.crystal_composition import densities, element_counts
    from megen_gym.figures import save, subplots

    figure, (axes,) = subplots(1, 4, (15, 3.4))
    measures: tuple[tuple[str, Callable[[list[Atoms]], Any], int | None], ...] = (
        ("density / g/cm³", densities, None),
        ("volume per atom / Å³", lambda some: np.array([atoms.cell.volume / len(atoms) for atoms in some]), None),
        ("elements", element_counts, 1),
        ("atoms", lambda some: np.array([len(atoms) for atoms in some]), 1),
    )
    for axis, (label, measure, step) in zip(axes, measures, strict=True):
        values = [np.asarray(measure(some), dtype=np.float64) for some in (real, made)]
        values = [value[np.isfinite(value)] for value in values]
        low, high = np.concatenate(values).min(), np.concatenate(values).max()
        bins = np.arange(low - 0.5, high + 1) if step and high - low < 60 else np.linspace(low, high + 1e-9, 40)
        for value, name, style in zip(values, ("held out", "generated"), ("stepfilled", "step"), strict=True):
            axis.hist(value, bins, density=True, histtype=style, alpha=0.5 if style == "stepfilled" else 1, label=name)
        axis.set_xlabel(label)
    axes[0].legend(fontsize=8, frameon=False)
    save(figure, path)


def main() -> None:
    """Command line."""
    from megen_gym.cli import run

    evaluate(run(Settings))


if __name__ == "__main__":
    main()
