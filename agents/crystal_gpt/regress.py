"""Predict a property of crystals: ``python agents/crystal_gpt/regress.py --data perov.csv --property heat_all``.

The transformer of train.py, new or pretrained (``--load RUN``), with a perceptron behind its hidden states. A run that
was killed goes on with ``--resume ID``. The reward ``property`` uses the result.
"""

from __future__ import annotations

import hashlib
import logging
import sys
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent.parent)

from megen_gym import runs
from megen_gym.agents.crystal_gpt.regress_settings import RESUMABLE, Settings, checked, shape_of
from megen_gym.agents.nn.resuming import again, checkpoint_of, given_on_command_line, reopened
from megen_gym.cli import console_log
from megen_gym.errors import InputError, nearest, user_errors

if TYPE_CHECKING:
    import torch

    from megen_gym.agents.crystal_gpt.data import Dataset
    from megen_gym.agents.crystal_gpt.regression import PropertyModel
    from megen_gym.structure import FloatArray


@user_errors
def regress(settings: Settings, given: Collection[str] | None = None) -> runs.Run:
    """Train, and write everything into the run folder that comes back.

    Args:
        settings: All settings.
        given: Names of those that were set on purpose; see :func:`megen_gym.agents.nn.resuming.continued`.
    """
    import torch

    from megen_gym.agents.crystal_gpt.regress_logs import plot_regression, summary
    from megen_gym.agents.crystal_gpt.regress_training import RegressionTrainer, scores
    from megen_gym.agents.crystal_gpt.regression import KIND
    from megen_gym.agents.nn.devices import device_of
    from megen_gym.agents.nn.fitting import Plan, fit
    from megen_gym.report.folder import report_run

    log = console_log()
    run, settings = reopened(KIND, checked(settings), Settings(), given, RESUMABLE)
    tensors, meta = checkpoint_of(run)
    torch.set_num_threads(settings.threads)
    device = device_of(settings.device)
    train, valid, n_max = prepare(settings, log)
    target, truth = train.properties[:, 0], valid.properties[:, 0]
    torch.manual_seed(settings.seed)
    model = build(settings, train, valid, n_max, tensors, meta)
    model.network.to(device)
    trainer = RegressionTrainer(model, train.crystals, target, settings)
    if tensors:
        if meta["fingerprint"] != fingerprint(train):
            raise InputError(f"the data differs from that of run {settings.resume}; give the same, or train anew")
        trainer.load_state(tensors, meta)
    if run is None:
        run = KIND.create(settings)
    learned = sum(p.numel() for p in model.network.parameters() if p.requires_grad)
    log.info(
        f"run {run.id}: {model.name} of {len(train)} crystals, {len(valid)} held out, mean {target.mean():.4g}, "
        f"standard deviation {target.std():.4g}; {learned} weights are trained"
    )

    def judge() -> dict[str, float]:
        mae, r2 = scores(truth, trainer.judged().predict(valid.crystals))
        return {"mae": mae, "r2": r2}

    fit(
        trainer,
        run,
        Plan(
            settings.epochs, settings.patience, "mae", again(KIND, settings.dir),
            settings.progress, otherwise="train_mae", save_freq=settings.save_freq,
        ),
        judge if len(valid) else None,
        lambda epoch, row: None,
        {"model": model.describe(), "fingerprint": fingerprint(train)},
        meta or None,
    )  # fmt: skip
    log.info(summary(run, train, valid))
    plot_regression(run, train, valid)
    report_run(run)
    log.info(f'everything is in {run.path}; it is the reward property with {{"run": "{run.path}"}}')
    return run


def prepare(settings: Settings, log: logging.Logger) -> tuple[Dataset, Dataset, int]:
    """What is trained on and what is held out, each with this property only, and the number of sites to provide for.

    The split is that of train.py for the same file, seed and share.

    Raises:
        InputError: for data that cannot be used, or without the property.
    """
    import numpy as np

    from megen_gym.agents.crystal_gpt.settings import Settings as Pretraining
    from megen_gym.agents.crystal_gpt.train import prepare as split_data

    shared = ("data", "symprec", "holdout", "duplicates", "n_max", "max_sites", "cache", "seed", "progress")
    _, split, n_max = split_data(Pretraining(**{name: getattr(settings, name) for name in shared}), log)
    names = split.train.names
    if not names:
        raise InputError("the data has no numbers beside its crystals; add a column with the property to predict")
    if settings.property is None:
        raise InputError(f"no property is named; give --property one of {', '.join(names)}")
    if settings.property not in names:
        raise InputError(f"property {settings.property!r} is not in the data; {nearest(settings.property, names)}")
    column = names.index(settings.property)
    parts = []
    for part in (split.train, split.valid):
        known = np.isfinite(part.properties[:, column])
        if not known.all():
            log.info(f"left out: {int((~known).sum())} crystals without {settings.property}")
        part = part[known]
        parts.append(replace(part, names=(settings.property,), properties=part.properties[:, [column]]))
    if len(parts[0]) < 2 or parts[0].properties.std() == 0:
        raise InputError(
            f"property {settings.property!r} does not vary among the {len(parts[0])} crystals to train on; give more "
            "data, or another property"
        )
    return parts[0], parts[1], n_max


def build(
    settings: Settings,
    train: Dataset,
    valid: Dataset,
    n_max: int,
    tensors: dict[str, torch.Tensor],
    meta: dict[str, Any],
) -> PropertyModel:
    """The model: that of a checkpoint where there is one, else with a loaded or a new transformer.

    Raises:
        InputError: for a run to load that cannot be used for these crystals.
    """
    import numpy as np
    import torch

    from megen_gym.agents.crystal_gpt.model import load_model
    from megen_gym.agents.crystal_gpt.network import CrystalGPT
    from megen_gym.agents.crystal_gpt.regression import PropertyModel, Regressor
    from megen_gym.agents.nn.epochs import part

    if tensors:
        return PropertyModel.restore(part(tensors, "network."), meta["model"])
    if settings.load is None:
        trunk = CrystalGPT(shape_of(settings, n_max))
    else:
        pretrained, _ = load_model(settings.load, settings.dir)
        for some in (train, valid):
            pretrained.check(some.crystals)
        trunk = pretrained.network
    network = Regressor(trunk, settings.hidden, settings.dropout_rate)
    network.fit(torch.from_numpy(train.properties[:, 0]))
    elements = np.unique(train.crystals.elements[train.crystals.letters > 0]).tolist()
    assert settings.property is not None
    return PropertyModel(network, settings.property, elements, settings.symprec)


def fingerprint(data: Dataset) -> str:
    """A hash of crystals and their property, so that a run goes on with the same."""
    from megen_gym.agents.crystal_gpt.train import fingerprint as of_crystals

    values: FloatArray = data.properties
    return hashlib.sha256(of_crystals(data.crystals).encode() + values.tobytes()).hexdigest()[:16]


def main() -> None:
    """Command line."""
    from megen_gym.cli import run

    regress(run(Settings), given_on_command_line())


if __name__ == "__main__":
    main()
