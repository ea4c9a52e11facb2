"""Write the structures that a run built: ``python structures.py --symbols=X,Ga``; all options: ``--help``."""

import sys

from jsonargparse import auto_cli

from megen_gym.analysis.export import bare_flags, export_structures
from megen_gym.errors import user_errors

if __name__ == "__main__":
    user_errors(auto_cli)(export_structures, as_positional=False, args=bare_flags(sys.argv[1:]))
