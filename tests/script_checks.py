"""What the tests of scripts share: command lines, how one is refused, and runs that must be the same."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np
import pytest
import torch

from megen_gym.runs import Run


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


def same_runs(first: Run, second: Run, clock: Collection[str] = ("seconds",)) -> None:
    """Metrics, state and weights are equal to the bit, but for the columns of the clock."""
    one, two = first.metrics(), second.metrics()
    assert set(one) == set(two)
    for name in set(one) - set(clock):
        np.testing.assert_array_equal(one[name], two[name], err_msg=name)
    same_tensors(first.load_state()[0], second.load_state()[0])
    same_tensors(first.load_weights(), second.load_weights())


def same_tensors(first: Mapping[str, torch.Tensor], second: Mapping[str, torch.Tensor]) -> None:
    """Names and values are equal to the bit."""
    assert set(first) == set(second)
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name
