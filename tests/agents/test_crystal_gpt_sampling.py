"""Drawing from crystal_gpt: its own density, hard conditions, chains, and the policy of CrystalWyckoff-v0."""

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from ase.neighborlist import neighbor_list
from scipy import stats

import megen_gym  # noqa: F401
from megen_gym.agents.crystal_gpt.conditions import Given, Known
from megen_gym.agents.crystal_gpt.encoding import Sites
from megen_gym.agents.crystal_gpt.generate import histogram, sample, soft_conditions
from megen_gym.agents.crystal_gpt.mcmc import Chain, run_chains
from megen_gym.agents.crystal_gpt.model import Model
from megen_gym.agents.crystal_gpt.network import CrystalGPT, Shape
from megen_gym.agents.crystal_gpt.policy import CrystalPolicy
from megen_gym.agents.crystal_gpt.sampling import Drawing, Sampler
from megen_gym.agents.crystal_gpt.wanted import Template, Wanted, composition_goals
from megen_gym.cif import cif_text
from megen_gym.crystals import SYMBOLS, CrystalBatch
from megen_gym.envs.vector import make_vec
from megen_gym.errors import InputError
from megen_gym.lattices import cells_of, completed
from megen_gym.structure import FloatArray
from megen_gym.tasks.reach import Goals
from megen_gym.wyckoff import LETTERS, space_group, wyckoff_table

SMALL = Shape(n_max=4, layers=2, width=32, heads=2, key=8, hidden=32)
BUT_LATTICE = ("group", "letters", "elements", "coordinates")
KNOWN = Known(("gap",), (1.0,), (0.5,), ("composition", "elements", "n_atoms"))


@pytest.fixture
def double() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def network(order: str = "first", n_max: int = 4, known: Known | None = None, seed: int = 0) -> CrystalGPT:
    torch.manual_seed(seed)
    net = CrystalGPT(replace(SMALL, order=order, n_max=n_max), known)  # type: ignore[arg-type]
    for linear in (net.to_letter, net.to_element):
        torch.nn.init.normal_(linear.weight, std=0.25)
    last = net.cell.body[-1]
    assert isinstance(last, torch.nn.Linear)
    with torch.no_grad():
        last.bias[2 * net.shape.lattice_components : 3 * net.shape.lattice_components] = -1.0
        net.cell.center[0] = 1.2
    return net.eval()


def model_of(order: str = "first", n_max: int = 4, known: Known | None = None, seed: int = 0) -> Model:
    return Model(network(order, n_max, known, seed), {221: 3, 225: 2, 2: 5}, [3, 8, 22, 56], 40, {"gap": (0.0, 4.0)})


def sites_from(net: CrystalGPT, groups: list[int], seed: int = 0, **how: object) -> Sites:
    return Sampler(net, Drawing(), np.random.default_rng(seed)).sample(torch.tensor(groups), **how)  # type: ignore[arg-type]


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("order", ["first", "last"])
def test_the_cache_makes_the_contexts_of_finished_crystals(order: str, monkeypatch: pytest.MonkeyPatch) -> None:
    net, groups = network(order).double(), [1, 2, 47, 99, 166, 194, 221, 225] * 4
    seen: list[torch.Tensor] = []
    letter_logits = net.letter_logits
    monkeypatch.setattr(net, "letter_logits", lambda x, allowed: seen.append(x) or letter_logits(x, allowed))
    ends: list[torch.Tensor] = []
    draw = net.cell.sample
    monkeypatch.setattr(net.cell, "sample", lambda x, *rest: ends.append(x) or draw(x, *rest))
    sites = sites_from(net, groups)
    count = (sites.letters > 0).sum(1)
    assert set(count.tolist()) >= {1, 2, 3, 4}
    with torch.no_grad():
        context, end = net.contexts(sites)
    for step, found in enumerate(seen):
        rows = (count >= step).nonzero()[:, 0]
        assert len(found) == len(rows), "finished rows leave the batch"
        torch.testing.assert_close(found, context[rows, step], rtol=0, atol=1e-8)
    order_of_ends = torch.arange(len(groups)) if order == "first" else count.argsort(stable=True)
    torch.testing.assert_close(torch.cat(ends), end[order_of_ends], rtol=0, atol=1e-8)


@pytest.mark.parametrize("order", ["first", "last"])
def test_letters_and_elements_are_drawn_as_often_as_they_are_likely(order: str) -> None:
    net, size = network(order, 3), 15_000
    with torch.no_grad():
        net.to_letter.bias[:5] += 3
    few = np.zeros(119, dtype=bool)
    few[[8, 22]] = True
    lattice = torch.tensor([[5.0, 5, 5, *[math.pi / 2] * 3]]).expand(size, -1).double()
    sites = sites_from(net, [221] * size, lattice=lattice, wanted=Wanted(elements=few))
    plain = sites[(sites.letters[:, 0] < 5) & (sites.letters[:, 1] < 5) & (sites.letters[:, 2] < 5)]  # no free numbers
    counts = Counter(map(tuple, torch.cat([plain.letters, plain.elements], 1).tolist()))
    common = counts.most_common(40)
    table = torch.tensor([key for key, _ in common])
    crystals = Sites(
        torch.full((len(table),), 221), table[:, :3], table[:, 3:], torch.zeros(len(table), 3, 3), lattice[: len(table)]
    )
    index_fill = net.element_logits
    mask = torch.from_numpy(~few)
    net.element_logits = lambda context: index_fill(context).masked_fill(mask, -torch.inf)  # type: ignore[method-assign]
    with torch.no_grad():
        parts = net.log_prob(crystals)
    expected = size * (parts.w + parts.a).exp().double().numpy()
    often = expected > 30
    miss = (np.array([count for _, count in common]) - expected)[often] / np.sqrt(expected[often])
    assert often.sum() >= 5
    assert np.abs(miss).max() < 4.5
    assert (miss**2).mean() < 2.5


@pytest.mark.parametrize("order", ["first", "last"])
def test_coordinates_are_drawn_from_their_density(order: str) -> None:
    """One template site with x of any value: the draws follow log_prob along x."""
    net, size = network(order), 4000
    torch.nn.init.normal_(net.to_coordinate.weight, std=0.2)
    letter = space_group(225).letters.index("e")
    elements = np.zeros((1, 119), dtype=bool)
    elements[0, 26] = True
    template = Template(np.array([letter + 1]), elements, np.array([-1]), np.full((1, 3), np.nan), True)
    lattice = torch.tensor([[5.0, 5, 5, *[math.pi / 2] * 3]]).double()
    sites = sites_from(net, [225] * size, lattice=lattice.expand(size, -1), wanted=Wanted(template=template))
    assert (sites.letters[:, 0] == letter + 1).all()
    assert not sites.letters[:, 1:].any()
    count = 20_001
    many = sites[:1][torch.zeros(count, dtype=torch.long)]
    grid = torch.linspace(0, 2 * math.pi, count)
    many.angles[:, 0, 0] = grid
    with torch.no_grad():
        density = net.log_prob(many).xyz.exp().double().numpy()
    below = np.concatenate([[0], np.cumsum((density[1:] + density[:-1]) / 2)]) * float(grid[1])
    assert below[-1] == pytest.approx(1, abs=2e-3)
    assert stats.kstest(sites.angles[:, 0, 0].numpy(), lambda x: np.interp(x, grid.numpy(), below)).pvalue > 1e-3


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("order", ["first", "last"])
def test_whole_crystals_are_drawn_from_their_density(order: str) -> None:
    """The mean of q / p over draws is one: q likes other letters, elements, places and lattices than p does."""
    net, other, size = network(order, 2).double(), network(order, 2).double(), 4000
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter += 0.01 * torch.randn(parameter.shape, generator=generator)
        net.cell.floor = other.cell.floor = 0.05
    sites = sites_from(net, [99] * size)
    with torch.no_grad():
        weight = (other.log_prob(sites).total - net.log_prob(sites).total).exp()
    error = float(weight.std()) / size**0.5
    assert float(weight.std()) > 0.03
    assert error < 0.05
    assert abs(float(weight.mean()) - 1) < 4.5 * error


def test_seeds_repeat_and_differ() -> None:
    net, groups = network(), [2, 221, 99] * 5
    one, again, other = (sites_from(net, groups, seed) for seed in (1, 1, 2))
    for field in fields(one):
        assert torch.equal(getattr(one, field.name), getattr(again, field.name))
    assert not torch.equal(one.elements, other.elements)
    assert not torch.equal(one.lattice, other.lattice)


def test_temperature_and_top_p_narrow_the_choices() -> None:
    net, groups = network(), torch.full((500,), 2)
    kinds = {}
    for name, drawing in {
        "plain": Drawing(), "cold": Drawing(0.05), "frozen": Drawing(1e-6), "first": Drawing(1.0, 1e-6),
        "top": Drawing(top_p=1e-9), "most": Drawing(top_p=0.5),
    }.items():  # fmt: skip
        sites = Sampler(net, drawing, np.random.default_rng(0)).sample(groups)
        kinds[name] = [len(set(zip(*map(torch.Tensor.tolist, pair), strict=True))) for pair in (
            (sites.letters[:, 0], sites.elements[:, 0]), (sites.letters[:, 1], sites.elements[:, 1])
        )]  # fmt: skip
    assert kinds["plain"][0] > 100
    assert kinds["plain"][0] > kinds["most"][0] > 1
    assert kinds["plain"][0] > kinds["cold"][0]
    assert kinds["frozen"][0] == 1
    assert kinds["first"][0] < 20
    assert kinds["first"][1] > 50


@pytest.mark.parametrize("order", ["first", pytest.param("last", marks=pytest.mark.slow)])
def test_no_guidance_is_guidance_of_zero_and_guidance_favours_the_conditions(order: str) -> None:
    net, groups = network(order, known=KNOWN), torch.full((300,), 221)
    given = replace(Given.none(300, 1), properties=torch.full((300, 1), 4.0))
    drawn = [
        Sampler(net, Drawing(guidance=g), np.random.default_rng(0)).sample(groups, given) for g in (0.0, 1e-12, 6.0)
    ]
    plain = Sampler(net, Drawing(), np.random.default_rng(0)).sample(groups, given)
    assert torch.equal(plain.elements, drawn[0].elements)
    assert torch.equal(plain.lattice, drawn[0].lattice)
    with torch.no_grad():
        odds = [(net.log_prob(one, given).total - net.log_prob(one).total).mean() for one in drawn]
    assert abs(float(odds[0] - odds[1])) < 0.3
    assert float(odds[2]) > float(odds[0]) + 0.02


def test_guidance_compares_with_what_training_saw_without_conditions() -> None:
    net, groups = network(known=KNOWN), torch.full((50,), 221)
    nothing = Given.none(50, 1)
    guided, plain = (
        Sampler(net, Drawing(guidance=g, temperature=1e-6), np.random.default_rng(0)).sample(groups, nothing)
        for g in (5.0, 0.0)
    )
    assert guided.letters[:, 0].mode().values == plain.letters[:, 0].mode().values
    assert guided.elements[:, 0].mode().values == plain.elements[:, 0].mode().values


@pytest.mark.parametrize("order", ["first", "last"])
def test_full_lists_end_and_nothing_is_cut_off(order: str) -> None:
    net = network(order)
    with torch.no_grad():
        net.to_letter.bias[0] = -30
    sites = sites_from(net, [1] * 50 + [225] * 50)
    assert (sites.letters > 0).all()
    with torch.no_grad():
        total = net.log_prob(sites).total
    assert torch.isfinite(total).all()
    assert (sites.crystals().n_sites == 4).all()


def test_drawn_crystals_hold_the_representatives_of_their_sites() -> None:
    crystals = sites_from(network(), [156, 166, 194, 225, 99, 227] * 10).crystals()
    place = wyckoff_table().representative(crystals.position, crystals.coordinates)
    miss = (place - crystals.coordinates)[crystals.letters > 0]
    np.testing.assert_allclose(miss - np.rint(miss), 0, atol=1e-9)
    for text, group in zip(cif_text(crystals), crystals.group, strict=True):
        assert f"_space_group_IT_number {group}\n" in text


def counts_of(crystals: CrystalBatch, symbols: list[str]) -> np.ndarray:
    """(B, S) atoms of the named elements."""
    numbers = np.array([SYMBOLS.index(symbol) for symbol in symbols])
    return np.asarray(((crystals.elements[..., None] == numbers) * crystals.multiplicity[..., None]).sum(1))


@pytest.mark.parametrize("order", ["first", "last"])
@pytest.mark.parametrize(
    ("formula", "ratio", "n_atoms", "groups"),
    [
        ("BaTiO3", [1, 1, 3], 5, [221, 99, 123, 1, 38]),
        ("BaTiO3", [1, 1, 3], None, [221, 2, 47, 225, 12]),
        ("TiO2", [0, 1, 2], 6, [136, 2, 14, 1]),
        ("TiO2", [0, 1, 2], 12, [61, 141, 225, 62]),
    ],
)
def test_compositions_are_exact(
    order: str, formula: str, ratio: list[int], n_atoms: int | None, groups: list[int]
) -> None:
    goals = composition_goals(formula, n_atoms, 40)
    able = [number for number in groups if Wanted(goals=goals).can(number, 6)]
    assert len(able) >= 3
    crystals = sites_from(network(order, 6), able * 20, wanted=Wanted(goals=goals)).crystals()
    counts = counts_of(crystals, ["Ba", "Ti", "O"])
    np.testing.assert_array_equal(counts, counts.sum(1, keepdims=True) // sum(ratio) * np.array(ratio))
    np.testing.assert_array_equal(counts.sum(1), crystals.n_atoms)
    assert n_atoms is None or (crystals.n_atoms == n_atoms).all()


@pytest.mark.parametrize("n_atoms", [1, 4, 7, 12])
def test_numbers_of_atoms_and_elements_are_exact(n_atoms: int) -> None:
    allowed = np.zeros(119, dtype=bool)
    allowed[[6, 14, 32]] = True
    wanted = Wanted(allowed, Goals.of_size(119, 40, n_atoms))
    groups = [number for number in (1, 2, 47, 221, 225) if wanted.can(number, 12)]
    crystals = sites_from(network(n_max=12), groups * 20, wanted=wanted).crystals()
    assert (crystals.n_atoms == n_atoms).all()
    assert set(np.unique(crystals.elements[crystals.letters > 0])) <= {6, 14, 32}


def test_allowed_elements_alone() -> None:
    allowed = np.zeros(119, dtype=bool)
    allowed[[0, 79]] = True
    crystals = sites_from(network(), [221, 2, 99] * 20, wanted=Wanted(allowed)).crystals()
    assert (crystals.elements[crystals.letters > 0] == 79).all()
    with pytest.raises(InputError, match="no element is left for site 1"):
        sites_from(network(), [1], wanted=Wanted(np.zeros(119, dtype=bool)))


@pytest.mark.parametrize("letters", ["abc", "a", "bd", "aefi"])
def test_closed_lists_of_letters(letters: str) -> None:
    crystals = sites_from(network(), [221] * 30, wanted=Wanted(template=Template.of_letters(letters))).crystals()
    for row in crystals.letters:
        assert "".join(LETTERS[letter - 1] for letter in row if letter) == letters


def test_templates_keep_their_sites_elements_and_coordinates() -> None:
    elements = np.ones((3, 119), dtype=bool)
    elements[0] = np.arange(119) == 56
    elements[1] = np.isin(np.arange(119), [8, 16])
    coordinates = np.array([[0.25, 0.125, np.nan], [np.nan, 0.9, 0.1], [np.nan] * 3])
    template = Template(np.array([1, -1, -1]), elements, np.array([-1, -1, 1]), coordinates)
    net = network(n_max=5)
    crystals = sites_from(net, [1] * 200, wanted=Wanted(template=template)).crystals()
    assert (crystals.elements[:, 0] == 56).all()
    assert set(crystals.elements[:, 1].tolist()) == {8, 16}
    np.testing.assert_array_equal(crystals.elements[:, 2], crystals.elements[:, 1])
    np.testing.assert_allclose(crystals.coordinates[:, 0, :2], np.tile([0.25, 0.125], (200, 1)), atol=1e-6)
    np.testing.assert_allclose(crystals.coordinates[:, 1, 1:], np.tile([0.9, 0.1], (200, 1)), atol=1e-6)
    assert crystals.coordinates[:, 0, 2].std() > 0.1
    assert (crystals.n_sites >= 3).all()
    assert len(set(crystals.n_sites.tolist())) > 1, "an open template goes on"


def test_a_closed_template_and_a_composition() -> None:
    wanted = Wanted(goals=composition_goals("BaTiO3", 5, 40), template=Template.of_letters("abc"))
    crystals = sites_from(network(), [221] * 50, wanted=wanted).crystals()
    np.testing.assert_array_equal(counts_of(crystals, ["Ba", "Ti", "O"]), np.tile([1, 1, 3], (50, 1)))
    assert (crystals.letters[:, :3] == [1, 2, 3]).all()


@pytest.mark.parametrize(
    ("group", "n_max", "wanted", "message"),
    [
        (230, 4, Wanted(goals=composition_goals("BaTiO3", 5, 40)), "no set of Wyckoff sites of space group 230"),
        (1, 4, Wanted(goals=composition_goals("BaTiO3", 5, 40)), "n_max is 4, but the composition takes at least 5"),
        (225, 4, Wanted(goals=Goals.of_size(119, 40, 7)), "no set of Wyckoff sites of space group 225"),
        (221, 4, Wanted(template=Template.of_letters("ba")), "letter a comes behind b"),
        (221, 4, Wanted(template=Template.of_letters("aa")), "letter a comes behind a"),
        (1, 4, Wanted(template=Template.of_letters("aaaaa")), "5 sites were given, but the model has n_max=4"),
        (1, 4, Wanted(template=Template.of_letters("b")), "space group 1 .*no Wyckoff letter 'b'"),
    ],
)
def test_what_cannot_be_had_is_a_sentence(group: int, n_max: int, wanted: Wanted, message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        sites_from(network(n_max=n_max), [group], wanted=wanted)
    assert "\n" not in str(error.value)
    assert not wanted.can(group, n_max)


@pytest.mark.parametrize("n_atoms", [0, 7, 50])
def test_compositions_that_no_number_of_units_makes(n_atoms: int) -> None:
    with pytest.raises(InputError, match="n_atoms is"):
        composition_goals("BaTiO3", n_atoms, 40)


@pytest.mark.parametrize("distance", [1.0, 1.6])
def test_drawn_crystals_keep_the_distance(distance: float) -> None:
    model = model_of()
    drawn = sample(model, 30, [2, 99, 221], min_distance=distance, seed=3)
    assert len(drawn) == 30
    assert drawn.drawn > 30
    for atoms in drawn.crystals.to_atoms():
        assert not len(neighbor_list("i", atoms, distance * (1 - 1e-9)))
    parts = model.log_prob(drawn.crystals)
    np.testing.assert_allclose(drawn.logp, torch.stack(list(parts), 1).numpy(), rtol=1e-5)
    assert sample(model, 30, [2, 99, 221], min_distance=0, seed=3).drawn == 30


def test_groups_are_in_turn_or_as_in_the_data() -> None:
    model = model_of()
    drawn = sample(model, 7, [5, 99, 1], min_distance=0).crystals.group
    assert drawn.tolist() == [5, 99, 1, 5, 99, 1, 5]
    counts = np.bincount(sample(model, 2000, min_distance=0, seed=1).crystals.group, minlength=226)
    assert stats.chisquare(counts[[221, 225, 2]], 2000 * np.array([0.3, 0.2, 0.5])).pvalue > 1e-3
    numbers, shares = histogram(model, Wanted(goals=Goals.of_size(119, 40, 1)))
    assert dict(zip(numbers.tolist(), shares.tolist(), strict=True)) == pytest.approx({221: 3 / 8, 2: 5 / 8})
    with pytest.raises(InputError, match="none of the 3 space groups of the training data"):
        sample(model, 2, wanted=Wanted(goals=composition_goals("BaTiO3", 40, 40), template=Template.of_letters("zz")))


def test_samples_repeat_with_their_seed() -> None:
    model = model_of("last")
    one, again, other = (sample(model, 12, min_distance=0.8, seed=seed) for seed in (4, 4, 5))
    for field in fields(CrystalBatch):
        np.testing.assert_array_equal(getattr(one.crystals, field.name), getattr(again.crystals, field.name))
    np.testing.assert_array_equal(one.logp, again.logp)
    assert one.drawn == again.drawn
    assert not np.array_equal(one.crystals.lattice, other.crystals.lattice)


@pytest.mark.parametrize("order", ["first", "last"])
def test_a_given_lattice_is_kept(order: str) -> None:
    lattice = np.array([4.0, 4, 6, 90, 90, 90])
    drawn = sample(model_of(order), 5, [123], min_distance=0, lattice=lattice)
    np.testing.assert_allclose(drawn.crystals.lattice, np.tile(lattice, (5, 1)), rtol=1e-12)


@pytest.mark.parametrize(
    ("known", "properties", "message"),
    [
        (None, {"gap": 1.0}, "was trained on none; train with --conditions gap"),
        (KNOWN, {"gpa": 1.0}, "not trained on the property 'gpa'; it knows gap.*gap"),
        (KNOWN, {"gap": math.nan}, "give a finite number"),
    ],
)
def test_unknown_properties_are_refused(known: Known | None, properties: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        sample(model_of(known=known), 1, [1], properties=properties)


def test_soft_conditions_follow_from_hard_ones() -> None:
    model = model_of(known=KNOWN)
    given = soft_conditions(model, Wanted(goals=composition_goals("BaTiO3", 10, 40)), {"gap": 2.0})
    assert given is not None
    assert given.properties.tolist() == [[2.0]]
    assert given.n_atoms.tolist() == [10.0]
    np.testing.assert_allclose(given.composition[0, [8, 22, 56]].numpy(), [0.6, 0.2, 0.2], rtol=1e-6)
    assert float(given.composition.sum()) == pytest.approx(1)
    assert given.elements.nonzero()[:, 1].tolist() == [8, 22, 56]
    open_ = soft_conditions(model, Wanted(goals=composition_goals("BaTiO3", None, 40)), {})
    assert open_ is not None
    assert open_.n_atoms.tolist() == [0.0]
    assert open_.properties.isnan().all()
    sized = soft_conditions(model, Wanted(goals=Goals.of_size(119, 40, 6)), {})
    assert sized is not None
    assert sized.n_atoms.tolist() == [6.0]
    assert not sized.composition.any()
    assert not sized.elements.any()


def played(order: str, seed: int = 0, **kwargs: object) -> tuple[CrystalPolicy, list[dict], list[np.ndarray]]:
    """Observations and actions of one episode each of a vector environment."""
    arguments = {"spacegroup": [99, 221, 123], "composition": "BaTiO3", "lattice": order, "min_distance": 0}
    env = make_vec("CrystalWyckoff-v0", 6, n_max=5, **arguments | kwargs)  # type: ignore[arg-type]
    policy = CrystalPolicy(model_of(order, 6), env, seed=seed)
    observation, _ = env.reset(seed=1)
    seen, actions = [], []
    done = np.zeros(6, dtype=bool)
    for _ in range(12):
        action, _ = policy.predict(observation)
        seen.append({name: value.copy() for name, value in observation.items()})
        actions.append(action)
        observation, _, terminated, truncated, infos = env.step(action)
        for row in np.flatnonzero((terminated | truncated) & ~done):
            final = {name: np.asarray(value[row]) for name, value in infos["final_obs"].items()} if isinstance(
                infos["final_obs"], dict
            ) else infos["final_obs"][row]  # fmt: skip
            species = np.bincount(final["species"], minlength=4)[1:]
            ratio = {env.task.symbols[1 + i]: int(n) for i, n in enumerate(species)}
            assert ratio["Ti"] > 0
            assert (ratio["Ba"], ratio["O"]) == (ratio["Ti"], 3 * ratio["Ti"])
            done[row] = True
        if done.all():
            return policy, seen, actions
    raise AssertionError("episodes do not end")


@pytest.mark.parametrize("order", ["first", "last"])
def test_the_policy_plays_to_the_exact_composition(order: str) -> None:
    policy, seen, actions = played(order)
    for observation, action in zip(seen, actions, strict=True):
        logp = policy.log_prob(observation, action)
        assert logp.shape == (6,)
        assert torch.isfinite(logp).all()
        assert np.abs(action).max() <= 1
        single = {name: value[0] for name, value in observation.items()}
        assert policy.predict(single)[0].shape == (policy.task.codec.size,)
        assert policy.log_prob(single, action[0]).shape == (1,)


@pytest.mark.parametrize("order", ["first", "last"])
def test_deterministic_predictions_repeat(order: str) -> None:
    policy, seen, _ = played(order)
    for observation in seen:
        one, again = (policy.predict(observation, deterministic=True)[0] for _ in range(2))
        np.testing.assert_allclose(one, again, rtol=0, atol=2e-7)


def env_of(order: str, group: int, **kwargs: object) -> tuple[CrystalPolicy, dict]:
    arguments: dict = {"elements": "O,Ti,Ba", "n_max": 4, "max_atoms": 40, "lattice": order, "min_distance": 0}
    env = make_vec("CrystalWyckoff-v0", 1, spacegroup=group, **arguments | kwargs)
    policy = CrystalPolicy(model_of(order, seed=3), env)
    policy.model.network.cell.floor = 0.05
    torch.nn.init.normal_(policy.model.network.to_coordinate.weight, std=0.15)
    observation = env.reset(seed=0)[0]
    if order == "first":
        observation = env.step(policy.predict(observation)[0])[0]
    return policy, observation


def repeated(observation: dict, count: int) -> dict:
    return {name: np.repeat(value[:1], count, 0) for name, value in observation.items()}


@pytest.mark.parametrize("order", ["first", "last"])
@pytest.mark.parametrize("group", [1, 99, 166, 225])
def test_log_prob_of_sites_is_a_density(order: str, group: int) -> None:
    """Summed over letters and elements and integrated over the free coordinates: one."""
    policy, observation = env_of(order, group)
    codec, mask = policy.task.codec, observation["site_mask"][0].reshape(27, -1) > 0
    rng, total, error = np.random.default_rng(0), 0.0, 0.0
    table, first = wyckoff_table(), wyckoff_table().first[group]
    base = policy.predict(observation)[0].astype(np.float64)
    split = codec.letters + codec.symbols
    for letter, element in np.argwhere(mask):
        points = 8_000 // int(mask.sum()) + 1 if table.free[first + letter].any() else 1
        action = np.repeat(base, points, 0)
        action[:, :split] = -1
        action[:, letter] = action[:, codec.letters + element] = 1
        action[:, split : split + 3] = rng.uniform(-1, 1, (points, 3))
        with torch.no_grad():
            density = policy.log_prob(repeated(observation, points), action).exp().double().numpy()
        density = density * 2.0 ** table.free[first + letter].sum()
        total += density.mean()
        error += density.var() / points
    assert error**0.5 < 0.05
    assert total == pytest.approx(1, abs=4 * error**0.5 + 1e-3)


@pytest.mark.parametrize("order", ["first", "last"])
@pytest.mark.parametrize("group", [225, 99])
def test_log_prob_of_lattices_is_a_density(order: str, group: int) -> None:
    """Over the free numbers, in a range of volumes that leaves out next to nothing."""
    policy, observation = env_of(order, group, volume_range=(0.05, 5e3), max_aspect=60.0, n_atoms=8)
    if order == "first":
        observation = make_vec(
            "CrystalWyckoff-v0", 1, spacegroup=group, elements="O,Ti,Ba", n_max=4, n_atoms=8, lattice=order,
            min_distance=0, volume_range=(0.05, 5e3), max_aspect=60.0,
        ).reset(seed=0)[0]  # fmt: skip
    else:
        env = make_vec(
            "CrystalWyckoff-v0", 1, spacegroup=group, elements="O,Ti,Ba", n_max=4, n_atoms=8, lattice=order,
            min_distance=0, volume_range=(0.05, 5e3), max_aspect=60.0,
        )  # fmt: skip
        observation = env.reset(seed=0)[0]
        while not observation["lattice_next"][0, 0]:
            observation = env.step(policy.predict(observation)[0])[0]
    assert observation["lattice_next"][0, 0]
    size = policy.task.codec.size
    steps = (np.arange(2000) + 0.5) / 1000 - 1
    if group == 225:
        action = np.zeros((2000, size))
        action[:, size - 6] = steps
        measure = 2.0
    else:
        volume = (np.arange(100) + 0.5) / 50 - 1
        ratio = (np.arange(150) + 0.5) / 75 - 1
        action = np.zeros((100 * 150, size))
        action[:, size - 6], action[:, size - 4] = (x.reshape(-1) for x in np.meshgrid(volume, ratio))
        measure = 4.0
        last = policy.model.network.cell.body[-1]
        assert isinstance(last, torch.nn.Linear)
        with torch.no_grad():
            last.bias[-5:] = -60  # ties are too narrow for the grid
    with torch.no_grad():
        density = policy.log_prob(repeated(observation, len(action)), action).double().exp().numpy()
    assert density.mean() * measure == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("order", ["first", "last"])
def test_actions_have_the_likelihood_of_their_crystal(order: str) -> None:
    """Without hard conditions that matter, letters and elements of an episode add up to those of the crystal."""
    env = make_vec("CrystalWyckoff-v0", 4, spacegroup=2, elements=list(SYMBOLS[1:]), n_max=4, max_atoms=8,
                   lattice=order, min_distance=0)  # fmt: skip
    model = model_of(order)
    policy = CrystalPolicy(model, env, seed=2)
    observation = env.reset(seed=0)[0]
    while observation["lattice_next"][0, 0] or not observation["site_letters"][0].any():
        before = observation
        action = policy.predict(observation)[0]
        observation = env.step(action)[0]
    if not before["lattice_next"].any():
        logp = policy.log_prob(before, action)
        assert torch.isfinite(logp).all()


def test_a_policy_of_another_shape_is_refused() -> None:
    env = make_vec("CrystalWyckoff-v0", 1, n_max=9)
    with pytest.raises(InputError, match="make it with lattice='last'"):
        CrystalPolicy(model_of("last", 9), env)
    with pytest.raises(InputError, match="n_max=9, the model 4; make the environment with n_max=4"):
        CrystalPolicy(model_of("first", 4), env)
    with pytest.raises(InputError, match="plays CrystalWyckoff-v0 only"):
        CrystalPolicy(model_of(), object())


def starts(model: Model, letters: str, group: int, size: int, seed: int = 0) -> CrystalBatch:
    allowed = np.zeros(119, dtype=bool)
    allowed[model.elements] = True
    wanted = Wanted(allowed, template=Template.of_letters(letters))
    return sample(model, size, [group], wanted=wanted, min_distance=0, seed=seed).crystals


def only(model: Model) -> None:
    """Give all elements but the model's no likelihood, as if it had never seen them."""
    with torch.no_grad():
        model.network.to_element.bias[:] = -60
        model.network.to_element.bias[model.elements] = 0


@pytest.mark.parametrize(
    ("group", "letters", "order"),
    [
        (2, "i", "last"),
        (166, "ch", "first"),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in ((2, "i", "first"), (166, "ch", "last"), (99, "abd", "first"), (99, "abd", "last"),
                         (14, "ae", "first"), (14, "ae", "last"))
        ),
    ],
)  # fmt: skip
def test_chains_keep_the_distribution_of_the_model(order: str, group: int, letters: str) -> None:
    model, size = model_of(order), 700
    only(model)
    net = model.network
    torch.nn.init.normal_(net.to_coordinate.weight, std=0.15)
    net.cell.floor = 0.03
    last = net.cell.body[-1]
    assert isinstance(last, torch.nn.Linear)
    with torch.no_grad():
        last.bias[-5:] = -60
        net.to_letter.weight.zero_()  # letters that tell nothing of what is behind them: a template changes no odds
    first = starts(model, letters, group, size)
    before = model.log_prob(first).total.double().numpy()
    # away from the model's density chains must come back: heat, then cool
    hot, _ = run_chains(model, first, Chain(4, 0.6, 6.0, 6.0), min_distance=0, seed=1)
    assert hot.logp.sum(1).mean() < before.mean() - 0.1
    after, accepted = run_chains(model, first, Chain(6, 0.5), min_distance=0, seed=2)
    assert 0.1 < accepted < 0.999
    assert (after.crystals.lattice != first.lattice).any()
    error = math.hypot(before.std(), after.logp.sum(1).std()) / size**0.5
    assert abs(after.logp.sum(1).mean() - before.mean()) < 4.5 * error
    made = after.crystals
    assert stats.ks_2samp(made.lattice[:, 0], first.lattice[:, 0]).pvalue > 1e-4
    assert stats.ks_2samp(made.coordinates[:, 0, 2], first.coordinates[:, 0, 2]).pvalue > 1e-4
    np.testing.assert_array_equal(after.crystals.letters, first.letters)


@pytest.mark.parametrize("temperature", [pytest.param(1.0, marks=pytest.mark.slow), 3.0])
def test_chains_of_lattices_have_the_density_to_the_power_of_one_over_t(temperature: float) -> None:
    """Per Å of the only free edge of a cubic crystal."""
    model, size = model_of("last"), 1000
    first = sample(model, 1, [225], wanted=Wanted(template=Template.of_letters("a")), min_distance=0).crystals
    edge = np.exp(np.linspace(-1, 5, 4000))
    with torch.no_grad():
        lattice = completed(np.tile(edge[:, None], (1, 6)), np.full(len(edge), 5))
        grid = CrystalBatch(*(np.repeat(getattr(first, name), len(edge), 0) for name in BUT_LATTICE), lattice)
        log = model.log_prob(grid).l.double().numpy() / temperature
    steps = np.exp(log - log.max())
    below = np.concatenate([[0], np.cumsum((steps[1:] + steps[:-1]) / 2 * np.diff(edge))])
    below /= below[-1]
    rng = np.random.default_rng(0)
    begin = completed(np.tile(np.interp(rng.random(size), below, edge)[:, None], (1, 6)), np.full(size, 5))
    crystals = CrystalBatch(*(np.repeat(getattr(first, name), size, 0) for name in BUT_LATTICE), begin)
    last, _ = run_chains(model, crystals, Chain(25, 3.0, temperature, temperature, False), min_distance=0)
    assert np.mean(last.crystals.lattice[:, 0] != begin[:, 0]) > 0.95
    assert stats.kstest(last.crystals.lattice[:, 0], lambda x: np.interp(x, edge, below)).pvalue > 1e-3


def test_chains_keep_ties_elements_and_distances() -> None:
    model, size = model_of(), 60
    only(model)
    first = starts(model, "abd", 99, 300)
    elements, same = np.ones((3, 119), dtype=bool), np.array([-1, 0, -1])
    elements[:, :] = np.isin(np.arange(119), [3, 8])
    elements[2] = np.arange(119) == 22
    whole = first.elements.copy()
    whole[:, 1] = whole[:, 0] = 3
    whole[:, 2] = 22
    wide = np.tile([5.0, 5, 6, 90, 90, 90], (len(first), 1))
    first = CrystalBatch(first.group, first.letters, whole, first.coordinates, wide)
    first = first[np.flatnonzero(first.apart(1.2))[:size]]
    last, _ = run_chains(
        model, first, Chain(8, 0.8), elements=elements, same=same, min_distance=1.2, seed=3
    )  # fmt: skip
    made = last.crystals
    np.testing.assert_array_equal(made.elements[:, 0], made.elements[:, 1])
    assert set(made.elements[:, 0].tolist()) <= {3, 8}
    assert (made.elements[:, 2] == 22).all()
    assert made.apart(1.2).all()
    np.testing.assert_array_equal(made.letters, first.letters)
    place = wyckoff_table().representative(made.position, made.coordinates)
    miss = (place - made.coordinates)[made.letters > 0]
    np.testing.assert_allclose(miss - np.rint(miss), 0, atol=1e-9)
    kept, _ = run_chains(model, first, Chain(3, swap=False), min_distance=1.2)
    np.testing.assert_array_equal(kept.crystals.elements, first.elements)


def test_rewards_are_climbed() -> None:
    model = model_of()
    only(model)
    first = starts(model, "abd", 99, 80)

    def small(crystals: CrystalBatch) -> FloatArray:
        return -np.log(np.linalg.det(cells_of(crystals.lattice)))

    plain, _ = run_chains(model, first, Chain(8, 1.0), min_distance=0, seed=1)
    paid, _ = run_chains(model, first, Chain(8, 1.0), min_distance=0, seed=1, reward=small, weight=100.0)
    assert small(paid.crystals).mean() > small(first).mean() + 0.2
    assert small(paid.crystals).mean() > small(plain.crystals).mean() + 0.2


def test_chains_never_leave_the_cells_that_exist() -> None:
    model = model_of()
    only(model)
    first = starts(model, "i", 2, 100)
    lattice = np.tile([6.0, 6, 6, 100, 100, 158], (100, 1))
    first = CrystalBatch(first.group, first.letters, first.elements, first.coordinates, lattice)
    last, _ = run_chains(model, first, Chain(20, 2.0, 20.0, 20.0), min_distance=0, seed=1)
    assert (np.linalg.det(cells_of(last.crystals.lattice)) > 0).all()
    angles = last.crystals.lattice[:, 3:]
    assert (angles.sum(1) < 360).all()
    assert (2 * angles.max(1) < angles.sum(1)).all()


def test_bad_chains_and_starts_are_sentences() -> None:
    model = model_of()
    first = starts(model, "ab", 221, 2)
    for chain in (Chain(0), Chain(width=0.0), Chain(end_temperature=-1.0)):
        with pytest.raises(InputError, match="cannot move"):
            run_chains(model, first, chain)
    wrong = CrystalBatch(
        first.group, np.where(first.letters > 0, 1, 0), first.elements, first.coordinates, first.lattice
    )
    with pytest.raises(InputError, match="no likelihood; give another start"):
        run_chains(model, wrong, Chain())
