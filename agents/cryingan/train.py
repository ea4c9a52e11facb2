"""Train CryinGAN: ``python agents/cryingan/train.py --training_data my.extxyz --weight_dist 0.05``.

The script reads from top to bottom: settings, data, networks, epochs, judgement. A run that was killed goes on with
``--resume ID``. Documentation: docs/cryingan.md.
"""

from __future__ import annotations

import logging
import shutil
import sys
import time
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent.parent)

from megen_gym import runs
from megen_gym.agents.cryingan.settings import KIND, RESUMABLE, Settings, resolved
from megen_gym.agents.nn.resuming import again, checkpoint_of, given_on_command_line, reopened, where
from megen_gym.cli import console_log
from megen_gym.errors import user_errors

SAMPLE_SEED = 777
"""Of the structures that are written during training."""


@user_errors
def train(settings: Settings, given: Collection[str] | None = None) -> runs.Run:
    """Train, judge, and write everything into the run folder that comes back.

    Args:
        settings: All settings.
        given: Names of those that were set on purpose; see :func:`megen_gym.agents.nn.resuming.continued`.
    """
    import torch
    from tqdm import tqdm

    from megen_gym.agents.cryingan.logs import LOSSES, RATE_COLUMNS, RATES, EpochTable, plot_training
    from megen_gym.agents.cryingan.prepare import prepare
    from megen_gym.agents.nn.devices import device_of, gpu_memory
    from megen_gym.agents.nn.fitting import stop
    from megen_gym.report.folder import report_run

    log = console_log()
    run, settings = reopen(resolved(settings), given)
    tensors, meta = checkpoint_of(run)
    torch.set_num_threads(settings.threads)
    device = device_of("cpu" if settings.disable_cuda else settings.device)
    prepared = prepare(settings, device, tensors, meta.get("fingerprint"))
    trainer, gan = prepared.trainer, prepared.gan
    best = float("inf")
    if run is None:
        run = new_run(settings)
    elif tensors:
        trainer.load_state(tensors, meta)
        best, gan.real_score = meta["best"], (meta["gan"]["real_score"][0], meta["gan"]["real_score"][1])
    losses, rates = EpochTable(run.path / LOSSES), EpochTable(run.path / RATES)
    run.clean()
    for table in (losses, rates):
        table.truncate(trainer.epoch)
    run.truncate_metrics(trainer.epoch - 1)
    sizes = ", ".join(f"{name} {sum(p.numel() for p in net.parameters())}" for name, net in gan.modules.items())
    log.info(
        f"run {run.id}: {gan.system.formula}, {len(trainer.real)} structures and {prepared.held_out} held out, "
        f"{len(trainer.symmetry)} symmetry operations, mean neighbour distance {gan.spacing:.3f} Å\nparameters: {sizes}"
    )

    def checkpoint() -> None:
        tensors, meta = trainer.state()
        meta |= {"best": best, "fingerprint": prepared.fingerprint, "gan": gan.describe()}
        run.save_state(tensors, meta)

    if not tensors:
        checkpoint()
    batches = -(-len(trainer.real) // settings.batch_size)
    end = None if settings.max_time is None else time.monotonic() + settings.max_time
    total, done = settings.n_epochs * batches, trainer.epoch * batches
    with tqdm(total=total, initial=done, unit="batch", disable=not settings.progress, smoothing=0.05) as bar:

        def report(batch: int, row: dict[str, float]) -> None:
            bar.update()
            if batch % settings.print_freq == 0 and "distance_dis" in row:
                bar.set_postfix_str(f"epoch {trainer.epoch} W {row['distance_dis']:.4f}{gpu_memory()}")

        last = trainer.epoch >= settings.n_epochs
        try:
            while not last:
                epoch = trainer.epoch
                losses.append(epoch, trainer.run_epoch(report))
                rates.append(epoch, {RATE_COLUMNS[k]: rate for k, rate in trainer.learning_rates(epoch).items()})
                last = epoch == settings.n_epochs - 1 or (end is not None and time.monotonic() >= end)
                if last or epoch % settings.eval_freq == 0:
                    metrics = prepared.judge()
                    run.append_metrics(epoch, metrics)
                    if metrics["score"] < best:
                        best = metrics["score"]
                        prepared.measure_scores()
                        run.save_weights(gan.state())
                if last or epoch % settings.msave_freq == 0:
                    run.save_weights(gan.state(), f"{settings.msave_dir}/weights_{epoch}.safetensors")
                if last or epoch % settings.gsave_freq == 0:
                    save_samples(run, prepared, epoch)
                if last or epoch % settings.save_freq == 0:
                    checkpoint()
        except KeyboardInterrupt:
            bar.close()
            stop(run, trainer.epoch, again(KIND, settings.dir))

    finish(run, settings, prepared.held_out, log)
    if run.metrics():
        plot_training(run)
    report_run(run)
    return run


def new_run(settings: Settings) -> runs.Run:
    """A run folder, and in it the folders for weights and samples.

    Raises:
        OSError: when one of them cannot be made; nothing is left behind.
    """
    run = KIND.create(settings)
    try:
        for name in (settings.msave_dir, settings.gsave_dir):
            (run.path / name).mkdir(parents=True, exist_ok=True)
    except OSError:
        shutil.rmtree(run.path, ignore_errors=True)
        raise
    return run


def save_samples(run: runs.Run, prepared: Any, epoch: int) -> None:
    """Write `n_save` structures of the moving average as extxyz."""
    from megen_gym.io import write_structures

    gan = prepared.gan
    gan.calibrate()
    folder = run.path / gan.settings.gsave_dir
    made = gan.sample(gan.settings.n_save, SAMPLE_SEED)
    write_structures(folder / f"gen_{epoch}.extxyz", made, {"epoch": [epoch] * len(made)})


def finish(run: runs.Run, settings: Settings, held_out: int, log: logging.Logger) -> None:
    """Say how good the chosen model is, and what to do next."""
    judges = f"{held_out} held-out structures" if held_out else "training structures (too few to hold any out)"
    metrics = run.metrics()
    if metrics:
        row = int(metrics["score"].argmin())
        log.info(
            f"best judged epoch: {int(metrics['iteration'][row])}: {100 * metrics['valid'][row]:.1f} % valid, "
            f"W1 to the {judges} {metrics['w1_neighbour'][row]:.4f} Å (nearest neighbours), "
            f"{metrics['w1_height'][row]:.4f} Å (heights)"
        )
    command = f"python agents/cryingan/generate.py{where(settings.dir)} --run {run.id} --n_struc 1000"
    log.info(f"everything is in {run.path}, see report.html; next: {command}")


def reopen(wanted: Settings, given: Collection[str] | None) -> tuple[runs.Run | None, Settings]:
    """The run to resume, if any, and its settings, with what the user may change taken from `wanted`.

    Raises:
        InputError: if there is no such run, or for a setting that cannot change any more.
    """
    free, defaults = (*RESUMABLE, "load_checkpoint"), resolved(Settings(preset=wanted.preset))
    run, settings = reopened(KIND, wanted, defaults, given, free)
    if run is not None and run.resumable:
        settings = replace(settings, load_generator=None, load_coord_disc=None, load_dist_disc=None)
    return run, settings


def main() -> None:
    """Command line."""
    from megen_gym.cli import run

    train(run(Settings), given_on_command_line())


if __name__ == "__main__":
    main()
