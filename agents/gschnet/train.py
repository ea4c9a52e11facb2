"""Train G-SchNet: ``python agents/gschnet/train.py --data molecules.db --conditions gap``.

The script reads from top to bottom: settings, data, network, epochs. A run that was killed goes on with
``--resume ID``. Documentation: docs/gschnet.md.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent.parent)

from megen_gym import runs
from megen_gym.agents.gschnet.settings import RESUMABLE, Settings, numbers_of, resolved
from megen_gym.agents.nn.options import condition_names
from megen_gym.agents.nn.resuming import again, checkpoint_of, given_on_command_line, reopened, where
from megen_gym.cli import console_log
from megen_gym.errors import InputError, user_errors

if TYPE_CHECKING:
    from megen_gym.agents.gschnet.model import Model

SIZES = (
    "model", "features", "n_interactions", "n_rbf", "head_layers", "head_hidden", "n_bins",
    "average_type_distributions", "origin_type", "focus_type", "stop_type",
)  # fmt: skip
"""Settings that a loaded network has already, by the names of its shape."""


@user_errors
def train(settings: Settings, given: Collection[str] | None = None) -> runs.Run:
    """Train, and write everything into the run folder that comes back.

    Args:
        settings: All settings.
        given: Names of those that were set on purpose; see :func:`megen_gym.agents.nn.resuming.continued`.
    """
    import torch

    from megen_gym.agents.gschnet.data import assemble
    from megen_gym.agents.gschnet.logs import plot_training
    from megen_gym.agents.gschnet.model import TRAINING, Model, load_model
    from megen_gym.agents.gschnet.properties import RelativeEnergy
    from megen_gym.agents.gschnet.training import Trainer
    from megen_gym.agents.nn.devices import device_of, keep_memory
    from megen_gym.agents.nn.epochs import part
    from megen_gym.agents.nn.events import Events
    from megen_gym.agents.nn.fitting import Plan, fit
    from megen_gym.report.folder import report_run

    log = console_log()
    settings, usual = resolved(settings), resolved(Settings(preset=settings.preset))
    if settings.id is not None and settings.resume is None and (settings.dir / settings.id / runs.CONFIG).is_file():
        settings = replace(settings, resume=settings.id)
    given = None if given is None else {"datapath" if name == "data" else name for name in given}
    run, settings = reopened(TRAINING, settings, usual, given, RESUMABLE)
    keep_memory()
    torch.set_num_threads(settings.threads)
    device = device_of("cuda" if settings.accelerator == "gpu" else settings.accelerator)
    tensors, meta = checkpoint_of(run)
    kept = meta["model"]["relative"] if tensors else None
    torch.manual_seed(settings.seed)
    loaded = None
    if settings.load is not None and not tensors:
        loaded, _ = load_model(settings.load, settings.dir)
        check_loaded(settings, loaded)
        kept = None if loaded.relative is None else loaded.relative.to_dict()
    data = assemble(settings, run if tensors else None, None if kept is None else RelativeEnergy.from_dict(kept))
    if tensors:
        model = Model.restore(part(tensors, "network."), meta["model"])
    else:
        molecules = data.molecules[data.parts.train]
        model = loaded.on(settings, molecules) if loaded else Model.build(settings, molecules, data.relative)
    model.network.to(device)
    training = data.material(data.parts.train, model.conditions)
    held_out = data.material(data.parts.valid, model.conditions) if len(data.parts.valid) else None
    trainer = Trainer(model.network, training, settings)
    if tensors:
        trainer.load_state(tensors, meta)
    if run is None:
        run = TRAINING.create(settings, settings.id)
    if not tensors:
        data.parts.save(run.path, data.molecules, model.connectivity)
    weights = sum(parameter.numel() for parameter in model.network.parameters())
    conditions = ", ".join(condition.name for condition in model.conditions) or "none"
    log.info(f"run {run.id}: {weights} weights, conditions: {conditions}")
    events = Events(run, settings.tensorboard)
    goes_on = again(TRAINING, settings.dir)
    fit(
        trainer,
        run,
        Plan(settings.max_epochs, settings.patience, "val", goes_on, settings.progress, settings.refresh_rate),
        None if held_out is None else lambda: trainer.judged(held_out),
        events.add,
        {"model": model.describe()},
        meta if tensors else None,
    )
    finish(run, settings, log)
    plot_training(run)
    report_run(run)
    if data.prepared.cache is not None:
        data.prepared.cache.finish()
    return run


def check_loaded(settings: Settings, model: Model) -> None:
    """Refuse a network to start from that is for other atoms or cut-offs.

    Raises:
        InputError: naming the setting.
    """
    shape = model.network.shape
    has = {
        "atom_types": (numbers_of(settings.atom_types), shape.atom_types),
        "conditions": (condition_names(settings.conditions), [condition.name for condition in model.conditions]),
        "model_cutoff": (settings.model_cutoff, shape.model_cutoff),
        "prediction_cutoff": (settings.prediction_cutoff, shape.prediction_cutoff),
        "placement_cutoff": (settings.placement_cutoff, shape.placement_cutoff),
    }
    for name, (asked, there) in has.items():
        if asked != there:
            raise InputError(f"{name} is {asked}, but the run to load has {there}; give the same, or train anew")
    usual = resolved(Settings(preset=settings.preset))
    cutoff_fn = "cosine" if shape.smooth else "hard"
    kept = {name: getattr(shape, name) for name in SIZES} | {"use_origin": shape.origin, "cutoff_fn": cutoff_fn}
    kept |= {"dist_label_width_factor": shape.label_width, "distance_prediction_min_dist": shape.min_dist}
    for name, there in (kept | {"distance_prediction_max_dist": shape.max_dist}).items():
        asked = getattr(settings, name)
        if asked not in (getattr(usual, name), there):
            raise InputError(f"{name} is {asked}, but the run to load has {there}; leave --{name} out, or train anew")


def finish(run: runs.Run, settings: Settings, log: logging.Logger) -> None:
    """Say how good the chosen model is, and what to do next."""
    import numpy as np

    metrics = run.metrics()
    if "val" in metrics and not np.isfinite(metrics["val"]).any():
        log.warning("no validation loss is a finite number: training diverged; give a smaller lr")
    elif "val" in metrics:
        row = int(np.nanargmin(metrics["val"]))
        log.info(
            f"best epoch {int(metrics['iteration'][row]) + 1}: validation loss {metrics['val'][row]:.3f} "
            f"(type {metrics['val_type'][row]:.3f}, position {metrics['val_dist'][row]:.3f})"
        )
    command = f"python agents/gschnet/generate.py{where(settings.dir)} --run {run.id} --n_molecules 100"
    log.info(f"everything is in {run.path}; next: {command}")


def main() -> None:
    """Command line."""
    from megen_gym.cli import run

    train(run(Settings), given_on_command_line())


if __name__ == "__main__":
    main()
