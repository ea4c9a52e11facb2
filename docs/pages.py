"""What has a page. A new environment, reward or policy gets its page by being registered; all else is a row here.

Rows name things as ``"module:name"``. :mod:`build` writes the pages from their docstrings.
"""

from __future__ import annotations

A = "megen_gym.agents"
ENVS = "megen_gym.envs"

ENVIRONMENTS = {
    "vector": ("The vector environment", (f"{ENVS}.vector:StructureVectorEnv",)),
    "stable_baselines3": ("The Stable-Baselines3 adapter", (f"{ENVS}.sb3:SB3VecEnv",)),
}
"""Pages beside those of the registered environments: title, and what stands on the page."""

GROUPS = {
    "Energies": ("dart", "soap_ridge", "lennard_jones", "calculator"),
    "Geometry": ("contacts", "distance", "novelty", "megen"),
    "Crystals": ("density", "volume_per_atom", "valid", "property", "discriminator"),
    "Molecules": ("molecule_valid", "target"),
    "Any structure": ("composition", "sum"),
}
"""The rewards in the order of their list; a registered one that is not here comes last."""

POLICIES = {
    "covariant": ("Covariant actor-critic", (f"{A}.covariant.policy:CovariantPolicy",
                                             f"{A}.covariant.settings:CovariantSettings")),
    "ppo": ("Stable-Baselines3's PPO", ()),
    "cryingan": ("CryinGAN", (f"{A}.cryingan.policy:CryinGANPolicy", f"{A}.cryingan.generator:SiteGenerator",
                              f"{A}.cryingan.sites:Sites")),
    "cryingan_refined": ("CryinGAN's proposals, refined by an agent", (f"{A}.cryingan.refine:RefineTask",)),
    "crystal_gpt": ("crystal_gpt", ()),
    "gschnet": ("G-SchNet", ()),
    "random": ("Random valid placement", ()),
    "greedy": ("Greedy best of k", ()),
    "compact": ("Many neighbours first", ()),
    "basin_hopping": ("Basin hopping (ASE)", ()),
    "scipy_basin_hopping": ("Basin hopping (SciPy)", ()),
    "minima_hopping": ("Minima hopping (ASE)", ()),
    "random_search": ("Random search", ()),
    "symmetric_search": ("Symmetric search", ()),
    "regrow": ("Regrow: a policy as the proposal of basin hopping", ()),
}  # fmt: skip
"""Title, and what stands on the page, the policy first; by default its manual in the registry. A registered one that
is not here comes last, under its name."""

ANALYSIS = {
    "All metrics": "megen_gym.analysis.compare:compare",
    "The quick ones": "megen_gym.analysis.compare:quick_score",
    "Atoms that are too close": "megen_gym.analysis.apart:move_apart",
    "Relaxation at fixed cell": "megen_gym.analysis.batches:relax_in_batches",
    "Energies": "megen_gym.analysis.energies:energy_metrics",
    "Site motifs": "megen_gym.analysis.motifs:site_motifs",
    "Back to a lattice": "megen_gym.analysis.snap:snap",
    "Generated crystals": "megen_gym.analysis.crystal_report:crystal_report",
}
"""Sections of the page about analysis."""

CARDS = {
    "rewards/dart/data/dart_ga": "Model card: DART",
    "rewards/dart/data/soap_ga": "Model card: SOAP",
    "agents/polysrl/bundle/README": "Model card: PolySRL",
}
"""Markdown beside the weights that is on the site too, from the root of the repository, and its title there."""

NAVIGATION = {
    "Start": ("getting_started", "comparing", "extending", "examples", "Migrating <migrating>"),
    "Reference": ("environments", "rewards", "policies", "analysis"),
    "Methods": ("cryingan", "crystal_gpt", "gschnet", "polysrl"),
    "Figures": ("benchmarks", *(f"{title} </{card}>" for card, title in CARDS.items())),
}
"""Side bar of the site: caption, and pages in docs/; those of a folder with a page's name stand below it."""
