"""Which molecules are trained on, which judge, and which are left for a test; remembered with the run."""

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from megen_gym.agents.gschnet.filters import Filter, excluded
from megen_gym.agents.gschnet.molecules import Molecules
from megen_gym.agents.gschnet.preparing import Connectivity
from megen_gym.errors import InputError
from megen_gym.runs import atomic
from megen_gym.structure import IntArray

FILE = "split.npz"


@dataclass(frozen=True, eq=False)
class Split:
    """Indices of molecules after preparation, each at most once.

    Attributes:
        train: To learn from.
        valid: To judge by while training.
        test: The rest, and all that a filter excludes.
        n_excluded: How many those are.
    """

    train: IntArray
    valid: IntArray
    test: IntArray
    n_excluded: int = 0

    def save(self, path: str | Path, molecules: Molecules, settings: Connectivity) -> Path:
        """Write ``split.npz`` (SchNetPack's names of the parts) with what it belongs to, atomically.

        Args:
            path: File or run folder.
            molecules: That were split.
            settings: By which they were prepared.
        """
        path = _file(path)
        with atomic(path) as temporary, temporary.open("wb") as file:
            np.savez_compressed(
                file,
                train_idx=self.train,
                val_idx=self.valid,
                test_idx=self.test,
                n_excluded=np.array(self.n_excluded),
                rows=molecules.rows,
                fingerprint=np.array(molecules.fingerprint),
                **{name: np.array(value) for name, value in asdict(settings).items()},  # type: ignore[arg-type]
            )
        return path


def split(
    molecules: Molecules,
    num_train: int | float | None = None,
    num_val: int | float = 0.1,
    num_test: int | float | None = None,
    seed: int = 0,
    filters: Sequence[Filter] = (),
) -> Split:
    """Deal the molecules out at random.

    Args:
        molecules: (M).
        num_train: How many, or what share (a number below 1, or 1.0) of all; None for what the others leave.
        num_val: The same.
        num_test: The same, those excluded by filters among them; None for the rest.
        seed: The same seed gives the same parts.
        filters: A molecule that one of them matches is kept for the test.

    Raises:
        InputError: if there are not enough molecules, or a number is negative.
    """
    total = len(molecules)
    out = excluded(molecules, filters)
    gone = int(out.sum())
    valid, test = _count("num_val", num_val, total), _count("num_test", num_test, total)
    if test is not None and test < gone:
        raise InputError(
            f"num_test is {num_test}, but the filters keep {gone} of {total} molecules for the test; "
            "give at least as many, or leave num_test out"
        )
    rest = total - gone - (valid or 0) - ((test - gone) if test is not None else 0)
    train = _count("num_train", num_train, total)
    train = max(rest, 0) if train is None else train
    if not train or train > rest:
        by_filters = f", {gone} of them excluded by filters" if gone else ""
        raise InputError(
            f"num_train={num_train}, num_val={num_val} and num_test={num_test} need {train or 1} + {valid} + "
            f"{test or 0} molecules, but there are {total}{by_filters}; give smaller numbers or shares"
        )
    order = np.random.default_rng(seed).permutation(np.flatnonzero(~out))
    end = train + (valid or 0)
    left = order[end:] if test is None else order[end : end + test - gone]
    return Split(order[:train], order[train:end], np.concatenate([left, np.flatnonzero(out)]), gone)


def load_split(
    path: str | Path,
    molecules: Molecules,
    settings: Connectivity,
    num_train: int | float | None = None,
    num_val: int | float | None = None,
    num_test: int | float | None = None,
) -> Split:
    """The split of a run, as :meth:`Split.save` wrote it.

    Args:
        path: File or run folder.
        molecules: That it must belong to.
        settings: By which they are prepared.
        num_train: Checked where given, like the others.
        num_val: See there.
        num_test: See there.

    Raises:
        InputError: if it is missing or damaged, or belongs to other molecules, settings or sizes.
    """
    path = _file(path)
    if not path.exists():
        raise InputError(f"the split {path} does not exist; give the folder of a run, or train anew")
    try:
        with np.load(path, allow_pickle=False) as file:
            parts = [file[name].astype(np.int64) for name in ("train_idx", "val_idx", "test_idx")]
            old = {name: file[name].item() for name in asdict(settings)}
            mark, gone = str(file["fingerprint"]), int(file["n_excluded"])
    except (OSError, KeyError, ValueError, TypeError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(f"{path} is no complete split ({type(error).__name__}: {error}); restore it") from None
    if other := [f"{key}={old[key]} (now {new})" for key, new in asdict(settings).items() if old[key] != new]:
        raise InputError(f"the split {path} was made with {', '.join(other)}; use those settings, or train anew")
    if mark != molecules.fingerprint:
        raise InputError(
            f"the split {path} belongs to other molecules than the {len(molecules)} that were read; give the same data "
            "and settings, or train anew"
        )
    for name, wanted, part in zip(
        ("num_train", "num_val", "num_test"), (num_train, num_val, num_test), parts, strict=True
    ):
        count = _count(name, wanted, len(molecules))
        if count is not None and count != len(part):
            raise InputError(f"the split {path} has {len(part)} molecules where {name}={wanted}; leave it as it was")
    train, valid, test = parts
    return Split(train, valid, test, gone)


def _count(name: str, given: int | float | None, total: int) -> int | None:
    if given is None:
        return None
    if not math.isfinite(given) or given < 0 or (given > 1 and given != int(given)):
        raise InputError(f"{name} is {given}; give a number of molecules, or a share from 0 to 1")
    share = isinstance(given, float) and given <= 1
    return round(given * total) if share else int(given)


def _file(path: str | Path) -> Path:
    path = Path(path)
    return path if path.suffix == ".npz" else path / FILE
