"""From the settings to what is trained on and what judges: reading, connecting, splitting, computing properties."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace

from torch import Tensor

from megen_gym.agents.gschnet.conditions import Condition, tensors
from megen_gym.agents.gschnet.filters import parse, properties_of
from megen_gym.agents.gschnet.molecules import Molecules
from megen_gym.agents.gschnet.preparing import Prepared, prepare
from megen_gym.agents.gschnet.properties import RELATIVE, RelativeEnergy, energy_name, needed, with_computed
from megen_gym.agents.gschnet.reading import available, load
from megen_gym.agents.gschnet.settings import Settings, connectivity_of, numbers_of
from megen_gym.agents.gschnet.splitting import Split, load_split, split
from megen_gym.agents.gschnet.training import Material
from megen_gym.agents.nn.options import condition_names
from megen_gym.runs import Run
from megen_gym.structure import IntArray

LOG = logging.getLogger("megen_gym")


@dataclass(frozen=True, eq=False)
class Data:
    """Molecules in three parts, with a property for each condition.

    Attributes:
        prepared: All of them that can be built.
        parts: Which are trained on, judge, and are kept aside.
        relative: Regression behind the relative atomic energy, where it is a condition.
    """

    prepared: Prepared
    parts: Split
    relative: RelativeEnergy | None

    @property
    def molecules(self) -> Molecules:
        """All of them."""
        return self.prepared.molecules

    def material(self, index: IntArray, conditions: tuple[Condition, ...]) -> Material:
        """Some of them, for training or judging."""
        chosen = self.molecules[index]
        values: dict[str, Tensor] = tensors(conditions, chosen.properties)
        return Material(chosen, self.prepared.adjacency[index], values)


def assemble(settings: Settings, run: Run | None = None, relative: RelativeEnergy | None = None) -> Data:
    """Read and prepare everything.

    Args:
        settings: Resolved.
        run: That goes on: its split is taken.
        relative: Its regression.

    Raises:
        InputError: for data that cannot be used as the settings say.
    """
    types, names = numbers_of(settings.atom_types), condition_names(settings.conditions)
    filters = parse(settings.filter or None)
    there = available(settings.datapath)
    wanted = needed([*names, *properties_of(filters)], there)
    units = {name: unit for name, unit in settings.property_units.items() if name in there}
    molecules = load(
        settings.datapath,
        types,
        wanted,
        units,
        settings.distance_unit,
        settings.remove_uncharacterized,
        settings.data_workdir,
        settings.progress,
    )
    connectivity = connectivity_of(settings)
    prepared = prepare(molecules, connectivity, settings.cache_path, settings.keep_cache, settings.cache_workdir)
    source = settings.split_file if run is None else run.path
    if source is not None:
        parts = load_split(source, prepared.molecules, connectivity)
    else:
        numbers = (amount(settings.num_train), amount(settings.num_val), amount(settings.num_test))
        parts = split(prepared.molecules, numbers[0], numbers[1] or 0, numbers[2], settings.seed, filters)
    if RELATIVE in names and relative is None and RELATIVE not in there:
        relative = RelativeEnergy.fit(prepared.molecules[parts.train], energy_name(there), types, settings.seed)
    whole = with_computed(prepared.molecules, names, types, relative)
    LOG.info(
        f"{len(whole)} molecules: {len(parts.train)} to train on, {len(parts.valid)} to judge, {len(parts.test)} aside"
    )
    return Data(replace(prepared, molecules=whole), parts, relative)


def amount(given: float | None) -> int | float | None:
    """A number from 1 on counts molecules, others are shares.

    >>> amount(2500.0), amount(0.8)
    (2500, 0.8)
    """
    return int(given) if given is not None and given >= 1 and given == int(given) else given
