"""Write docs/environments.md, rewards.md, policies.md and analysis.md from the docstrings: ``python docs/build.py``.

A test fails when a page is older than its docstrings.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from megen_gym.agents.baselines import Greedy, RandomValid
from megen_gym.agents.covariant.policy import CovariantPolicy
from megen_gym.agents.covariant.settings import CovariantSettings
from megen_gym.agents.cryingan.generator import SiteGenerator
from megen_gym.agents.cryingan.policy import CryinGANPolicy
from megen_gym.agents.cryingan.refine import RefineTask
from megen_gym.agents.cryingan.sites import Sites
from megen_gym.agents.crystal_gpt.policy import CrystalPolicy
from megen_gym.agents.gschnet.policy import GSchNetPolicy
from megen_gym.analysis import apart, batches, compare, crystal_report, energies, motifs, snap
from megen_gym.envs.clusters import ClusterEnv, GaClusterEnv
from megen_gym.envs.crystals import CrystalSlotsEnv
from megen_gym.envs.molecules import MoleculeEnv
from megen_gym.envs.sb3 import SB3VecEnv
from megen_gym.envs.vector import StructureVectorEnv
from megen_gym.envs.wyckoff import CrystalWyckoffEnv
from megen_gym.rewards.calculator import CalculatorReward
from megen_gym.rewards.combine import SumReward
from megen_gym.rewards.composition import CompositionReward
from megen_gym.rewards.crystals import DensityReward, ValidReward, VolumeReward
from megen_gym.rewards.dart.reward import Dart
from megen_gym.rewards.dart.soap import SoapRidge
from megen_gym.rewards.discriminator import DiscriminatorReward
from megen_gym.rewards.megen import MegenReward
from megen_gym.rewards.molecules import MoleculeValidReward, TargetReward
from megen_gym.rewards.novelty import NoveltyReward
from megen_gym.rewards.penalties import ContactReward, DistanceReward
from megen_gym.rewards.property import PropertyReward

PAGES: dict[str, tuple[str, dict[str, Callable[..., Any]]]] = {
    "environments": (
        "After `import megen_gym`: `gym.make(id, ...)`, or `gym.make_vec(id, num_envs, ...)` for many at once.",
        {
            "GaCluster-v0": GaClusterEnv,
            "Cluster-v0": ClusterEnv,
            "Molecule-v0": MoleculeEnv,
            "CrystalSlots-v0": CrystalSlotsEnv,
            "CrystalWyckoff-v0": CrystalWyckoffEnv,
            "The vector environment": StructureVectorEnv,
            "The Stable-Baselines3 adapter": SB3VecEnv,
        },
    ),
    "rewards": (
        "Rewards are found by name: `gym.make(..., reward=name, reward_kwargs={...})` or `make_reward(name, ...)`.",
        {
            "dart": Dart,
            "soap_ridge": SoapRidge,
            "megen": MegenReward,
            "calculator": CalculatorReward,
            "contacts": ContactReward,
            "distance": DistanceReward,
            "discriminator": DiscriminatorReward,
            "novelty": NoveltyReward,
            "density": DensityReward,
            "volume_per_atom": VolumeReward,
            "valid": ValidReward,
            "molecule_valid": MoleculeValidReward,
            "target": TargetReward,
            "property": PropertyReward,
            "composition": CompositionReward,
            "sum": SumReward,
        },
    ),
    "policies": (
        "A policy is anything with Stable-Baselines3's `predict(observation, state, episode_start, deterministic)`; "
        "SB3 models are policies as they are. `python agents/ppo_train.py --help`, "
        "`python agents/cryingan/train.py --help`, `python agents/crystal_gpt/train.py --help` and "
        "`python agents/gschnet/train.py --help` list every setting.",
        {
            "Covariant actor-critic": CovariantPolicy,
            "Its settings": CovariantSettings,
            "CryinGAN": CryinGANPolicy,
            "CryinGAN's proposals, refined by an agent": RefineTask,
            "CryinGAN's default generator": SiteGenerator,
            "What it starts from": Sites,
            "crystal_gpt": CrystalPolicy,
            "G-SchNet": GSchNetPolicy,
            "Random valid placement": RandomValid,
            "Greedy best of k": Greedy,
        },
    ),
    "analysis": (
        "Structures of one cell and one composition beside a reference, with bootstrap intervals and what the data "
        "reach: `python -m megen_gym analyse gen.extxyz --reference train.extxyz --out judged`. In Python:",
        {
            "All metrics": compare.compare,
            "The quick ones": compare.quick_score,
            "Atoms that are too close": apart.move_apart,
            "Relaxation at fixed cell": batches.relax_in_batches,
            "Energies": energies.energy_metrics,
            "Site motifs": motifs.site_motifs,
            "Back to a lattice": snap.snap,
            "Generated crystals": crystal_report.crystal_report,
        },
    ),
}


def page(name: str) -> str:
    """Markdown of one page."""
    intro, parts = PAGES[name]
    text = [f"# {name.capitalize()}", "", intro]
    for title, thing in parts.items():
        manual = (inspect.getdoc(thing) or "").replace("\n## ", "\n### ")
        signature = f"{thing.__module__}.{thing.__qualname__}"
        text += ["", f"## {title}", "", f"`{signature}`", "", manual]
    return "\n".join(text) + "\n"


if __name__ == "__main__":
    for name in PAGES:
        (Path(__file__).parent / f"{name}.md").write_text(page(name))
