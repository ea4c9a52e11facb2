"""The codec is total, exact both ways, and the same in numpy and torch."""

import numpy as np
import pytest
import torch

from megen_gym.actions import ElementCodec, FocalCodec, FractionalCodec, Placement, Site
from megen_gym.errors import InputError

CODEC = FocalCodec(2.3, 3.1)
RNG = np.random.default_rng(0)


def masks(size: int) -> tuple[np.ndarray, np.ndarray]:
    focus = (RNG.random((size, 9)) < 0.6).astype(np.int8)
    element = (RNG.random((size, 4)) < 0.6).astype(np.int8)
    focus[:, 3], element[:, 2] = 1, 1
    return focus, element


def test_decode_respects_masks_and_ranges() -> None:
    focus, element = masks(500)
    action = RNG.uniform(-1, 1, (500, 6))
    got = CODEC.decode(action, focus, element)
    rows = np.arange(500)
    assert focus[rows, got.focus].all()
    assert element[rows, got.element].all()
    assert ((got.distance >= 2.3) & (got.distance <= 3.1)).all()
    np.testing.assert_allclose(np.linalg.norm(got.direction, axis=1), 1)


def test_every_allowed_choice_is_reached_equally() -> None:
    focus = np.tile(np.array([[1, 0, 1, 1, 0]], dtype=np.int8), (6000, 1))
    element = np.tile(np.array([[0, 1, 1]], dtype=np.int8), (6000, 1))
    got = CODEC.decode(RNG.uniform(-1, 1, (6000, 6)), focus, element)
    assert np.bincount(got.focus, minlength=5)[[0, 2, 3]].min() > 1850
    assert np.bincount(got.element, minlength=3)[[1, 2]].min() > 2850


def test_round_trip() -> None:
    focus, element = masks(300)
    first = CODEC.decode(RNG.uniform(-1, 1, (300, 6)), focus, element)
    second = CODEC.decode(CODEC.encode(first, focus, element), focus, element)
    for a, b in zip(first, second, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-12)


def test_total() -> None:
    focus, element = masks(4)
    wild = np.array(
        [[9, -9, 7, 0, 0, 0], [np.nan] * 6, [1, 1, 1, 1e-30, 0, 0], [-1, -1, -1, np.inf, 0, 0]], dtype=float
    )
    got = CODEC.decode(wild, focus, element)
    assert np.isfinite(got.distance).all()
    np.testing.assert_allclose(np.linalg.norm(got.direction, axis=1), 1)
    np.testing.assert_array_equal(got.direction[0], [0, 0, 1])
    empty = CODEC.decode(wild, 0 * focus, 0 * element)
    assert (empty.focus == 0).all()
    assert (empty.element == 0).all()


def test_torch_and_numpy_agree() -> None:
    focus, element = masks(200)
    action = RNG.uniform(-1, 1, (200, 6)).astype(np.float32)
    mine = CODEC.decode(action, focus, element)
    theirs = CODEC.decode(torch.from_numpy(action), torch.from_numpy(focus), torch.from_numpy(element))
    for a, b in zip(mine, theirs, strict=True):
        np.testing.assert_allclose(a, b.numpy(), rtol=1e-6)
    back = CODEC.encode(Placement(*theirs), torch.from_numpy(focus), torch.from_numpy(element))
    np.testing.assert_allclose(back.numpy(), CODEC.encode(mine, focus, element), rtol=1e-5, atol=1e-6)


def test_bad_range() -> None:
    with pytest.raises(InputError, match="shortest < longest"):
        FocalCodec(3.0, 2.0)


@pytest.mark.parametrize("scores", [0, 4])
def test_fractional_round_trip_and_masks(scores: int) -> None:
    codec = FractionalCodec(scores)
    _, mask = masks(300)
    action = RNG.uniform(-1, 1, (300, codec.size))
    site = codec.decode(action, mask)
    assert mask[np.arange(300), site.element].all()
    assert ((site.fractions >= 0) & (site.fractions <= 1)).all()
    again = codec.decode(codec.encode(site), mask if scores else np.eye(4)[site.element])
    np.testing.assert_array_equal(again.element, site.element)
    np.testing.assert_allclose(again.fractions, site.fractions, atol=1e-15)


def test_fractional_ends_and_choice() -> None:
    codec = FractionalCodec(3)
    mask = np.array([[0, 1, 1], [0, 1, 0], [0, 0, 0]])
    action = np.array([[1.0, -1, 0, -1, 1, 0]] * 3)
    site = codec.decode(action, mask)
    assert site.element.tolist() == [2, 1, 0]
    np.testing.assert_array_equal(site.fractions, [[0, 1, 0.5]] * 3)


def test_fractional_is_total() -> None:
    codec = FractionalCodec(2)
    wild = np.array([[np.nan] * 5, [np.inf, -np.inf, 9, -9, np.nan], [-1e30, -7, np.inf, -np.inf, 0]])
    site = codec.decode(wild, np.array([[0, 1]] * 3))
    assert site.element.tolist() == [1, 1, 1]
    np.testing.assert_array_equal(site.fractions, [[0.5, 0.5, 0.5], [1, 0, 0.5], [1, 0, 0.5]])
    with pytest.raises(InputError, match="number of symbols"):
        FractionalCodec(1)


@pytest.mark.parametrize("scores", [0, 4])
def test_fractional_torch_and_numpy_agree(scores: int) -> None:
    codec = FractionalCodec(scores)
    _, mask = masks(100)
    action = RNG.uniform(-1, 1, (100, codec.size)).astype(np.float32)
    mine, theirs = codec.decode(action, mask), codec.decode(torch.from_numpy(action), torch.from_numpy(mask))
    for a, b in zip(mine, theirs, strict=True):
        np.testing.assert_allclose(a, b.numpy())
    back = codec.encode(theirs)
    assert back.dtype is torch.float32
    np.testing.assert_allclose(back.numpy(), codec.encode(Site(*mine)))


def test_elements_are_refused_where_masked_or_unknown() -> None:
    codec = ElementCodec(3)
    mask = np.array([[0, 1, 1]] * 5)
    element, allowed = codec.decode(np.array([0, 1, 2, 3, -1]), mask)
    assert element.tolist() == [0, 1, 2, 0, 0]
    assert allowed.tolist() == [False, True, True, False, False]
    torch_element, torch_allowed = codec.decode(torch.tensor([0, 1, 2, 3, -1]), torch.from_numpy(mask))
    assert torch_element.tolist() == element.tolist()
    assert torch_allowed.tolist() == allowed.tolist()
