"""Reinforcement learning of whole crystals: draw, reward, and a few clipped steps up the policy gradient.

One-step proximal policy optimisation (Schulman et al., arXiv 1707.06347) with a leash to the pretrained model, as
CrystalFormer's reinforcement learning (Cao & Wang, arXiv 2504.02367): the advantage of a crystal is its reward less
beta (logp - logp_pretrained) less a baseline. All likelihoods are computed in evaluation mode, so that before the first
step each ratio is exactly 1.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from megen_gym.agents.crystal_gpt.conditions import Given
from megen_gym.agents.crystal_gpt.encoding import Sites
from megen_gym.agents.crystal_gpt.generate import known_only, sample, soft_conditions
from megen_gym.agents.crystal_gpt.model import CHUNK, Model
from megen_gym.agents.crystal_gpt.permitted import Permitted, log_likelihood, replayed
from megen_gym.agents.crystal_gpt.preferences import batches_of, preference_loss, ranked_pairs
from megen_gym.agents.crystal_gpt.scoring import Scorer, Scores
from megen_gym.agents.crystal_gpt.tune_settings import Settings
from megen_gym.agents.crystal_gpt.wanted import Wanted
from megen_gym.agents.nn.optimizers import load_optimizer, optimizer_tensors
from megen_gym.agents.nn.policy_gradient import policy_loss
from megen_gym.crystals import CrystalBatch
from megen_gym.structure import FloatArray

DECAY = 0.95
"""Of the moving average that rewards are compared with."""


@dataclass(frozen=True, eq=False)
class Draw:
    """A batch of B crystals from the model.

    Attributes:
        crystals: The crystals.
        sites: The same as tensors.
        permitted: What hard conditions allowed.
        scores: What they are worth.
        logp: (B, 4) by the model that drew them.
        reference: (B, 4) by the pretrained model.
    """

    crystals: CrystalBatch
    sites: Sites
    permitted: Permitted | None
    scores: Scores
    logp: Tensor
    reference: Tensor

    @property
    def leash(self) -> FloatArray:
        """(B,) logp - logp_pretrained; its mean is the estimated divergence of the models."""
        return np.asarray((self.logp - self.reference).sum(1).double().numpy(force=True))


class Tuner:
    """A model that is tuned, beside the pretrained one.

    Args:
        model: The pretrained model; its network is tuned in place.
        settings: Resolved.
        scorer: What judges crystals.
        groups: Space groups, in turn; by default as often as among the training crystals.
        wanted: Hard conditions.
        properties: Soft conditions by name.
        pairs: For preferences from files: P better crystals, then P worse ones.
    """

    def __init__(
        self,
        model: Model,
        settings: Settings,
        scorer: Scorer,
        groups: list[int] | None = None,
        wanted: Wanted | None = None,
        properties: Mapping[str, float] | None = None,
        pairs: CrystalBatch | None = None,
    ) -> None:
        self.model, self.settings, self.scorer = model, settings, scorer
        self.groups, self.wanted = groups or [], known_only(model, wanted or Wanted())
        self.properties = dict(properties or {})
        self.network = model.network.eval()
        self.pretrained = copy.deepcopy(model.network).eval().requires_grad_(False)
        self.condition = soft_conditions(model, self.wanted, self.properties)
        self.optimizer = torch.optim.Adam(self.network.parameters(), settings.lr)
        self.rng = np.random.default_rng(settings.seed)
        self.epoch, self.beta = 0, settings.beta
        self.baseline: float | None = None
        self.pairs = None if pairs is None else Sites.of(pairs.padded(self.network.shape.n_max)).to(model.device)
        if self.pairs is not None:
            self.pair_reference = self._fixed(self.pretrained, self.pairs, None)

    def draw(self) -> Draw:
        """Crystals from the model as it is, judged.

        Raises:
            InputError: for conditions that cannot be had, or a first batch without any reward.
        """
        size, turn = self.settings.batchsize, 0
        if self.groups:
            turn = self.epoch * size % len(self.groups)
        made = sample(
            self.model, size, self.groups[turn:] + self.groups[:turn], wanted=self.wanted, properties=self.properties,
            min_distance=0.0, seed=self.rng,
        )  # fmt: skip
        crystals = made.crystals.padded(self.network.shape.n_max)
        sites = Sites.of(crystals).to(self.model.device)
        permitted = replayed(self.network, sites, self.wanted)
        scores = self.scorer(crystals)
        logp, reference = (self._fixed(network, sites, permitted) for network in (self.network, self.pretrained))
        return Draw(crystals, sites, permitted, scores, logp, reference)

    def update(self, draw: Draw, report: Callable[[], None] = lambda: None) -> dict[str, float]:
        """Learn from a batch.

        Args:
            draw: Of :meth:`draw`, by the present weights.
            report: Called after each step.

        Returns:
            Loss of the first step, and how far the steps went.
        """
        row = self._prefer(draw, report) if self.settings.method == "dpo" else self._reinforce(draw, report)
        target = self.settings.target_kl
        if target is not None:
            far = float(draw.leash.mean())
            self.beta *= 1.5 if far > 1.5 * target else 1 / 1.5 if far < target / 1.5 else 1.0
        self.epoch += 1
        return row

    def advantages(self, draw: Draw) -> Tensor:
        """(B,) how much better each crystal is than the baseline, which moves on."""
        worth = draw.scores.value - draw.scores.penalty - self.beta * draw.leash
        mean = float(worth.mean())
        if self.settings.baseline == "batch" or self.baseline is None:
            self.baseline = mean
        else:
            self.baseline = DECAY * self.baseline + (1 - DECAY) * mean
        advantage = worth - self.baseline
        if self.settings.standardise:
            advantage = advantage / (np.sqrt((advantage**2).mean()) + 1e-8)
        return torch.from_numpy(advantage).float().to(self.model.device)

    def _reinforce(self, draw: Draw, report: Callable[[], None]) -> dict[str, float]:
        settings, advantage = self.settings, self.advantages(draw)
        eps = None if settings.method == "reinforce" else settings.eps_clip
        losses, clipped = [], 0.0
        for _ in range(settings.ppo_epochs):
            self.optimizer.zero_grad(set_to_none=True)
            total, out = 0.0, 0
            for rows in torch.split(torch.arange(len(advantage), device=advantage.device), CHUNK):
                change = self._logp(draw.sites[rows], rows, draw.permitted) - draw.logp[rows]
                if settings.ratio == "crystal":
                    change = change.sum(1, keepdim=True)
                loss = policy_loss(change, advantage[rows], eps) * (len(rows) / len(advantage))
                loss.backward()  # type: ignore[no-untyped-call]
                total += float(loss.detach())
                out += int((change.detach().expm1().abs() > settings.eps_clip).sum()) * 4 // change.shape[1]
            self._step()
            losses.append(total)
            clipped += out / (4 * len(advantage) * settings.ppo_epochs)
            report()
        return {"loss": losses[0], "clipped": clipped}

    def _prefer(self, draw: Draw, report: Callable[[], None]) -> dict[str, float]:
        settings = self.settings
        if self.pairs is not None:
            count, batches = len(self.pairs) // 2, batches_of(len(self.pairs) // 2, settings.batchsize, self.rng)
            sites, reference, permitted = self.pairs, self.pair_reference, None
            rows = [(batch, batch + count) for batch in batches]
        else:
            better, worse = ranked_pairs(draw.crystals.group, draw.scores.value - draw.scores.penalty)
            sites, reference, permitted = draw.sites, draw.reference, draw.permitted
            rows = [(torch.from_numpy(better), torch.from_numpy(worse))] * settings.ppo_epochs if len(better) else []
        losses, right = [], 0.0
        for better_rows, worse_rows in rows:
            both = torch.cat([better_rows, worse_rows]).to(self.model.device)
            count = len(better_rows)
            logp, before = self._logp(sites[both], both, permitted).sum(1), reference[both].sum(1)
            loss = preference_loss(
                logp[:count], logp[count:], before[:count], before[count:],
                settings.beta, settings.label_smoothing, settings.gamma, settings.ipo,
            )  # fmt: skip
            self.optimizer.zero_grad(set_to_none=True)
            loss.value.backward()  # type: ignore[no-untyped-call]
            self._step()
            losses.append(float(loss.value.detach()))
            right += float((loss.margin > 0).float().mean()) / len(rows)
            report()
        return {"loss": float(np.mean(losses)) if losses else 0.0, "preferred": right}

    def _step(self) -> None:
        norm = torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.settings.clip_grad)
        if torch.isfinite(norm):
            self.optimizer.step()

    def _logp(self, sites: Sites, rows: Tensor, permitted: Permitted | None) -> Tensor:
        return log_likelihood(
            self.network, sites, self._given(len(rows)), None if permitted is None else permitted[rows]
        )

    def _given(self, size: int) -> Given | None:
        return None if self.condition is None else self.condition[torch.zeros(size, dtype=torch.long)]

    @torch.no_grad()
    def _fixed(self, network: Any, sites: Sites, permitted: Permitted | None) -> Tensor:
        parts = []
        for rows in torch.split(torch.arange(len(sites), device=self.model.device), CHUNK):
            allowed = None if permitted is None else permitted[rows]
            parts.append(log_likelihood(network, sites[rows], self._given(len(rows)), allowed))
        return torch.cat(parts)

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Everything that tuning goes on from: tensors, and numbers as JSON."""
        tensors = {f"network.{name}": value for name, value in self.network.state_dict().items()}
        numbers = {"epoch": self.epoch, "beta": self.beta, "baseline": self.baseline}
        generators = {"rng": self.rng.bit_generator.state, "scorer": self.scorer.state()}
        return tensors | optimizer_tensors(self.optimizer), numbers | generators

    def load_state(self, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
        """The inverse of :meth:`state`."""
        weights = {name.removeprefix("network."): t for name, t in tensors.items() if name.startswith("network.")}
        self.network.load_state_dict(weights)
        load_optimizer(self.optimizer, tensors)
        self.rng.bit_generator.state = meta["rng"]
        self.scorer.load_state(meta["scorer"])
        self.epoch, self.beta, self.baseline = int(meta["epoch"]), float(meta["beta"]), meta["baseline"]
