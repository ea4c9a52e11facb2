"""Structures from a trained CryinGAN: ``python agents/cryingan/generate.py --run ID --n_struc 1000``."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent.parent)

from megen_gym.agents.cryingan.generator import CHUNK
from megen_gym.agents.cryingan.networks import GAN, load_gan
from megen_gym.agents.cryingan.system import System
from megen_gym.agents.nn.options import check_bounds
from megen_gym.cli import console_log
from megen_gym.errors import InputError, user_errors
from megen_gym.runs import CONFIG
from megen_gym.structure import FloatArray


@dataclass
class Settings:
    """Generate structures with a trained CryinGAN."""

    run: str = "newest"
    """Run id, run folder, or "newest"."""
    load_generator: str | None = None
    """The same under the published name, or a file of weights in a run folder."""
    weights: str | None = None
    """Weights within the run to use instead of the chosen ones, e.g. model_saves/weights_100.safetensors."""
    n_struc: int = 1000
    """Number of structures."""
    ref_struc: str | None = None
    """File whose first structure gives the order of the atoms (and the cell, which must be the trained one); by default
    that of the training data."""
    latent_dim: int | None = None
    """Not needed: the run knows it. If given, it must be the run's."""
    gen_channels_1: int | None = None
    """The same."""
    write_fname: str = "gen.extxyz"
    """File to write; an existing one is replaced."""
    seed: int = 0
    """Seed of the latents; the same seed gives the same structures."""
    save_latents: str | None = None
    """File (.npy) for the latents (n_struc, latent_size)."""
    dir: Path = Path("runs")
    """Folder of the run folders."""
    threads: int = 1
    """CPU threads of torch."""
    disable_cuda: bool = False
    """Use the CPU even where there is a GPU."""
    progress: bool = True
    """Show a progress bar."""


@user_errors
def generate(settings: Settings) -> Path:
    """Write the structures, and say how the critics score them.

    Raises:
        InputError: for a model that does not exist, or a reference that it was not trained for.
    """
    import numpy as np
    import torch
    from tqdm import tqdm

    from megen_gym.io import file_format, write_structures
    from megen_gym.structure import StructureBatch

    log = console_log()
    check_bounds(settings, {1: "n_struc threads"})
    if settings.seed < 0:
        raise InputError(f"seed is {settings.seed}; give 0 or more")
    if file_format(settings.write_fname) != "extxyz":
        raise InputError(f"cannot write structures to {settings.write_fname}; give a name that ends in .extxyz or .xyz")
    torch.set_num_threads(settings.threads)
    gan, folder = load(settings)
    for name in ("latent_dim", "gen_channels_1"):
        given, trained = getattr(settings, name), getattr(gan.settings, name)
        if given not in (None, trained):
            raise InputError(f"{name} is {given}, but run {folder.name} was trained with {trained}; leave it out")
    if torch.cuda.is_available() and not settings.disable_cuda:
        gan.to("cuda")
    system = gan.system if settings.ref_struc is None else reference_system(gan, settings.ref_struc)
    rng = torch.Generator().manual_seed(settings.seed)
    latents, parts = [], []
    with tqdm(total=settings.n_struc, unit="structure", disable=not settings.progress) as bar:
        for at in range(0, settings.n_struc, CHUNK):
            z = gan.latents(min(CHUNK, settings.n_struc - at), rng)
            parts.append(gan.generate(z))
            if settings.save_latents is not None:
                latents.append(z.numpy())
            bar.update(len(z))
    positions = np.concatenate([part.positions for part in parts])
    made = StructureBatch.trusted(
        reordered(positions, gan.system, system),
        np.broadcast_to(species_of(system, parts[0].symbols), positions.shape[:2]),
        parts[0].symbols,
        np.broadcast_to(system.cell, (len(positions), 3, 3)),
        system.pbc,
    )
    path = write_structures(settings.write_fname, made)
    if settings.save_latents is not None:
        with open(settings.save_latents, "wb") as file:
            np.save(file, np.concatenate(latents), allow_pickle=False)
    log.info(f"{len(made)} structures of {system.formula} from {folder.name} in {path}")
    return path


def load(settings: Settings) -> tuple[GAN, Path]:
    """The model that the settings name, with the weights that they name, and its run folder.

    Raises:
        InputError: if there is none.
    """
    named = settings.load_generator or settings.run
    weights = None if settings.weights is None else Path(settings.weights)
    file = Path(named).resolve()
    if file.is_file():
        folders = [folder for folder in file.parents if (folder / CONFIG).is_file()]
        if not folders:
            raise InputError(f"{named} lies in no run folder; give a run, or weights of a run's model_saves")
        named, weights = str(folders[0]), file
    gan, folder = load_gan(named, settings.dir)
    if weights is not None:
        load_weights(gan, folder / weights)
    return gan, folder


def load_weights(gan: GAN, path: Path) -> None:
    """Fill the networks from a file of the run.

    Raises:
        InputError: if it does not exist or does not fit.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        gan.load_state(load_file(path))
    except (FileNotFoundError, SafetensorError, RuntimeError) as error:
        raise InputError(
            f"the weights {path} cannot be used ({str(error).splitlines()[0]}); give a file of the run's model_saves"
        ) from None


def reference_system(gan: GAN, path: str) -> System:
    """The system of the first structure of a file.

    Raises:
        InputError: if it has another cell, composition or periodicity than the model was trained for.
    """
    from megen_gym.io import read_structures

    atoms = read_structures(path)[0]
    try:
        gan.system.check(atoms, f"structure 0 of {path}")
    except InputError as error:
        raise InputError(f"{str(error).replace('the first one', 'the model').partition(';')[0]}; "
                         "give a structure like those that the model was trained on") from None  # fmt: skip
    return System.from_atoms(atoms)


def species_of(system: System, symbols: tuple[str, ...]) -> list[int]:
    """(N,) species index of the system's atoms in its order."""
    from ase.data import chemical_symbols

    return [symbols.index(chemical_symbols[z]) for z in system.numbers]


def reordered(positions: FloatArray, source: System, target: System) -> FloatArray:
    """Positions (B, N, 3) in the order of `source`, in that of `target`: the k-th atom of an element stays the k-th."""
    import numpy as np

    result = np.empty_like(positions)
    result[:, source.grouping(target.numbers)] = positions[:, source.order]
    return result


def main() -> None:
    """Command line."""
    from megen_gym.cli import run

    generate(run(Settings))


if __name__ == "__main__":
    main()
