"""``python -m megen_gym analyse gen.extxyz --reference train.extxyz``: all about generated structures at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from megen_gym import io
from megen_gym.analysis import plots
from megen_gym.analysis.alloy_report import AlloyReport
from megen_gym.analysis.angles import bond_angles, bond_cutoff
from megen_gym.analysis.apart import move_apart
from megen_gym.analysis.batches import relax_in_batches
from megen_gym.analysis.bootstrap import CONFIDENCE, REPS, SEED
from megen_gym.analysis.compare import compare
from megen_gym.analysis.energies import Energies, energy_metrics, reference_energies, relaxed_energies
from megen_gym.analysis.ensemble import Ensemble, Reference
from megen_gym.analysis.metrics import Mean, Metric, OfMeans
from megen_gym.analysis.motifs import Motifs, motif_metrics, site_motifs, write_motifs
from megen_gym.analysis.relax import calculator_factory
from megen_gym.analysis.snap import MARGIN, VACANCIES
from megen_gym.errors import InputError
from megen_gym.runs import make_folder, write_text
from megen_gym.structure import FloatArray

TABLE, MARKDOWN, MOTIFS = "comparison.csv", "comparison.md", "motifs.csv"


def analyse(
    generated: Path,
    reference: Path,
    out: Path | None = None,
    axis: int = 2,
    soap: bool = True,
    angles: bool = True,
    bond: float | None = None,
    apart: float | None = None,
    relax: str | None = None,
    relax_kwargs: dict[str, Any] | None = None,
    steps: int = 60,
    fmax: float = 0.05,
    soft_fmax: float | None = None,
    part: str = "1/1",
    workers: int = 1,
    time_limit: float | None = None,
    motifs: int = 0,
    motif_neighbours: list[str] | None = None,
    oxidation: dict[str, float] | None = None,
    sites: Path | None = None,
    margin: float = MARGIN,
    max_vacancies: float = VACANCIES,
    translate: bool = False,
    ecis: Path | None = None,
    n_reps: int = REPS,
    conf_level: float = CONFIDENCE,
    seed: int = SEED,
    progress: bool = True,
) -> None:
    """Compare generated structures with a reference of the same cell and composition.

    Usage: analyse GENERATED --reference REFERENCE. Prints a table with bootstrap intervals and, as floor, what one half
    of the reference scores against the other. With --out also CSV files and pictures. A relaxation or motifs that were
    interrupted go on when the command is repeated.

    Args:
        generated: A structure file (also .gz) or a folder of such.
        reference: The same, usually the training set.
        out: Folder for tables and pictures; needed for --relax and --motifs.
        axis: Lattice vector (0, 1, 2) along which heights are compared.
        soap: Compare SOAP descriptors.
        angles: Compare bond angles.
        bond: Longest bond in Å for the angles; by default 1.2 times the reference's median neighbour distance.
        apart: Move atoms closer than this (Å) apart first; structures where that fails are left out and counted, and
            all else is numbered without them.
        relax: Relax at fixed cell with this ASE calculator: lj, emt, tblite, or an import path.
        relax_kwargs: Its arguments, e.g. '{"asap_cutoff": true}'.
        steps: Most steps of a relaxation.
        fmax: eV/Å at which it ends.
        soft_fmax: Discard structures whose forces (eV/Å) are above this at the end.
        part: Relax only part k/m of the structures, for m jobs on one folder; the last one to end sees all of them.
        workers: Processes for the relaxation and for the motifs.
        time_limit: Seconds per relaxation.
        motifs: Number of structures of each set whose site motifs are compared (needs the extra motifs); -1 for all.
        motif_neighbours: Elements whose share among the neighbours is added to the motifs, e.g. [Cl,O].
        oxidation: Charges for the motifs, so that only opposite ions are neighbours, e.g. '{"Li": 1, "O": -2}'.
        sites: A file with the lattice sites of an alloy; its first structure is used.
        margin: Å within which an atom belongs to a site.
        max_vacancies: Share of empty sites above which an alloy is rejected.
        translate: Move alloys to the lattice as a whole first.
        ecis: Interactions of a cluster expansion, JSON or CSV.
        n_reps: Bootstrap resamples.
        conf_level: Confidence of the intervals.
        seed: Of resamples and halves.
        progress: Show progress bars.
    """
    if out is None and (relax or motifs):
        raise InputError("relaxation and motifs take long and keep what is done in a folder; add --out FOLDER")
    if ecis is not None and sites is None:
        raise InputError("a cluster expansion needs the lattice; add --sites FILE")
    if seed < 0 or n_reps < 1 or not 0 < conf_level < 1:
        raise InputError(
            f"seed {seed}, n_reps {n_reps} and conf_level {conf_level} give no intervals; give a seed of 0 or more, "
            "1 resample or more, and a confidence between 0 and 1"
        )
    if relax:
        calculator_factory(relax, relax_kwargs)
    raw, known = (io.read_structures(path, check=False) for path in (generated, reference))
    data = Reference(known, name=str(reference))
    made = data.ensemble(raw, str(generated))
    if out is not None:
        make_folder(out)
    extra: list[Metric] = []
    moved = None
    if apart is not None:
        moved = move_apart(made.batch, apart, seed=seed)
        extra.append(Mean("not to be moved apart", "%", moved.failed, np.zeros(1)))
        if moved.failed.all():
            raise InputError(f"the atoms of no structure of {generated} could be moved {apart} Å apart; lower --apart")
        made = data.ensemble(moved.accepted)
    lattice = None if sites is None else AlloyReport(sites, made, data, margin, max_vacancies, translate, ecis)
    energies = None
    if relax and out is not None:
        records = relax_in_batches(
            made.batch, out, relax, relax_kwargs, fmax=fmax, steps=steps, soft_fmax=soft_fmax, part=part,
            workers=workers, time_limit=time_limit, progress=progress,
        )  # fmt: skip
        energies = relaxed_energies(records, data, reference_energies(known))
        extra += energy_metrics(energies)
    cutoff = bond_cutoff(data) if bond is None else bond
    shares = [bond_angles(ensemble, cutoff) for ensemble in (made, data)] if angles else None
    if shares is not None:
        extra.append(OfMeans("bond angles", "", shares[0], shares[1]))
    found = None
    if motifs and out is not None:
        found = _motifs(made, data, motifs, out, motif_neighbours or [], oxidation, workers, progress)
        extra += motif_metrics(*found)
    if lattice is not None:
        extra += lattice.metrics()
    result = compare(
        made, data, axis=axis, soap=soap, extra=extra, reps=n_reps, confidence=conf_level, seed=seed, progress=progress
    )
    print(
        f"{len(made)} structures of {generated}, {len(data)} of {reference}; valid from {data.valid_distance:.3f} Å\n"
    )
    print(result.table("markdown"))
    if out is None:
        return
    write_text(out / TABLE, result.table("csv") + "\n")
    write_text(out / MARKDOWN, result.table("markdown") + "\n")
    written = [out / TABLE, out / MARKDOWN, *_pictures(out, made, data, axis, shares, cutoff, energies, found)]
    written += [] if lattice is None else lattice.write(out)
    written += [] if moved is None else [moved.write_counts(out)]
    print(f"\nwritten to {out}: {', '.join(path.name for path in written)}")


def _motifs(
    made: Ensemble,
    data: Reference,
    count: int,
    out: Path,
    neighbours: Sequence[str],
    oxidation: Mapping[str, float] | None,
    processes: int,
    progress: bool,
) -> tuple[Motifs, Motifs]:
    """Motifs of the first structures of both sets."""
    results = []
    for ensemble, name in ((made, "generated"), (data, "reference")):
        some = Ensemble(ensemble.batch[: None if count < 0 else count], like=data)
        keep = out / f"motifs_{name}.npz"
        results.append(
            site_motifs(
                some, neighbours=neighbours, oxidation=oxidation, processes=processes, keep=keep, progress=progress
            )
        )
    return results[0], results[1]


def _pictures(
    out: Path,
    made: Ensemble,
    data: Reference,
    axis: int,
    shares: Sequence[FloatArray] | None,
    cutoff: float,
    energies: Energies | None,
    found: tuple[Motifs, Motifs] | None,
) -> list[Path]:
    paths = [
        plots.plot_neighbours(made, data, out / "neighbours.png"),
        plots.plot_heights(made, data, axis, out / "heights.png"),
        plots.plot_rdf(made, data, out / "rdf.png"),
    ]
    if shares is not None:
        paths.append(plots.plot_angles(shares[0], shares[1], cutoff, out / "angles.png"))
    if energies is not None:
        paths.append(plots.plot_energies(energies, out / "energies.png"))
    if found is not None and not any(one.failed.all() for one in found):
        paths.append(plots.plot_motifs(*found, out / "motifs.png"))
        paths.append(write_motifs(found[0], found[1], out / MOTIFS))
    return paths
