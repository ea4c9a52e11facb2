"""Draw the learning curves of one or several runs: ``python plot.py --dir runs``; all options: ``--help``."""

from megen_gym.analysis.curves import plot_learning_curves
from megen_gym.cli import run

if __name__ == "__main__":
    run(plot_learning_curves)
