"""``python -m megen_gym compare``: policies side by side, with the same budget of energy evaluations."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from megen_gym import runs
from megen_gym.arena.cell import Cell, labelled, load_outcome
from megen_gym.arena.results import CELLS, COMPARISON, load_comparison, read_reference
from megen_gym.arena.workers import play_cells
from megen_gym.cli import console_log, listed
from megen_gym.errors import InputError

if TYPE_CHECKING:
    from megen_gym.arena.results import Played

log = logging.getLogger("megen_gym")


def compare(
    env: str = "GaCluster-v0",
    n: str | None = None,
    policies: str = "random,greedy,basin_hopping",
    budget: int = 1000,
    seeds: str = "0",
    output: Path = Path("comparison"),
    *,
    rewards: str | None = None,
    env_kwargs: dict[str, Any] | None = None,
    reward_kwargs: dict[str, Any] | None = None,
    policy_kwargs: dict[str, dict[str, Any]] | None = None,
    relax: bool = True,
    fmax: float = 0.05,
    window: float | None = None,
    known_minimum: float | None = None,
    tolerance: float = 1e-3,
    reference: Path | None = None,
    jobs: int = 1,
    dir: Path = Path("runs"),
    retry: bool = False,
    progress: bool = True,
) -> Path:
    """Compare policies on the same environments, with the same budget of energy evaluations.

    Every energy, with or without forces, is counted where it is computed: those of relaxations, of a greedy policy's
    candidates and of basin hopping alike. Finished comparisons and those that were stopped go on when the same command
    is given again; cells that are done are not played twice. A policy that fails costs its own rows only.

    Example: python -m megen_gym compare --env LJCluster-v0 --n 13 --policies random,regrow,basin_hopping --budget 2000
    --seeds 0,1,2 --output lj13

    Args:
        env: Ids of environments, separated by commas.
        n: Sizes, separated by commas; for environments that have an argument n.
        policies: Names separated by commas, see python -m megen_gym policies; NAME@RUN for a trained one (a run's id,
            its folder, or newest), module:function for one of your own; LABEL=NAME for one that competes more than
            once, with different options.
        budget: Energy evaluations of each policy, environment and seed.
        seeds: Numbers separated by commas.
        output: Folder of the comparison.
        rewards: Names of rewards, separated by commas; those of the environments by default.
        env_kwargs: Further arguments of the environments (JSON).
        reward_kwargs: Arguments of the rewards (JSON).
        policy_kwargs: Options by policy or label (JSON), e.g. '{"greedy": {"k": 20}}'.
        relax: Relax what policies have built, where the reward has forces.
        fmax: eV/Å (epsilon/Å under lennard_jones), largest component of a force in what counts as relaxed.
        window: eV above the best known value within which minima are counted (by atom where sizes differ); by default a
            tenth of its size.
        known_minimum: eV, what counts as found; by default what the reward knows (lennard_jones).
        tolerance: eV (or epsilon), energies up to this above the known minimum are hits.
        reference: File of known structures, for the share of novel ones.
        jobs: Processes.
        dir: Folder of the runs.
        retry: Play cells again that failed.
        progress: Show a progress bar.

    Returns:
        The folder, with table.md, table.csv, seeds.csv, comparison.png, structures.extxyz and report.html.

    Raises:
        InputError: before anything is played: for a policy that does not fit an environment, and values out of range.
    """
    from megen_gym.agents.registry import parse

    console_log()
    if jobs < 1:
        raise InputError(f"jobs is {jobs}; give 1 or more processes")
    if window is not None and not 0 < window < float("inf"):
        raise InputError(f"window is {window}; give a number of eV above 0")
    names = _words(policies, "policies")
    labels = {name: labelled(name) for name in names}
    for _, spec in labels.values():
        parse(spec)
    if len({label for label, _ in labels.values()}) < len(names):
        raise InputError(f"policies is {policies!r}, which gives one label twice; give each its own")
    options = policy_kwargs or {}
    if strange := sorted(set(options) - {label for label, _ in labels.values()}):
        raise InputError(f"policy_kwargs names {', '.join(strange)}, which is not among the policies {policies}")
    tasks = _tasks(env, n, rewards, env_kwargs or {}, reward_kwargs)
    entrants = {name: _entrant(spec, options.get(label, {}), dir) for name, (label, spec) in labels.items()}
    if known_minimum is not None and len(tasks) > 1:
        raise InputError(f"known_minimum {known_minimum} was given for {len(tasks)} tasks; compare them one by one")
    cells = [
        Cell(
            one, arguments, policy, seed, budget, entrants[policy][0], relax, fmax, known_minimum, tolerance,
            *entrants[policy][1:],
        )
        for seed in _numbers(seeds, "seeds")
        for one, arguments in tasks
        for policy in names
    ]  # fmt: skip
    if reference is not None:
        read_reference(reference)
    _check(cells)
    _check_folder(output, cells)
    runs.make_folder(output)
    settings = {
        "budget": budget,
        "window": window,
        "reference": None if reference is None else str(reference),
        "cells": [asdict(cell) for cell in cells],
    }
    runs.write_text(output / COMPARISON, json.dumps(settings, indent=1) + "\n")
    _play(output, cells, jobs, retry, progress)
    played = write_results(output)
    if all(one.row.error for one in played):
        raise InputError(f"every policy failed, the first one by: {played[0].row.error}; see {output / 'table.md'}")
    return output


def write_results(folder: Path) -> list[Played]:
    """Tables, curves, structures and report of a folder whose cells are done; what they are made of."""
    from megen_gym.arena.curves import panels, plot
    from megen_gym.arena.page import lowest, report_of_comparison
    from megen_gym.arena.tables import notes, policies_table, write_tables
    from megen_gym.io import write_structures
    from megen_gym.report import write_report

    settings, played = load_comparison(folder)
    write_tables(folder, settings, played)
    if shown := panels(played):
        plot(folder / "comparison.png", shown)
    if structures := lowest(played):
        write_structures(folder / "structures.extxyz", structures)
    write_report(report_of_comparison(folder), folder / "report.html")
    log.info("\n".join([policies_table(played, "text"), "", *notes(settings, played)]))
    log.info(f"everything is in {folder}; open {folder / 'report.html'}")
    return played


def _words(text: str, what: str) -> list[str]:
    words = listed(text)
    if not words or len(set(words)) < len(words):
        raise InputError(f"{what} is {text!r}; give one or more different ones, separated by commas")
    return words


def _numbers(text: str, what: str) -> list[int]:
    words = _words(str(text).strip("[]() "), what)
    if not all(word.isascii() and word.isdigit() and len(word) <= 9 for word in words):
        raise InputError(f"{what} is {text!r}; give whole numbers from 0 up to 999999999, separated by commas")
    numbers = [int(word) for word in words]
    if len(set(numbers)) < len(numbers):
        raise InputError(f"{what} is {text!r}, which names a number twice; name each once")
    return numbers


def _tasks(
    env: str, n: str | None, rewards: str | None, env_kwargs: dict[str, Any], reward_kwargs: dict[str, Any] | None
) -> list[tuple[str, dict[str, Any]]]:
    """Environments and their arguments."""
    if n is not None and "n" in env_kwargs:
        raise InputError(f"n is {n!r}, and env_kwargs says {env_kwargs['n']}; give one of them")
    sizes: Sequence[dict[str, Any]] = [{}] if n is None else [{"n": size} for size in _numbers(n, "n")]
    judges: Sequence[dict[str, Any]] = [{}] if rewards is None else [{"reward": r} for r in _words(rewards, "rewards")]
    more = {} if reward_kwargs is None else {"reward_kwargs": reward_kwargs}
    return [
        (one, {**size, **env_kwargs, **judge, **more})
        for one in _words(env, "env")
        for size in sizes
        for judge in judges
    ]


def _trained(policy: str, dir: Path) -> tuple[str, str]:
    """Folder of a policy's run and digest of its weights, empty where there is none."""
    from megen_gym.agents.registry import run_folder

    path = run_folder(policy, dir)
    if path is None or not (path / runs.WEIGHTS).is_file():
        return "" if path is None else str(path), ""
    return str(path), hashlib.sha256((path / runs.WEIGHTS).read_bytes()).hexdigest()[:16]


def _entrant(spec: str, options: dict[str, Any], dir: Path) -> tuple[dict[str, Any], str, str]:
    """Options of a policy, the folder of its run, and a digest of all weights: those of a policy within its options
    (regrow's) are among them."""
    run, weights = _trained(spec, dir)
    inner = options.get("policy")
    if isinstance(inner, str) and "@" in inner:
        folder, more = _trained(inner, dir)
        options, weights = options | {"policy": f"{inner.partition('@')[0]}@{folder}"}, weights + more
    return options, run, weights


def _check_folder(folder: Path, cells: Sequence[Cell]) -> None:
    """Leave folders alone that hold something else.

    Raises:
        InputError: for a folder with files that is no comparison, or one of other environments or another budget. One
            whose comparison.json is damaged is written anew.
    """
    if not folder.is_dir() or not any(folder.iterdir()):
        return
    if not (folder / COMPARISON).is_file():
        raise InputError(f"{folder} holds files and no comparison; give a new folder")
    try:
        there = json.loads((folder / COMPARISON).read_text())["cells"]
        tasks = [
            {(one["env"], json.dumps(one["arguments"]), one["budget"]) for one in some}
            for some in (there, map(asdict, cells))
        ]
    except (ValueError, KeyError, TypeError):
        return
    if tasks[0].isdisjoint(tasks[1]):
        raise InputError(f"{folder} holds a comparison of other environments or another budget; give a new folder")


def _check(cells: Sequence[Cell]) -> None:
    """Make every policy for every environment once.

    Raises:
        InputError: for the first that does not fit.
    """
    seen = set()
    for cell in cells:
        key = (cell.task, cell.policy)
        if key not in seen:
            seen.add(key)
            cell.entrant(cell.problem())


def _play(folder: Path, cells: Sequence[Cell], jobs: int, retry: bool, progress: bool) -> None:
    from tqdm import tqdm

    def waits(cell: Cell) -> bool:
        outcome = load_outcome(folder / CELLS / cell.key)
        return outcome is None or (retry and bool(outcome.error))

    waiting = [cell for cell in cells if waits(cell)]
    if len(waiting) < len(cells):
        log.info(f"{len(cells) - len(waiting)} of {len(cells)} cells are done already")
    if not waiting:
        return
    made = {cell.key: cell.budget for cell in cells if cell not in waiting}
    total = sum(cell.budget for cell in cells)
    with tqdm(
        total=total, initial=sum(made.values()), desc="evaluations", unit="", disable=not progress, unit_scale=True
    ) as bar:

        def told(key: str, used: int) -> None:
            made[key] = max(used, made.get(key, 0))
            bar.update(sum(made.values()) - bar.n)

        try:
            play_cells([(cell, folder / CELLS / cell.key) for cell in waiting], jobs, told)
        except KeyboardInterrupt:
            bar.close()
            log.info(f"stopped; what is done is in {folder}: the same command goes on from there")
            raise SystemExit(130) from None
