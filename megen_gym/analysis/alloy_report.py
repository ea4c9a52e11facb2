"""What ``analyse --sites FILE`` says about an alloy: metrics, tables and pictures."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ase import Atoms

from megen_gym import io
from megen_gym.analysis import plots
from megen_gym.analysis.alloy import (
    alloy_metrics,
    cluster_names,
    cluster_probabilities,
    expansion_energy,
    neighbour_shells,
    read_ecis,
    warren_cowley,
)
from megen_gym.analysis.ensemble import Ensemble, Reference
from megen_gym.analysis.metrics import Mean, Metric
from megen_gym.analysis.snap import Occupation, check_cell, snap
from megen_gym.runs import write_text
from megen_gym.structure import FloatArray


@dataclass
class AlloyReport:
    """Both sets snapped to one lattice, and what follows from that.

    Attributes:
        path: File with the lattice sites; its first structure is used.
        made: Generated structures.
        data: Reference.
        margin: Å within which an atom belongs to a site.
        max_vacancies: Share of empty sites above which a structure is rejected.
        translate: Whether structures are moved to the lattice as a whole first.
        ecis: File with the interactions of a cluster expansion.
    """

    path: Path
    made: Ensemble
    data: Reference
    margin: float
    max_vacancies: float
    translate: bool
    ecis: Path | None

    def __post_init__(self) -> None:
        sites: Atoms = io.read_structures(self.path)[0]
        check_cell(self.data.batch, sites)
        self.shells = neighbour_shells(sites)
        self.interactions = None if self.ecis is None else read_ecis(self.ecis)
        self.own, self.other = (self._snap(ensemble, sites) for ensemble in (self.made, self.data))
        self.probabilities = [cluster_probabilities(one, self.shells)[one.accepted] for one in (self.own, self.other)]

    def _snap(self, ensemble: Ensemble, sites: Atoms) -> Occupation:
        return snap(ensemble.batch, sites, self.margin, self.max_vacancies, self.translate)

    @property
    def comparable(self) -> bool:
        """Whether both sets have accepted structures."""
        return all(len(one) > 0 for one in self.probabilities)

    def energies(self) -> list[FloatArray]:
        """eV per site of the accepted structures, generated and reference."""
        assert self.interactions is not None
        symbols = self.own.symbols
        return [expansion_energy(one, symbols, self.shells, self.interactions) for one in self.probabilities]

    def metrics(self) -> list[Metric]:
        """Rejected, vacancies, cluster probabilities and, with interactions, the mean energy."""
        metrics = alloy_metrics(self.own, self.other, self.shells)
        if self.interactions is not None and self.comparable:
            metrics.append(Mean("cluster-expansion energy", "eV/site", *self.energies()))
        return metrics

    def write(self, out: Path) -> list[Path]:
        """Mean probabilities and short-range order as CSV, vacancies, and pictures."""
        rows = zip(self.own.vacancies.tolist(), self.own.removed.tolist(), self.own.accepted.tolist(), strict=True)
        lines = [f"{i},{vacancies},{removed},{accepted}" for i, (vacancies, removed, accepted) in enumerate(rows)]
        write_text(out / "vacancies.csv", "\n".join(["structure,vacancies,removed,accepted", *lines]) + "\n")
        paths = [out / "vacancies.csv"]
        if not self.comparable:
            return paths
        names = cluster_names(self.own.symbols)
        own, other = (one.mean(axis=0) for one in self.probabilities)
        order = [warren_cowley(one, self.own.symbols) for one in self.probabilities]
        lines = [f"probability,{name},{own[i]:.6g},{other[i]:.6g}" for i, name in enumerate(names)]
        lines += [f"warren_cowley,{name},{order[0][name].mean():.6g},{order[1][name].mean():.6g}" for name in order[0]]
        write_text(out / "clusters.csv", "\n".join(["quantity,cluster,generated,reference", *lines]) + "\n")
        paths += [out / "clusters.csv", plots.plot_order(order[0], order[1], out / "short_range_order.png")]
        if self.interactions is not None:
            paths.append(plots.plot_expansion(self.energies()[0], self.energies()[1], out / "cluster_expansion.png"))
        return paths
