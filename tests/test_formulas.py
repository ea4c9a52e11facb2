"""Formulas: what is read, what is the same composition, what is refused and how."""

import time

import pytest

from megen_gym.bags import parse_formula
from megen_gym.errors import InputError
from megen_gym.formulas import amounts_of, formula_type, read_formula, reduced


@pytest.mark.parametrize(
    ("formula", "amounts"),
    [
        ("BaTiO3", {"Ba": 1, "Ti": 1, "O": 3}),
        ("Ag(W3Br7)2", {"Ag": 1, "W": 6, "Br": 14}),
        ("Ag0.5Ge1Pb1.75S4", {"Ag": 0.5, "Ge": 1, "Pb": 1.75, "S": 4}),
        ("Li.5O2.", {"Li": 0.5, "O": 2}),
        ("CH3CH2OH", {"C": 2, "H": 6, "O": 1}),
        ("K4[Fe(CN)6]", {"K": 4, "Fe": 1, "C": 6, "N": 6}),
        ("{[(Fe)2]O}3", {"Fe": 6, "O": 3}),
        ("(Mg0.5Fe0.5)2SiO4", {"Mg": 1, "Fe": 1, "Si": 1, "O": 4}),
        ("Fe₂O₃", {"Fe": 2, "O": 3}),
        (" Fe2 O3 ", {"Fe": 2, "O": 3}),
        ("2H2O", {"H": 4, "O": 2}),
        ("CuSO4·5H2O", {"Cu": 1, "S": 1, "O": 9, "H": 10}),
        ("CuSO4 * 5 H2O", {"Cu": 1, "S": 1, "O": 9, "H": 10}),
        ("2CuSO4+0.5H2O+H2", {"Cu": 2, "S": 2, "O": 8.5, "H": 3}),
        ("Fe2.5e-1 O", {"Fe": 0.25, "O": 1}),
        ("(" * 2000 + "H" + ")" * 2000, {"H": 1}),
    ],
)
def test_reads(formula: str, amounts: dict[str, float]) -> None:
    found = amounts_of(formula)
    assert found == pytest.approx(amounts)
    assert list(found) == list(amounts)


@pytest.mark.parametrize(
    ("formula", "sentence"),
    [
        ("", "formula '' is empty; write it like BaTiO3"),
        ("  ", "is empty"),
        (None, "formula None is no text"),
        ("2", "ends where an element was expected"),
        ("Fe2o3", "unknown element 'o' at character 4 of formula 'Fe2o3'; did you mean 'O'?"),
        ("fe2O3", "unknown element 'fe' at character 1 of formula 'fe2O3'; did you mean 'Fe'?"),
        ("D2O", "unknown element 'D' .*did you mean 'H'?"),
        ("Xx2O", "unknown element 'Xx' at character 1 of formula 'Xx2O'; it is none of the 118 that are known"),
        ("Cx2O", "unknown element 'Cx' .*did you mean 'C"),
        ("X2O", "unknown element 'X'"),
        ("Ga!", "there is '!' at character 3 of formula 'Ga!', where an element or a bracket was expected"),
        ("Fe-2", "there is '-' at character 3"),
        ("Fe2 3", "there is '3' at character 5"),
        ("Ca(OH", r"opens '\(' at character 3 for good; close it"),
        ("Ca(OH]2", r"bracket '\]' that closes none"),
        ("Ca)", "closes none"),
        ("Ca()2", "or an empty one, at character 4"),
        ("CuSO4·", "ends where an element was expected"),
        ("·H2O", "there is '·' at character 1"),
        ("Ca(H2O·H2O)", "there is '·' at character 7"),
        ("Fe0O", "has 0 atoms of Fe; give amounts above 0"),
        ("0H2O", "has 0 atoms of H"),
        ("H1e999", "has inf atoms of H"),
    ],
)
def test_refusals(formula: str, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        amounts_of(formula)


def test_same_compositions_have_one_key() -> None:
    texts = ("BaTiO3", "Ba2Ti2O6", "Ba0.2Ti0.2O0.6", "O3TiBa", "3BaTiO3", "Ba(TiO3)", "Ba0.1Ti0.1O0.3")
    assert len({reduced(amounts_of(text)) for text in texts}) == 1
    assert reduced(amounts_of("Fe2O3")) != reduced(amounts_of("FeO2"))
    halves = {reduced(amounts_of(text)) for text in ("AgGe127", "Ag0.1Ge12.7", "Ag0.7Ge88.9", "Ag0.3Ge38.1")}
    assert len(halves) == 1


@pytest.mark.parametrize(
    ("formula", "kind"),
    [
        ("Si", "A"),
        ("BaTiO3", "ABC3"),
        ("O6Al4", "A2B3"),
        ("Na4Cl4", "AB"),
        ("Li0.5Na0.5Cl", "ABC2"),
        ("Fe0.333O0.667", "AB2"),
        ("La0.85Sr0.15MnO3", "A3B17C20D60"),
        ("Ga0.123As0.877", "A0.123B0.877"),
        ("Ag2000Au", "AB2000"),
    ],
)
def test_types(formula: str, kind: str) -> None:
    assert formula_type(amounts_of(formula)) == kind


def test_types_of_many_elements_have_letters() -> None:
    from ase.data import chemical_symbols

    kind = formula_type(dict.fromkeys(chemical_symbols[1:], 1.0))
    assert kind.startswith("ABC")
    assert len(kind) == 26 + 2 * (118 - 26)


def test_is_fast() -> None:
    formulas = [f"Ba{i % 7 + 1}Ti{i % 5 + 1}O{i % 11 + 1}N{i / 100 + 0.5}" for i in range(5000)]
    start = time.perf_counter()
    for formula in formulas:
        amounts_of(formula)
    assert time.perf_counter() - start < 1.0


def test_reader_without_a_list_of_elements() -> None:
    assert read_formula("Xx2Q") == {"Xx": 2, "Q": 1}
    assert read_formula("Ga0") == {"Ga": 0}
    assert read_formula("") == {}


def test_whole_numbers_for_bags() -> None:
    assert parse_formula("Ca(OH)2") == {"Ca": 1, "O": 2, "H": 2}
    assert all(isinstance(count, int) for count in parse_formula("2H2O").values())
    assert parse_formula("Xx2") == {"Xx": 2}
    for text in ("Ga0.5", "methane", "C(", None, 3):
        with pytest.raises(InputError, match=r"formula .* cannot be read; write it like SF6"):
            parse_formula(text, "SF6")
