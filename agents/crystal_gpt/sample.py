"""Crystals from a trained model: ``python agents/crystal_gpt/sample.py --spacegroup 221 --n 1000``.

What is asked of them (composition, elements, number of atoms, letters, known sites) holds exactly; properties that the
model was trained on are aimed at. Documentation: docs/crystal_gpt.md.
"""

from __future__ import annotations

import logging
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent.parent)

from megen_gym.agents.nn.options import check_bounds
from megen_gym.cli import console_log, listed
from megen_gym.errors import InputError, user_errors

if TYPE_CHECKING:
    from megen_gym.agents.crystal_gpt.generate import Samples
    from megen_gym.agents.crystal_gpt.model import Model
    from megen_gym.structure import BoolArray


@dataclass
class Settings:
    """Draw crystals from a trained model."""

    run: str = "newest"
    """Run id, run folder, or "newest"."""
    dir: Path = Path("runs")
    """Folder of the run folders."""
    n: int = 100
    """Number of crystals."""
    output: str = "samples.extxyz"
    """File (.extxyz, .csv, .cif, .db), or folder for CIFs; several with commas between. Existing files are replaced."""
    # --- what is asked
    spacegroup: str | None = None
    """Number or symbol, or several with commas between; by default as often as in the training data."""
    elements: str | None = None
    """Elements that may occur, such as Ba,Ti,O, or a JSON file with atom_mask and constraints."""
    composition: str | None = None
    """Exact formula, in any number of units."""
    n_atoms: int | None = None
    """Atoms of the conventional cell, exactly."""
    max_atoms: int | None = None
    """Atoms of the conventional cell at most."""
    wyckoff: str | None = None
    """Letters of all sites, such as "a b c"."""
    sites: str | None = None
    """First sites, such as "a Ba 0 0 0; b Ti"; coordinates that are not given are drawn."""
    lattice: str | None = None
    """Lattice parameters in Å and degrees (all six, or the free ones), such as 4.0,4.0,4.0,90,90,90."""
    conditions: str = ""
    """Properties to aim at, such as heat_all=0.5; the model must have been trained with them."""
    guidance: float = 0.0
    """How much these conditions are overdone; 1 to 3 are usual."""
    remove_radioactive: bool = False
    """No elements without a stable isotope."""
    # --- how they are drawn
    temperature: float = 1.0
    """Below 1 nearer to what is likeliest."""
    T1: float | None = None
    """Temperature of the first site's letter and element instead."""
    top_p: float = 1.0
    """Draw letters and elements among the likeliest that together have this probability."""
    min_distance: float = 0.5
    """Å; crystals with atoms nearer than this are drawn again; 0 keeps all."""
    # --- chains
    template: str | None = None
    """Structure file, of which the first structure counts: swap elements and move atoms by chains; letters stay."""
    nsweeps: int = 10
    """Times that every site of the chains is tried."""
    mc_width: float = 0.1
    """Radians, spread of their moves."""
    init_temp: float = 1.0
    """Temperature of the first sweep."""
    end_temp: float = 1.0
    """Temperature of the last sweep."""
    reward: str | None = None
    """Reward (name or import path) that the chains look for, beside what is likely."""
    reward_kwargs: str | None = None
    """Its arguments as a JSON object, such as '{"target": 16}'."""
    alpha: float = 1.0
    """Weight of the reward."""
    # --- relaxation
    relax: str | None = None
    """Calculator (emt, lj, tblite, import path): relax what was drawn, and write it sorted by energy per atom."""
    relax_kwargs: dict[str, Any] | None = None
    """Its arguments, e.g. '{"method": "GFN1-xTB"}'."""
    relax_steps: int = 200
    """Most steps of the relaxation of cell and positions; 0 for energies alone."""
    keep_symmetry: bool = True
    """Hold the space group while relaxing."""
    # --- machine
    seed: int = 0
    """The same seed gives the same crystals."""
    device: str = "auto"
    """auto (CUDA where there is one), cpu, cuda, mps."""
    threads: int = 1
    """CPU threads of torch."""
    progress: bool = True
    """Show a progress bar."""


COLDEST = 1e-6
"""Lowest temperature."""

DRAWN_ONLY = (
    "spacegroup", "composition", "n_atoms", "max_atoms", "wyckoff", "sites", "lattice", "conditions", "guidance",
    "temperature", "T1", "top_p",
)  # fmt: skip
CHAINS_ONLY = ("reward", "reward_kwargs", "alpha", "nsweeps", "mc_width", "init_temp", "end_temp")
"""Settings that mean nothing with and without a template."""


@user_errors
def sample(settings: Settings) -> list[Path]:
    """Draw, and write the files that come back.

    Raises:
        InputError: for a model that does not exist, or what it cannot give.
    """
    import torch

    from megen_gym.agents.crystal_gpt.model import load_model
    from megen_gym.agents.crystal_gpt.outputs import check_output, write_samples
    from megen_gym.agents.crystal_gpt.relaxing import relaxed
    from megen_gym.agents.nn.devices import device_of

    log = console_log()
    check(settings)
    paths = listed(settings.output)
    for path in paths:
        check_output(path, settings.n)
    torch.set_num_threads(settings.threads)
    model, run = load_model(settings.run, settings.dir, device_of(settings.device))
    made = chains(settings, model) if settings.template is not None else drawn(settings, model)
    extra = None
    if settings.relax is not None:
        made, extra = relaxed(
            made, settings.relax, settings.relax_kwargs, steps=settings.relax_steps,
            keep_symmetry=settings.keep_symmetry, progress=settings.progress,
        )  # fmt: skip
    written = [write_samples(path, made, extra, "energy_per_atom" if extra else None) for path in paths]
    log.info(
        f"{len(made)} crystals in {len(set(made.crystals.group.tolist()))} space groups from {run.id} in "
        f"{', '.join(map(str, written))}; mean log-likelihood {made.logp.sum(1).mean():.2f} "
        f"(w {made.logp[:, 0].mean():.2f}, a {made.logp[:, 1].mean():.2f}, xyz {made.logp[:, 2].mean():.2f}, "
        f"l {made.logp[:, 3].mean():.2f})"
    )
    return written


def check(settings: Settings) -> None:
    """Refuse numbers that cannot be used.

    Raises:
        InputError: naming the setting.
    """
    check_bounds(settings, {1: "n threads nsweeps"}, above_zero="temperature T1 mc_width init_temp end_temp")
    if settings.temperature < COLDEST:
        raise InputError(f"temperature is {settings.temperature}; give at least {COLDEST:g}")
    other = DRAWN_ONLY if settings.template is not None else CHAINS_ONLY
    for name in other:
        if getattr(settings, name) != getattr(Settings(), name):
            how = "with a template" if settings.template is not None else "without a template"
            raise InputError(f"{name} was given {how}, where it means nothing; leave it out")
    if not 0 < settings.top_p <= 1:
        raise InputError(f"top_p is {settings.top_p}; give a number above 0, 1 at most")
    for name in ("seed", "guidance", "min_distance", "relax_steps"):
        if not 0 <= getattr(settings, name) < float("inf"):
            raise InputError(f"{name} is {getattr(settings, name)}; give 0 or more")
    if settings.relax is not None:
        from megen_gym.analysis.relax import calculator_factory

        calculator_factory(settings.relax, settings.relax_kwargs)


def drawn(settings: Settings, model: Model) -> Samples:
    """Crystals from an empty list, or from the sites that are given."""
    from megen_gym.agents.crystal_gpt.asking import Request, parse_lattice, parse_properties
    from megen_gym.agents.crystal_gpt.generate import sample as draw
    from megen_gym.agents.crystal_gpt.sampling import Drawing
    from megen_gym.envs.wyckoff import load_groups

    groups = [] if settings.spacegroup is None else [group.number for group in load_groups(settings.spacegroup)]
    request = Request(
        settings.elements, settings.composition, settings.n_atoms, settings.max_atoms, settings.wyckoff,
        settings.sites, settings.remove_radioactive,
    )  # fmt: skip
    lattice = None
    if settings.lattice is not None:
        if len(groups) != 1:
            raise InputError("a lattice was given without one space group; give --spacegroup with it")
        lattice = parse_lattice(settings.lattice, groups[0])
    properties = parse_properties(settings.conditions)
    if settings.guidance and not model.known.names:
        raise InputError("guidance was given for a model without conditions; leave it out, or train with --conditions")
    log = logging.getLogger("megen_gym")
    for name, value in properties.items():
        low, high = model.spread.get(name, (value, value))
        if not low <= value <= high:
            log.info(f"{name}={value:g} is outside the training data ({low:g} to {high:g})")
    foreign = [number for number in groups if number not in model.groups]
    if foreign:
        log.info(f"space group {', '.join(map(str, foreign))} is not among the training data; expect little")
    made = draw(
        model, settings.n, groups, wanted=request.wanted(model, groups), properties=properties,
        drawing=Drawing(settings.temperature, settings.T1, settings.top_p, settings.guidance),
        min_distance=settings.min_distance, lattice=lattice, seed=settings.seed, progress=settings.progress,
    )  # fmt: skip
    if made.refused:
        why = f"atoms nearer than {settings.min_distance} Å, or not completed as asked"
        log.info(f"{made.refused} of {made.drawn} were refused: {why}")
    return made


def chains(settings: Settings, model: Model) -> Samples:
    """Crystals with the letters of a template."""
    import numpy as np
    from tqdm import tqdm

    from megen_gym.agents.crystal_gpt.asking import Request, template_of
    from megen_gym.agents.crystal_gpt.encoding import ELEMENTS
    from megen_gym.agents.crystal_gpt.mcmc import Chain, run_chains
    from megen_gym.agents.crystal_gpt.rewarding import rewarded
    from megen_gym.crystals import describe
    from megen_gym.io import read_structures

    assert settings.template is not None
    start = describe(read_structures(settings.template)[0])
    template = template_of(start)
    asked = Request(settings.elements, remove_radioactive=settings.remove_radioactive).wanted(model, [])
    allowed: BoolArray = np.zeros((len(template.letters), ELEMENTS), dtype=bool)
    allowed[:, model.elements] = True
    if asked.elements is not None:
        allowed &= asked.elements
    usable = np.ones(ELEMENTS, dtype=bool) if asked.elements is None else asked.elements
    same = template.same
    if asked.template is not None:
        if len(asked.template.letters) != len(template.letters):
            raise InputError(
                f"{settings.elements} describes {len(asked.template.letters)} sites, the template has "
                f"{len(template.letters)}; give one entry for each"
            )
        allowed, same = asked.template.elements & usable, asked.template.same
    chain = Chain(settings.nsweeps, settings.mc_width, settings.init_temp, settings.end_temp)
    reward = None if settings.reward is None else rewarded(settings.reward, settings.reward_kwargs)
    with tqdm(total=settings.nsweeps, unit="sweep", disable=not settings.progress) as bar:

        def report(accepted: float, logp: float) -> None:
            bar.update()
            bar.set_postfix_str(f"accepted {accepted:.2f} log p {logp:.2f}")

        made, accepted = run_chains(
            model, start[np.zeros(settings.n, dtype=np.int64)], chain, elements=allowed, same=same, reward=reward,
            weight=settings.alpha, min_distance=settings.min_distance, seed=settings.seed, report=report,
        )  # fmt: skip
    logging.getLogger("megen_gym").info(f"{100 * accepted:.1f} % of the moves were accepted")
    return made


def main() -> None:
    """Command line."""
    from megen_gym.cli import run

    sample(run(Settings))


if __name__ == "__main__":
    main()
