"""Write the structures that a run built: ``python structures.py --symbols=X,Ga``; all options: ``--help``."""

import sys

from megen_gym.analysis.export import bare_flags, export_structures
from megen_gym.cli import run

if __name__ == "__main__":
    run(export_structures, bare_flags(sys.argv[1:]))
