"""Judge a frozen encoder: ``python agents/polysrl/test_representation.py --data expt_gap.csv``.

A perceptron learns the property from vectors that stay as they are. Element statistics with trees stand beside it, on
the same folds. Documentation: docs/polysrl.md.
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
def representation(settings: Settings, given: Collection[str] | None = None) -> runs.Run:
    """Judge on every fold; see :func:`.testing.judge`."""
    return judge(settings, True, given, "python agents/polysrl/test_representation.py")


def main() -> None:
    """Command line."""
    from megen_gym.cli import run

    representation(run(Settings), given_on_command_line())


if __name__ == "__main__":
    main()
