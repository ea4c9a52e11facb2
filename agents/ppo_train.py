"""Train an agent that builds structures: ``python agents/ppo_train.py --n 18``.

The script reads from top to bottom: settings, run folder, environments, agent, training, judgement. A run that was
killed goes on with ``python agents/ppo_train.py --resume ID``. Documentation: docs/policies.md.
"""

from __future__ import annotations

import sys
from collections.abc import Collection
from dataclasses import asdict
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from megen_gym import runs
from megen_gym.agents.nn.options import check_bounds
from megen_gym.agents.nn.resuming import continued, given_on_command_line
from megen_gym.agents.ppo.settings import Settings
from megen_gym.cli import console_log
from megen_gym.errors import InputError, nearest, user_errors

POLICIES = ("covariant", "mlp")

RESUMABLE = ("num_steps", "max_time", "learning_rate", "device", "threads", "progress", "dir")
"""Settings that may change when a run is resumed."""


@user_errors
def train(settings: Settings, given: Collection[str] | None = None) -> runs.Run:
    """Train, evaluate, and compare with the baselines; everything is in the run folder that comes back.

    Args:
        settings: All settings.
        given: Names of those that were set on purpose; see :func:`megen_gym.agents.nn.resuming.continued`.
    """
    import torch
    from stable_baselines3.common.logger import configure

    from megen_gym.agents.ppo import checkpoint, judge
    from megen_gym.agents.ppo.build import evaluation_env, load_weights, make_model, training_env
    from megen_gym.agents.ppo.callback import EVALUATION_SEED, IterationEnd
    from megen_gym.analysis.curves import plot_learning_curves
    from megen_gym.io import write_structures
    from megen_gym.report.folder import report_run

    check(settings)
    log = console_log(settings.log_level)
    torch.set_num_threads(settings.threads)
    if settings.resume is not None:
        run, settings = reopen(settings, given)
    env, evaluation = training_env(settings), evaluation_env(settings)
    model = make_model(settings, env)
    if settings.load_model is not None:
        load_weights(model, runs.open(settings.dir, settings.load_model))
    iteration = 0
    if settings.resume is None:
        judge.probe(evaluation)
        settings.composition_shape = getattr(model.policy, "composition_shape", None)  # its weights are now the run's
        run = runs.create(settings.dir, asdict(settings))
    else:
        iteration, steps = checkpoint.load(run, model) if run.resumable else (0, 0)
        run.clean()
        run.truncate_metrics(iteration)
        checkpoint.truncate_rollouts(run, steps)
    model.set_logger(configure(str(run.path / "tensorboard"), ["tensorboard"]))
    size = sum(parameter.numel() for parameter in model.policy.parameters() if parameter.requires_grad)
    log.info(f"run {run.id}: {size} parameters, {settings.num_envs} environments, {settings.device}")

    end = IterationEnd(run, settings, evaluation, iteration)
    remaining = settings.num_steps - model.num_timesteps
    try:
        if remaining > 0:
            model.learn(remaining, callback=end, reset_num_timesteps=False)
    except KeyboardInterrupt:
        log.info(f"stopped; go on with: python agents/ppo_train.py --dir {settings.dir} --resume {run.id}")
        raise SystemExit(130) from None

    seed = settings.seed + EVALUATION_SEED
    played = judge.compare({settings.policy: model}, evaluation, settings.num_eval_episodes, seed)  # type: ignore[dict-item]
    built = [atoms for name, result in played.items() for atoms in result.atoms(policy=name)]
    write_structures(run.path / "structures_compared.extxyz", built)
    runs.write_text(run.path / "table.md", judge.table(played, evaluation, "markdown") + "\n")
    log.info(judge.table(played, evaluation))
    plot_learning_curves(str(run.path))
    report_run(run)
    log.info(
        f"everything is in {run.path}, see report.html; next: python structures.py --dir {settings.dir} --name {run.id}"
    )
    return run


def check(settings: Settings) -> None:
    """Refuse settings that cannot work before anything is written.

    Raises:
        InputError: naming the setting.
    """
    if settings.policy not in POLICIES:
        raise InputError(f"unknown policy {settings.policy!r}; {nearest(settings.policy, POLICIES)}")
    positive = "num_steps num_steps_per_iter num_envs mini_batch_size eval_freq num_eval_episodes save_freq threads"
    above_zero = "learning_rate gradient_clip reward_scale max_time bag_scale target_kl clip_ratio"
    check_bounds(settings, {1: positive}, above_zero)
    for name in ("discount", "lam"):
        if not 0 <= getattr(settings, name) <= 1:
            raise InputError(f"{name} is {getattr(settings, name)}; give a number from 0 to 1")
    if settings.seed < 0:
        raise InputError(f"seed is {settings.seed}; give 0 or more")
    if settings.device != "cpu":
        import torch

        try:
            torch.empty(0, device=settings.device)
        except (RuntimeError, AssertionError) as error:
            raise InputError(
                f"device {settings.device!r} cannot be used here ({str(error).splitlines()[0]}); use --device cpu"
            ) from error


def reopen(wanted: Settings, given: Collection[str] | None) -> tuple[runs.Run, Settings]:
    """The run to resume and its settings, with what the user may change taken from `wanted`.

    Raises:
        InputError: for a setting that cannot change any more.
    """
    from megen_gym.agents.ppo.build import settings_of

    assert wanted.resume is not None
    run = runs.newest(wanted.dir) if wanted.resume == "newest" else runs.open(wanted.dir, wanted.resume)
    settings = continued(run.id, settings_of(run), wanted, Settings(), given, RESUMABLE)
    settings.resume, settings.load_model = run.id, None
    if not run.resumable:  # no checkpoint that would bring the composition encoder
        settings.composition_shape = None
    return run, settings


def main() -> None:
    """Command line."""
    from megen_gym.cli import run

    train(run(Settings), given_on_command_line())


if __name__ == "__main__":
    main()
