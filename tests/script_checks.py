"""What the tests of scripts share: command lines, how one is refused or killed, and runs that must be the same."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from megen_gym import runs
from megen_gym.runs import Run

ROOT = Path(__file__).resolve().parents[1]


def command_line(settings: Mapping[str, Any]) -> list[str]:
    """Settings as the words of a command line."""
    return [f"--{name}={str(value).lower() if isinstance(value, bool) else value}" for name, value in settings.items()]


def refusal(call: Callable[[], object], capsys: pytest.CaptureFixture[str]) -> str:
    """The one sentence with which a script ends, with exit code 2."""
    with pytest.raises(SystemExit) as end:
        call()
    assert end.value.code == 2
    sentence = capsys.readouterr().err
    assert len(sentence.strip().splitlines()) == 1, sentence
    return sentence


def killed(command: Sequence[str], folder: Path, lines: int = 3, table: str = "metrics.csv") -> Run:
    """The run that a script was at in `folder` when it was killed, which is as soon as its table has so many lines."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and process.poll() is None:
            if any(len(path.read_text().splitlines()) >= lines for path in folder.glob(f"*/{table}")):
                break
            time.sleep(0.01)
        process.kill()
    return runs.newest(folder)


def same_runs(first: Run, second: Run, clock: Collection[str] = ("seconds",)) -> None:
    """Metrics, state and weights are equal to the bit, but for the columns of the clock."""
    one, two = first.metrics(), second.metrics()
    assert set(one) == set(two)
    for name in set(one) - set(clock):
        np.testing.assert_array_equal(one[name], two[name], err_msg=name)
    same_tensors(first.load_state()[0], second.load_state()[0])
    same_tensors(first.load_weights(), second.load_weights())


def same_tensors(first: Mapping[str, torch.Tensor], second: Mapping[str, torch.Tensor]) -> None:
    """Names and values are equal to the bit; what is unknown in one (NaN) is so in the other."""
    assert set(first) == set(second)
    for name, tensor in first.items():
        torch.testing.assert_close(tensor, second[name], rtol=0, atol=0, equal_nan=True, msg=name)
