"""Train crystal_gpt: ``python agents/crystal_gpt/train.py --data perov.csv``.

The script reads from top to bottom: settings, data, network, epochs. A run that was killed goes on with
``--resume ID``. Documentation: docs/crystal_gpt.md.
"""

from __future__ import annotations

import hashlib
import logging
import sys
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent.parent)

from megen_gym import runs
from megen_gym.agents.crystal_gpt.settings import RESUMABLE, Settings, resolved
from megen_gym.agents.nn.finding import Kind
from megen_gym.agents.nn.options import condition_names
from megen_gym.agents.nn.resuming import again, checkpoint_of, given_on_command_line, reopened, where
from megen_gym.cli import console_log
from megen_gym.errors import InputError, user_errors

if TYPE_CHECKING:
    from megen_gym.agents.crystal_gpt.data import Dataset, Split
    from megen_gym.agents.crystal_gpt.model import Model
    from megen_gym.crystals import CrystalBatch

KIND = Kind("crystal_gpt", "training of crystal_gpt", "agents/crystal_gpt/train.py", without="tune")


@user_errors
def train(settings: Settings, given: Collection[str] | None = None) -> runs.Run:
    """Train, and write everything into the run folder that comes back.

    Args:
        settings: All settings.
        given: Names of those that were set on purpose; see :func:`megen_gym.agents.nn.resuming.continued`.
    """
    import torch

    from megen_gym.agents.crystal_gpt.logs import plot_training
    from megen_gym.agents.crystal_gpt.model import Model, load_model
    from megen_gym.agents.crystal_gpt.training import Trainer
    from megen_gym.agents.nn.devices import device_of
    from megen_gym.agents.nn.epochs import part
    from megen_gym.agents.nn.events import Events
    from megen_gym.agents.nn.fitting import Plan, fit
    from megen_gym.report.folder import report_run

    log = console_log()
    asked, usual = settings, resolved(Settings(preset=settings.preset))
    run, settings = reopened(KIND, resolved(settings), usual, given, RESUMABLE)
    torch.set_num_threads(settings.threads)
    device = device_of(settings.device)
    data, split, n_max = prepare(settings, log)
    rows, seen = split.train, fingerprint(split.train.crystals)
    tensors, meta = checkpoint_of(run)
    if tensors and meta["fingerprint"] != seen:
        raise InputError(f"the data differs from that of run {settings.resume}; give the same, or train anew")
    torch.manual_seed(settings.seed)
    if tensors:
        model = Model.restore(part(tensors, "network."), meta["model"])
        model.relearn(rows.crystals, rows.names, rows.properties, settings.dropout_rate)
    elif settings.load is not None:
        model, _ = load_model(settings.load, settings.dir)
        model.check(data.crystals)
        check_loaded(asked, given, model)
        model.relearn(rows.crystals, rows.names, rows.properties, settings.dropout_rate)
    else:
        model = Model.build(settings, rows.crystals, rows.names, rows.properties, n_max)
    model.network.to(device)
    trainer = Trainer(model, rows.crystals, model.given(rows.crystals, rows.names, rows.properties), settings)
    if tensors:
        trainer.load_state(tensors, meta)
    if run is None:
        run = KIND.create(settings)
    weights = sum(p.numel() for p in model.network.parameters())
    log.info(
        f"run {run.id}: {len(rows)} crystals, {len(split.valid)} held out, {len(model.groups)} space groups, "
        f"{len(model.elements)} elements, up to {model.network.shape.n_max} sites; {weights} weights"
    )
    fit(
        trainer,
        run,
        Plan(
            settings.epochs, settings.patience, "nll", again(KIND, settings.dir),
            settings.progress, eval_freq=settings.eval_freq, save_freq=settings.save_freq,
        ),
        (lambda: trainer.judge(split.valid.crystals)) if len(split.valid) else None,
        Events(run, settings.tensorboard).add,
        {"fingerprint": seen, "model": model.describe()},
        meta if tensors else None,
    )  # fmt: skip
    finish(run, settings, len(split.valid), log)
    plot_training(run)
    report_run(run)
    return run


def prepare(settings: Settings, log: logging.Logger) -> tuple[Dataset, Split, int]:
    """The data, its split, and the number of sites that the network is made for.

    Raises:
        InputError: for data that cannot be used, or an `n_max` that is too small for it.
    """
    from megen_gym.agents.crystal_gpt.data import load, split

    data = load(settings.data, settings.symprec, cache=settings.cache, progress=settings.progress)
    for sentence in data.skipped[:10]:
        log.info(f"skipped: {sentence}")
    if len(data.skipped) > 10:
        log.info(f"skipped: {len(data.skipped) - 10} more")
    if settings.max_sites is not None:
        few = data.crystals.n_sites <= settings.max_sites
        log.info(f"left out: {int((~few).sum())} crystals of more than {settings.max_sites} sites")
        if not few.any():
            raise InputError(f"no crystal has max_sites={settings.max_sites} sites or fewer; give a larger number")
        data = data[few.nonzero()[0]]
    needed = int(data.crystals.n_sites.max())
    n_max = settings.n_max or needed
    if n_max < needed:
        raise InputError(
            f"n_max is {n_max}, but the data has a crystal of {needed} sites; give n_max={needed}, or leave larger "
            f"crystals out with max_sites={n_max}"
        )
    parts = split(data, settings.holdout, settings.seed, settings.duplicates)
    what = {"drop": "left out", "group": "kept on one side of the split", "keep": "kept"}[settings.duplicates]
    log.info(f"{len(data)} crystals, {parts.n_duplicates} of them duplicates of others ({what})")
    if settings.batchsize > len(parts.train):
        log.info(f"batchsize {settings.batchsize} is larger than the data: {len(parts.train)} crystals are one batch")
    return data, parts, n_max


def check_loaded(asked: Settings, given: Collection[str] | None, model: Model) -> None:
    """Refuse settings of the network that differ from the one that training starts from.

    Raises:
        InputError: naming the setting.
    """
    shape = model.network.shape
    has = {
        "order": shape.order, "transformer_layers": shape.layers, "num_heads": shape.heads, "key_size": shape.key,
        "model_size": shape.width, "h0_size": shape.hidden, "Nf": shape.frequencies, "Kx": shape.components,
        "Kl": shape.lattice_components, "coordinate": shape.coordinate, "floor": shape.floor, "n_max": shape.n_max,
        "conditions": ",".join(model.known.names),
    }  # fmt: skip
    defaults = Settings()
    names = given if given is not None else [n for n in has if getattr(asked, n) != getattr(defaults, n)]
    for name in has.keys() & set(names):
        value = getattr(asked, name)
        same = value == has[name]
        if name == "conditions":
            same = set(condition_names(value)) == set(model.known.names)
        if not same:
            raise InputError(
                f"{name} is {value}, but the run to load has {has[name] or 'none'}; leave --{name} out, or train anew"
            )


def fingerprint(crystals: CrystalBatch) -> str:
    """A hash of the training data, so that a run goes on with the same."""
    arrays = (crystals.group, crystals.letters, crystals.elements, crystals.coordinates, crystals.lattice)
    return hashlib.sha256(b"".join(array.tobytes() for array in arrays)).hexdigest()[:16]


def finish(run: runs.Run, settings: Settings, held_out: int, log: logging.Logger) -> None:
    """Say how good the chosen model is, and what to do next."""
    import numpy as np

    metrics = run.metrics()
    if "nll" in metrics:
        row = int(np.nanargmin(metrics["nll"]))
        parts = ", ".join(f"{name} {metrics[f'nll_{name}'][row]:.3f}" for name in ("w", "a", "xyz", "l"))
        log.info(
            f"best epoch {int(metrics['iteration'][row]) + 1}: {metrics['nll'][row]:.3f} nats per held-out crystal "
            f"({parts}; {held_out} crystals, spreads at least 0.001)"
        )
    command = f"python agents/crystal_gpt/sample.py{where(settings.dir)} --run {run.id} --n 1000"
    log.info(f"everything is in {run.path}, see report.html; next: {command}")


def main() -> None:
    """Command line."""
    from megen_gym.cli import run

    train(run(Settings), given_on_command_line())


if __name__ == "__main__":
    main()
