"""Point groups."""

from __future__ import annotations

import numpy as np
import pytest

from megen_gym.errors import InputError
from megen_gym.point_groups import point_group

ORDERS = {
    "C1": 1, "C2": 2, "C6": 6, "C3v": 6, "C3h": 6, "S4": 4, "S6": 6, "D2": 4, "D3h": 12, "D2d": 8, "D3d": 12, "D6d": 24,
    "Cs": 2, "Ci": 2, "T": 12, "Td": 24, "Th": 24, "O": 24, "Oh": 48, "I": 60, "Ih": 120,
}  # fmt: skip
"""Operations of each, from the tables of any textbook."""


@pytest.mark.parametrize("name", ORDERS)
def test_a_group_is_closed_orthogonal_and_of_the_known_order(name: str) -> None:
    group = point_group(name)
    assert group.shape == (ORDERS[name], 3, 3)
    assert np.allclose(group[0], np.eye(3))
    assert np.allclose(np.einsum("gij,gkj->gik", group, group), np.eye(3))
    products = np.einsum("aij,bjk->abik", group, group).reshape(-1, 1, 9)
    away = np.abs(products - group.reshape(1, -1, 9)).max(2)
    assert (away.min(1) < 1e-9).all()
    assert ((away < 1e-9).sum(1) == 1).all()


@pytest.mark.parametrize(("name", "proper"), [("O", True), ("I", True), ("D5", True), ("Td", False), ("C4v", False)])
def test_rotations_alone_have_determinant_one(name: str, proper: bool) -> None:
    assert (np.linalg.det(point_group(name)) > 0).all() == proper


@pytest.mark.parametrize("name", ["", "C", "C0", "C13", "S3", "Q3", "D3x", "Tv", "oh"])
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(InputError, match="no point group"):
        point_group(name)


def test_nobody_changes_a_group_for_others() -> None:
    with pytest.raises(ValueError, match="read-only"):
        point_group("C2")[0] = 0.0
