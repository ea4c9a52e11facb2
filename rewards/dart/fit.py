"""Fitting DART: loss, loop, and a checkpoint from which a killed run goes on."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm

from megen_gym.errors import InputError
from megen_gym.rewards.base import KCAL_PER_MOL
from megen_gym.rewards.dart.features import Features
from megen_gym.rewards.dart.net import DartNet

MARGIN = 0.02
"""eV per atom; how much higher than its reference an exploit has to be."""


@dataclass(frozen=True)
class Settings:
    """Hyperparameters; see :func:`megen_gym.rewards.dart.train.main`."""

    epochs: int = 400
    lr: float = 1e-3
    batch: int = 64
    patience: int = 150
    seed: int = 0
    weight_decay: float = 1e-4
    huber: float = 0.03
    exploit_weight: float = 1.0
    max_time: float | None = None

    def __post_init__(self) -> None:
        positive = {name: getattr(self, name) for name in ("epochs", "lr", "batch", "patience", "huber")}
        wrong = [f"{name} {value}" for name, value in positive.items() if not value > 0]
        if wrong or (self.max_time is not None and self.max_time <= 0):
            raise InputError(f"{', '.join(wrong) or f'max_time {self.max_time}'} given; expected a number above 0")


@dataclass(frozen=True)
class Task:
    """Everything that a fit sees.

    Attributes:
        features: Of all structures, labelled ones and exploits.
        energies: (M,) eV, NaN for exploits.
        train: Rows to learn from.
        always: Rows that are in every batch besides: the free atom.
        validation: Rows that choose the best epoch.
        traps: (T, 2) rows (exploit, reference) of the training side.
        validation_traps: The same of the validation side.
    """

    features: Features
    energies: Tensor
    train: Tensor
    always: Tensor
    validation: Tensor
    traps: Tensor
    validation_traps: Tensor


class Fit:
    """A running fit; :meth:`run` leaves the best weights in `best`.

    Args:
        net: Network to be trained, in place.
        task: Data.
        settings: Hyperparameters.
        checkpoint: Where to keep the state of the run; None for nowhere.
        identity: What must agree for a run to be resumed, besides the settings.
    """

    def __init__(
        self,
        net: DartNet,
        task: Task,
        settings: Settings,
        checkpoint: Path | None = None,
        identity: Mapping[str, Any] | None = None,
    ) -> None:
        self.net, self.task, self.settings, self.checkpoint = net, task, settings, checkpoint
        self.identity = json.loads(json.dumps({"settings": asdict(settings) | {"max_time": None}, **(identity or {})}))
        self.optimizer = torch.optim.AdamW(net.parameters(), lr=settings.lr, weight_decay=settings.weight_decay)
        self.epoch, self.seconds, self.best_epoch, self.best_score = 0, 0.0, 0, float("inf")
        self.best = {name: value.clone() for name, value in net.state_dict().items()}
        self._size = task.features.mask.sum(1)

    def loss(self, rows: Tensor, traps: Tensor) -> Tensor:
        """Mean Huber loss of the energy per atom, plus what the exploits in `traps` (T, 2) win, both in eV per atom."""
        energy = self.task.features.energies(self.net, torch.cat([rows, traps.flatten()]), KCAL_PER_MOL)
        residual = (energy[: len(rows)] - self.task.energies[rows]) / self._size[rows]
        total = (
            functional.huber_loss(residual, torch.zeros_like(residual), delta=self.settings.huber) / self.settings.huber
        )
        if len(traps):
            exploit, reference = energy[len(rows) :].reshape(-1, 2).T
            won = functional.relu((reference - exploit) / self._size[traps[:, 1]] + MARGIN)
            total = total + self.settings.exploit_weight * won.mean()
        return total

    def progress(self) -> float:
        """Fraction of the run that is over."""
        limit = self.settings.max_time
        return max(self.epoch / self.settings.epochs, 0.0 if limit is None else self.seconds / limit)

    def step_epoch(self) -> float:
        """One pass over the training rows; returns the validation score in eV per atom."""
        begun = time.monotonic()
        for group in self.optimizer.param_groups:
            group["lr"] = self.settings.lr * (0.01 + 0.99 * 0.5 * (1 + np.cos(np.pi * min(1.0, self.progress()))))
        rng = torch.Generator().manual_seed(self.settings.seed * 1_000_003 + self.epoch)
        train, traps, batch = self.task.train, self.task.traps, self.settings.batch
        order = train[torch.randperm(len(train), generator=rng).to(train.device)]
        for at in range(0, len(order), batch):
            drawn = torch.randint(max(1, len(traps)), (min(batch // 2, len(traps)),), generator=rng)
            rows = torch.cat([order[at : at + batch], self.task.always])
            self.optimizer.zero_grad(set_to_none=True)
            torch.autograd.backward(self.loss(rows, traps[drawn.to(traps.device)]))
            torch.nn.utils.clip_grad_norm_(self.net.parameters(), 1.0)
            self.optimizer.step()
        with torch.no_grad():
            score = float(self.loss(self.task.validation, self.task.validation_traps))
        self.epoch += 1
        if score < self.best_score:
            self.best_score, self.best_epoch = score, self.epoch
            self.best = {name: value.clone() for name, value in self.net.state_dict().items()}
        self.seconds += time.monotonic() - begun
        return score

    def run(self, save_every: float = 10.0, bar: bool = True, stop_at: int | None = None) -> None:
        """Train to the end, or to the epoch `stop_at`; a checkpoint is written every `save_every` seconds."""
        with tqdm(total=self.settings.epochs, initial=self.epoch, unit="epoch", disable=not bar) as shown:
            saved = time.monotonic()
            while (
                self.progress() < 1 and self.epoch - self.best_epoch < self.settings.patience and self.epoch != stop_at
            ):
                score = self.step_epoch()
                shown.update()
                shown.set_postfix_str(f"validation {score:.4f}, best {self.best_score:.4f} at {self.best_epoch}")
                if time.monotonic() - saved > save_every:
                    self.save()
                    saved = time.monotonic()
        self.save()

    def save(self) -> None:
        """Write the checkpoint; it appears complete or not at all."""
        if self.checkpoint is None:
            return
        tensors = {f"net/{name}": value for name, value in self.net.state_dict().items()}
        tensors |= {f"best/{name}": value for name, value in self.best.items()}
        for index, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"adam/{index}/{name}": value for name, value in state.items()}
        counters = {name: getattr(self, name) for name in ("epoch", "seconds", "best_epoch", "best_score")}
        partial = self.checkpoint.with_name(f".{self.checkpoint.name}.{os.getpid()}")
        metadata = {"counters": json.dumps(counters), "identity": json.dumps(self.identity)}
        partial.write_bytes(save({name: value.contiguous() for name, value in tensors.items()}, metadata))
        partial.replace(self.checkpoint)

    def load(self) -> None:
        """Go on from the checkpoint.

        Raises:
            InputError: when the file is broken or belongs to a run with other settings or data.
        """
        assert self.checkpoint is not None
        try:
            with safe_open(self.checkpoint, "pt") as file:
                metadata = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            identity, counters = json.loads(metadata["identity"]), json.loads(metadata["counters"])
        except (SafetensorError, KeyError, json.JSONDecodeError) as error:
            raise InputError(
                f"the checkpoint {str(self.checkpoint)!r} cannot be read ({error}); delete it to begin anew"
            ) from None
        if identity != self.identity:
            raise InputError(
                f"the checkpoint {str(self.checkpoint)!r} belongs to a run with other settings or data; give the same "
                "ones, or delete it to begin anew"
            )
        self.net.load_state_dict({name[4:]: value for name, value in tensors.items() if name.startswith("net/")})
        self.best = {name[5:]: value for name, value in tensors.items() if name.startswith("best/")}
        state: dict[int, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            if name.startswith("adam/"):
                _, index, key = name.split("/")
                state.setdefault(int(index), {})[key] = value
        self.optimizer.load_state_dict({"state": state, "param_groups": self.optimizer.state_dict()["param_groups"]})
        for name, value in counters.items():
            setattr(self, name, value)
