"""A reward changes what a trained model writes: ``python examples/tune_crystals.py``.

crystal_gpt is trained on the bundled crystals for some seconds and then tuned towards a volume of 14 Å³ per atom in the
space group of the perovskites, on a leash to the pretrained model. The last lines say what that brings and what it
costs: nats of held-out crystals, and the share of crystals that differ from one another.
"""

import argparse

from megen_gym.agents.crystal_gpt.settings import Settings
from megen_gym.agents.crystal_gpt.train import train
from megen_gym.agents.crystal_gpt.tune import tune
from megen_gym.agents.crystal_gpt.tune_settings import Settings as TuneSettings

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--max_time", type=float, default=10.0, help="seconds of training")
parser.add_argument("--epochs", type=int, default=8, help="batches of 100 crystals to tune with")
options = parser.parse_args()

pretrained = train(Settings(max_time=options.max_time, progress=False, name="bundled"))
tune(
    TuneSettings(
        run=str(pretrained.path), reward="volume_per_atom", reward_kwargs='{"target": 14}', spacegroup="221",
        epochs=options.epochs, progress=False,
    )
)  # fmt: skip
