"""Draw the learning curves of one or several runs: ``python plot.py --dir runs``; all options: ``--help``."""

from jsonargparse import auto_cli

from megen_gym.analysis.curves import plot_learning_curves
from megen_gym.errors import user_errors

if __name__ == "__main__":
    user_errors(auto_cli)(plot_learning_curves, as_positional=False)
