"""Judge a network that learns a property as a whole: ``python agents/polysrl/test_transfer.py --data expt_gap.csv``.

With ``--model RUN`` (or "bundle") a trained encoder is fine-tuned, else a new one is trained. Element statistics with
trees stand beside it, on the same folds. Documentation: docs/polysrl.md.
"""

from __future__ import annotations

import sys
from collections.abc import Collection
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent.parent)

from megen_gym import runs
from megen_gym.agents.nn.resuming import given_on_command_line
from megen_gym.agents.polysrl.testing import Settings, judge
from megen_gym.errors import user_errors


@user_errors
def transfer(settings: Settings, given: Collection[str] | None = None) -> runs.Run:
    """Judge on every fold; see :func:`.testing.judge`."""
    return judge(settings, False, given, "python agents/polysrl/test_transfer.py")


def main() -> None:
    """Command line."""
    from megen_gym.cli import run

    transfer(run(Settings), given_on_command_line())


if __name__ == "__main__":
    main()
