"""The numbers that make a covariant agent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from megen_gym.errors import InputError, nearest
from megen_gym.rules import Window

BAG_ENCODERS = ("counts", "composition")


@dataclass(frozen=True)
class CovariantSettings:
    """Sizes of the network, form of the densities, and the rules that confine them; all fit into a JSON file.

    Attributes:
        distance_range: Å, shortest and longest distance from the focus, those of the environment's codec.
        min_distance: Å, the environment's guard against overlap.
        max_distance: Å, the environment's guard against floating atoms.
        windows: Å, the environment's windows of the nearest distances.
        bag_scale: Typical number of atoms; scales the bag and the sums over atoms.
        lmax: Largest degree of the spherical harmonics.
        channels: Functions on the sphere around each atom.
        layers: Interactions; each sees `cutoff` farther.
        width: Invariants of each atom, and hidden units of every head.
        cutoff: Å, range of one interaction.
        num_radial: Radial functions.
        num_gaussians: Gaussians in the density of the distance.
        distance_bins: Bins of the distance that are weighted by the room they leave.
        series: Functions whose squares make the density of the direction.
        beta: None for the squared series, else the factor in the exponential form, e.g. -10.
        cells: About how many cells the sphere of directions is cut into.
        refine: Parts along each side into which the cell drawn is cut again.
        coarse: Directions in which room is looked for beside every atom.
        penalty: 1/Å; how steeply the density falls where a placement would break the rules.
        margin: Å kept from the edges of the windows, since atoms are placed around the centre of a part.
        bag_encoder: "counts": the agent sees elements as numbered symbols and bags as counts of them. "composition":
            it sees elements by their properties, and what is left in the bag and placed on the canvas by the embedding
            of a frozen composition encoder, so that unknown mixtures, and elements, resemble known ones.
        numbers: Atomic numbers of the environment's symbols, 0 for X; for "composition".
        composition_encoder: Run id, folder or file of the composition encoder; None for the bundled one.
        composition_dir: Folder of the run folders.
        composition_shape: Of the encoder's network, where its weights are to come with those of the policy.

    Raises:
        InputError: for a size that is not positive, or an unknown bag encoder.
    """

    distance_range: tuple[float, float] = (2.3, 3.1)
    min_distance: float = 2.0
    max_distance: float = 3.2
    windows: tuple[Window, ...] = ()
    bag_scale: float = 18.0
    lmax: int = 3
    channels: int = 16
    layers: int = 2
    width: int = 64
    cutoff: float = 6.0
    num_radial: int = 8
    num_gaussians: int = 3
    distance_bins: int = 10
    series: int = 4
    beta: float | None = None
    cells: int = 1024
    refine: int = 8
    coarse: int = 64
    penalty: float = 200.0
    margin: float = 0.03
    bag_encoder: str = "counts"
    numbers: tuple[int, ...] = ()
    composition_encoder: str | None = None
    composition_dir: str = "runs"
    composition_shape: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        positive = "bag_scale lmax channels layers width cutoff num_radial num_gaussians distance_bins series penalty"
        for name in positive.split():
            if getattr(self, name) <= 0:
                raise InputError(f"{name} is {getattr(self, name)}; give a positive number")
        if self.bag_encoder not in BAG_ENCODERS:
            hint = nearest(str(self.bag_encoder), BAG_ENCODERS)
            raise InputError(f"bag_encoder is {self.bag_encoder!r}; {hint}")
        if self.margin < 0 or self.beta == 0:
            raise InputError(
                f"margin {self.margin} Å and beta {self.beta} make no density; give margin >= 0 and beta None or not 0"
            )
