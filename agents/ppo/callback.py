"""What happens at the end of every iteration: a row of metrics, an evaluation, a checkpoint, the progress bar."""

from __future__ import annotations

import time
from collections import defaultdict
from typing import Any

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback
from tqdm import tqdm

from megen_gym.agents.ppo import checkpoint
from megen_gym.agents.ppo.settings import Settings
from megen_gym.envs.sb3 import SB3VecEnv
from megen_gym.errors import InputError
from megen_gym.io import append_structures
from megen_gym.rollout import Rollout, rollout, structures_of
from megen_gym.runs import Run

EVALUATION_SEED = 1_000_003
"""Added to the seed of training, so that evaluation never sees an episode of training."""


class IterationEnd(BaseCallback):
    """Measures, evaluates, saves.

    Args:
        run: The run folder.
        settings: The run's settings.
        evaluation: Environments for evaluation.
        iteration: Iterations done already (when resuming).
    """

    def __init__(self, run: Run, settings: Settings, evaluation: Any, iteration: int = 0) -> None:
        super().__init__()
        self.run_folder, self.settings, self.evaluation, self.iteration = run, settings, evaluation, iteration
        self.last_evaluation: Rollout | None = None
        self._collecting = self._stop = False
        self._began, self._cpu = time.monotonic(), time.process_time()
        self._episodes: list[dict[str, Any]] = []
        self._moves: dict[str, int] = defaultdict(int)
        self._bar: Any = None
        self._return = np.nan

    def _on_training_start(self) -> None:
        self._bar = tqdm(
            total=self.settings.num_steps,
            initial=self.num_timesteps,
            unit="step",
            disable=not self.settings.progress,
            dynamic_ncols=True,
        )

    def _on_rollout_start(self) -> None:
        if self._collecting:
            limit = self.settings.max_time
            self._stop = limit is not None and time.monotonic() - self._began > limit
            self._finish(last=self._stop)
        self._collecting = True

    def _on_step(self) -> bool:
        if self._stop:
            return False
        env = self.training_env
        assert isinstance(env, SB3VecEnv)
        infos = env.last_infos
        for name in ("valid", "refused", "stopped"):
            self._moves[name] += int(infos[name].sum())
        self._moves["all"] += self.training_env.num_envs
        ended = [info for info in self.locals["infos"] if "episode" in info]
        self._episodes += ended
        if ended and self.settings.save_rollouts in ("train", "all"):
            self._write_training(ended)
        self._bar.update(self.training_env.num_envs)
        return True

    def _on_training_end(self) -> None:
        if self._collecting and not self._stop:
            self._finish(last=True)
        self._bar.close()

    def _finish(self, last: bool = False) -> None:
        self.iteration += 1
        if not all(bool(parameter.isfinite().all()) for parameter in self.model.policy.parameters()):
            raise InputError(
                f"the weights became NaN or infinite in iteration {self.iteration}; the checkpoint before it is kept: "
                f"go on with --resume {self.run_folder.id} and a --learning_rate below {self.settings.learning_rate}"
            )
        row = {"steps": float(self.num_timesteps), **self._training_metrics()}
        if last or self.iteration % self.settings.eval_freq == 0:
            row |= self._evaluate()
        row |= {
            f"loss/{name.removeprefix('train/')}": float(value)
            for name, value in self.model.logger.name_to_value.items()
            if name.startswith("train/")
        }
        row |= {"seconds": time.monotonic() - self._began, "cpu_seconds": time.process_time() - self._cpu}
        for name, value in row.items():
            self.model.logger.record(name, value)
        self.model.logger.dump(self.num_timesteps)
        self.run_folder.append_metrics(self.iteration, row)
        if last or self.iteration % self.settings.save_freq == 0:
            checkpoint.save(self.run_folder, self.model, self.iteration)  # type: ignore[arg-type]
            if self.settings.keep_models:
                name = f"weights-{self.num_timesteps}.safetensors"
                self.run_folder.save_weights(self.model.policy.state_dict(), name)
        self._return = row.get("return_mean", self._return)
        self._bar.set_postfix({"return": f"{self._return:.3f}", "valid": f"{100 * row['valid_moves']:.1f}%"})

    def _training_metrics(self) -> dict[str, float]:
        moves = max(1, self._moves["all"])
        row = {
            "episodes": float(len(self._episodes)),
            "valid_moves": (self._moves["valid"] + self._moves["stopped"]) / moves,
            "refused_moves": self._moves["refused"] / moves,
        }
        if self._episodes:
            returns = np.array([info["episode"]["r"] for info in self._episodes])
            row |= {"return_mean": returns.mean(), "return_std": returns.std(), "return_best": returns.max()}
            row["length_mean"] = float(np.mean([info["episode"]["l"] for info in self._episodes]))
            energies = [info["energy"] for info in self._episodes if "energy" in info]
            row["energy_best"] = min(energies, default=np.nan)
            row["truncated"] = float(np.mean([info["TimeLimit.truncated"] for info in self._episodes]))
        self._episodes, self._moves = [], defaultdict(int)
        return row

    def _evaluate(self) -> dict[str, float]:
        settings = self.settings
        result = rollout(
            self.model,  # type: ignore[arg-type]
            self.evaluation,
            settings.num_eval_episodes,
            seed=settings.seed + EVALUATION_SEED,
            deterministic=settings.eval_deterministic,
        )
        self.last_evaluation = result
        if settings.save_rollouts in ("eval", "all"):
            made = result.atoms(step=self.num_timesteps, policy=settings.policy)
            append_structures(self.run_folder.path / "structures_eval.extxyz", made)
        finite = result.energy[np.isfinite(result.energy)]
        return {
            "eval/return_mean": float(result.episode_return.mean()),
            "eval/return_std": float(result.episode_return.std()),
            "eval/valid_moves": result.valid_placements / max(1, result.placements),
            "eval/valid_structures": float(result.valid.mean()),
            "eval/energy_best": float(finite.min()) if len(finite) else np.nan,
            "eval/energy_mean": float(finite.mean()) if len(finite) else np.nan,
        }

    def _write_training(self, ended: list[dict[str, Any]]) -> None:
        env = self.training_env
        assert isinstance(env, SB3VecEnv)
        final = [info["terminal_observation"] for info in ended]
        stacked, task = {key: np.stack([obs[key] for obs in final]) for key in final[0]}, env.env.task
        batch = structures_of(stacked, task.symbols, task.lattice)
        made = batch.to_atoms()
        for atoms, info in zip(made, ended, strict=True):
            atoms.info |= {
                "energy": info.get("energy", np.nan),
                "reward": info["episode"]["r"],
                "valid": info["all_valid"],
                "n_start": info["n_start"],
                "step": self.num_timesteps,
                "policy": self.settings.policy,
            }
        append_structures(self.run_folder.path / "structures_train.extxyz", made)
