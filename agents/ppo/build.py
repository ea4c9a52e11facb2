"""From settings to environments and to an SB3 model; the same functions serve training, resuming and evaluation."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from ase.data import atomic_numbers
from gymnasium.vector import AutoresetMode
from stable_baselines3 import PPO

from megen_gym import runs
from megen_gym.actions import FocalCodec
from megen_gym.agents.ppo.settings import Settings
from megen_gym.envs.sb3 import SB3VecEnv
from megen_gym.envs.vector import StructureVectorEnv, make_vec
from megen_gym.errors import InputError
from megen_gym.tasks.cluster import ClusterTask
from megen_gym.tasks.slots import SlotsTask

MAX_EVAL_ENVS = 64

SIZED = ("GaCluster", "LJCluster")
"""Environments of one element, whose bag is a number of atoms."""


def env_arguments(settings: Settings, evaluation: bool = False) -> dict[str, Any]:
    """Keyword arguments of the environment; only what was set, so that its own defaults hold."""
    formula = settings.formula or settings.formulas
    if evaluation and settings.eval_formulas:
        formula = settings.eval_formulas
    start = settings.start or settings.initial_structure
    low, high = settings.min_mean_distance, settings.max_mean_distance
    chosen: dict[str, Any] = {
        "formula": formula,
        "size_range": settings.size_range,
        "symbols": settings.symbols,
        "canvas_size": settings.canvas_size,
        "start": start,
        "grow": settings.grow,
        "distance_range": None if low is None and high is None else (low or 2.3, high or 3.1),
        "min_distance": settings.min_atomic_distance,
        "max_distance": settings.max_solo_distance,
        "min_reward": settings.min_reward,
        "reward": settings.reward,
        "scaffold": settings.scaffold,
    }
    arguments = {name: value for name, value in chosen.items() if value is not None}
    if settings.env.startswith(SIZED) and formula is None:
        arguments["n"] = settings.n
    if start is not None:
        arguments["split"] = "eval" if evaluation else "train"
    if settings.num_refills:
        arguments["refills"] = settings.num_refills
    if settings.stop:
        arguments["stop"] = True
    if settings.reward_kwargs:
        arguments["reward_kwargs"] = settings.reward_kwargs
    return arguments | settings.env_kwargs


def training_env(settings: Settings) -> SB3VecEnv:
    """The environments that the agent learns in."""
    return SB3VecEnv.make(
        settings.env,
        settings.num_envs,
        seed=settings.seed,
        reward_scale=settings.reward_scale,
        **env_arguments(settings),
    )


def evaluation_env(settings: Settings) -> Any:
    """Environments with held-out seeds, and held-out starting structures where there are any."""
    return make_vec(
        settings.env, min(settings.num_eval_episodes, MAX_EVAL_ENVS), **env_arguments(settings, evaluation=True)
    )


def policy_arguments(settings: Settings, task: ClusterTask | SlotsTask) -> dict[str, Any]:
    """SB3's ``policy_kwargs``: JSON-able, so that a run's config rebuilds the policy.

    Raises:
        InputError: when the covariant agent is asked for actions that it does not make, or another for compositions.
    """
    optimizer = {"optimizer_kwargs": {"amsgrad": settings.optimizer == "amsgrad", "eps": 1e-5}}
    if settings.policy == "mlp":
        if settings.bag_encoder != "counts":
            raise InputError(
                f"policy 'mlp' was given bag_encoder {settings.bag_encoder!r}, which it has not; use --policy covariant"
            )
        return {"net_arch": [settings.network_width, settings.network_width], **optimizer}
    if not isinstance(task.codec, FocalCodec):
        raise InputError(
            "policy 'covariant' places atoms beside atoms, which this environment's actions do not; "
            'give --env_kwargs \'{"action": "focal"}\', or --policy mlp'
        )
    chemistry = {}
    if settings.bag_encoder == "composition":
        chemistry = {
            "bag_encoder": settings.bag_encoder,
            "numbers": tuple(atomic_numbers[name] for name in task.symbols),
            "composition_encoder": settings.composition_encoder,
            "composition_dir": str(settings.dir),
            "composition_shape": settings.composition_shape,
        }
    return {
        "distance_range": (task.codec.shortest, task.codec.longest),
        "min_distance": task.rules.min_distance,
        "max_distance": task.rules.max_distance,
        "windows": task.rules.windows,
        "lmax": settings.maxl,
        "channels": settings.num_channels_hidden,
        "layers": settings.num_interactions,
        "cutoff": settings.cutoff,
        "width": settings.network_width,
        "num_gaussians": settings.num_gaussians,
        "series": settings.num_channels_per_element,
        "beta": settings.beta,
        "bag_scale": settings.bag_scale or float(task.canvas_size),
        **chemistry,
        **optimizer,
    }


def make_model(settings: Settings, env: SB3VecEnv, *, seeded: bool = True) -> PPO:
    """SB3's PPO with the chosen policy.

    Args:
        settings: All settings.
        env: What it learns in.
        seeded: Seed what is random everywhere in this process, as training does; else it goes on as it was.

    Raises:
        InputError: when steps, environments and minibatches do not fit together.
    """
    steps = settings.num_steps_per_iter // settings.num_envs
    if steps < 1:
        raise InputError(
            f"num_steps_per_iter {settings.num_steps_per_iter} is less than num_envs {settings.num_envs}; "
            "an iteration needs at least one step of every environment"
        )
    batch = min(settings.mini_batch_size, steps * settings.num_envs)
    policy: Any = "MultiInputPolicy"
    if settings.policy == "covariant":
        from megen_gym.agents.covariant.policy import CovariantPolicy

        policy = CovariantPolicy
    return PPO(
        policy,
        env,
        n_steps=steps,
        batch_size=batch,
        n_epochs=settings.max_num_train_iters,
        learning_rate=settings.learning_rate,
        gamma=settings.discount,
        gae_lambda=settings.lam,
        clip_range=settings.clip_ratio,
        ent_coef=settings.entropy_coef,
        vf_coef=settings.vf_coef,
        max_grad_norm=settings.gradient_clip,
        target_kl=settings.target_kl,
        policy_kwargs=policy_arguments(settings, env.env.task),  # type: ignore[arg-type]
        seed=settings.seed if seeded else None,
        device=settings.device,
    )


def settings_of(run: runs.Run) -> Settings:
    """The settings that a run was made with.

    Raises:
        InputError: when the run knows a setting that this version does not.
    """
    known = {field.name for field in fields(Settings)}
    unknown = sorted(set(run.settings) - known)
    if unknown:
        raise InputError(f"run {run.id} has the unknown settings {', '.join(unknown)}; train anew with this version")
    return Settings(**run.settings)


def load_policy(run: runs.Run, device: str = "cpu", env: StructureVectorEnv | None = None) -> PPO:
    """The trained agent of a run as a policy.

    Args:
        run: The run.
        device: Where it decides.
        env: What it is to play; by default the environment that it learned in. The covariant agent plays canvases of
            other sizes too, with the distances and windows of that environment.

    Raises:
        InputError: when the weights do not fit the environment.

    Example:
        ``policy = load_policy(runs.newest("runs"))``
    """
    settings = settings_of(run)
    settings.device, settings.num_envs = device, 1
    settings.num_steps_per_iter = settings.mini_batch_size = max(settings.mini_batch_size, 2)
    own = training_env(settings)
    if env is not None:
        settings.bag_scale = settings.bag_scale or float(own.env.task.canvas_size)  # type: ignore[attr-defined]
        own = SB3VecEnv(StructureVectorEnv(1, env.task, env.engine.reward, autoreset_mode=AutoresetMode.SAME_STEP))
    model = make_model(settings, own, seeded=False)
    load_weights(model, run)
    return model


def load_weights(model: PPO, run: runs.Run) -> None:
    """Put a run's weights into the model.

    Raises:
        InputError: when they belong to another network.
    """
    try:
        model.policy.load_state_dict(run.load_weights(device=str(model.device)))
    except RuntimeError as error:
        raise InputError(
            f"the weights of run {run.id} do not fit this agent ({str(error).splitlines()[-1].strip()}); "
            "use the settings of that run"
        ) from error
