"""What test_representation.py and test_transfer.py share: settings, and the way from a table to a judgement."""

from __future__ import annotations

import logging
from collections.abc import Collection
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from megen_gym import runs
from megen_gym.agents.nn.finding import Kind
from megen_gym.agents.nn.resuming import absolute, reopened, where
from megen_gym.agents.polysrl.folds import Kind as Folding
from megen_gym.agents.polysrl.folds import Scaler, Scaling
from megen_gym.agents.polysrl.network import GRAPHS, Shape
from megen_gym.agents.polysrl.statistics import Model
from megen_gym.cli import console_log, listed
from megen_gym.errors import InputError, nearest

if TYPE_CHECKING:
    from megen_gym.agents.polysrl.evaluation import Judgement, Question
    from megen_gym.agents.polysrl.network import CompositionNetwork

DATASETS: dict[str, tuple[Scaling, int]] = {
    "ebg": ("none", 128), "efe": ("none", 128), "metallic": ("none", 128), "lec300k": ("log", 32),
    "lec600k": ("log", 32), "ltc300k": ("log", 32), "ltc600k": ("log", 32), "seebeck300k": ("minmax", 32),
    "seebeck600k": ("minmax", 32), "castelli": ("standard", 128), "dielectric": ("log", 128), "log_gvrh": ("none", 128),
    "log_kvrh": ("none", 128), "jdft2d": ("log", 128), "phonons": ("log", 128), "steels": ("log", 32),
}  # fmt: skip
"""The sixteen published sets: how the target is scaled (castelli has values that no logarithm takes), and the batch."""

TESTED = Kind("polysrl_test", "test of an encoder", "agents/polysrl/test_representation.py")


@dataclass
class Settings:
    """Judge an encoder on a property, beside element statistics with trees.

    Values that are null depend on the script.
    """

    # --- data
    data: str | None = None
    """Table of formulas and a property: CSV, TSV, JSON, Excel, Matbench JSON, or a folder of folds."""
    target: str | None = None
    """Column of the property, where it is not clear."""
    formula: str | None = None
    """Column of the formulas, where it is not clear."""
    dataset: str | None = None
    """Which of the published sets it is, e.g. ebg: decides target_scale and batch_size as published."""
    fold_file: str | None = None
    """Table with a column fold: the official test folds."""
    folds: Folding | None = None
    """official, matbench, published or random; official where the data says so, else published."""
    duplicates: Literal["mean", "first", "lowest", "keep"] = "mean"
    """What becomes of several rows of one composition."""
    target_scale: Scaling | None = None
    """none, standard, log or minmax, by the training rows of each fold (standard)."""
    # --- encoder
    model: str | None = None
    """Run of train.py (folder, id, "newest"), "bundle", or "random" (the default of test_transfer.py)."""
    sto_gnns: str = "GIN"
    """Layers of a random encoder: GCN, GAT or GIN."""
    sto_layers: int = 3
    """How many of them."""
    hidden_dim: int = 128
    """Its width."""
    element_features: str = "combined"
    """Its element features."""
    # --- training
    epochs: int | None = None
    """Passes through the data (test_representation 300; test_transfer 40 to 300, about 4,000 steps)."""
    batch_size: int | None = None
    """Formulas of a batch (64)."""
    lr: float = 1e-3
    """Learning rate, with a cosine down to a hundredth."""
    weight_decay: float = 0.01
    """Of AdamW."""
    dropout: float = 0.1
    """In the perceptron."""
    members: int = 3
    """Networks that are averaged."""
    trees: str = "extra_trees,boosting"
    """Baselines: extra_trees, random_forest, boosting, ridge, several with commas, or nothing."""
    # --- results
    resume: str | None = None
    """Id of a run to go on with; finished folds are not trained again."""
    dir: Path = Path("runs")
    """Folder of the run folders."""
    name: str = "test"
    """Appears in the run's id."""
    # --- machine
    seed: int = 0
    """Seed of everything that is random."""
    threads: int = 1
    """CPU threads of torch."""
    progress: bool = True
    """Show a progress bar."""


RESUMABLE = ("progress", "threads", "dir", "data", "fold_file", "trees")


def resolved(settings: Settings, freeze: bool) -> Settings:
    """The settings with everything filled in, if they can work.

    Raises:
        InputError: naming a setting that cannot.
    """
    s, scale, batch = settings, settings.target_scale, settings.batch_size
    if s.dataset is not None:
        if s.dataset not in DATASETS:
            raise InputError(f"dataset {s.dataset!r} is none of the published ones; {nearest(s.dataset, DATASETS)}")
        scale, batch = scale or DATASETS[s.dataset][0], DATASETS[s.dataset][1] if batch is None else batch
    if s.sto_gnns not in GRAPHS:
        raise InputError(f"sto_gnns is {s.sto_gnns!r}; {nearest(s.sto_gnns, GRAPHS)}")
    for name in trees_of(s):
        if name not in get_args(Model):
            raise InputError(f"trees has {name!r}; {nearest(name, get_args(Model))}")
    if s.threads < 1 or s.seed < 0:
        raise InputError(f"threads is {s.threads} and seed {s.seed}; give at least 1 and 0")
    return replace(
        s, data=absolute(s.data), fold_file=absolute(s.fold_file), target_scale=scale or "standard",
        batch_size=64 if batch is None else batch, epochs=300 if freeze and s.epochs is None else s.epochs,
        model=s.model or ("bundle" if freeze else "random"),
    )  # fmt: skip


def trees_of(settings: Settings) -> list[str]:
    """Names of the baselines, each of them once."""
    return list(dict.fromkeys(listed(settings.trees)))


def judge(settings: Settings, freeze: bool, given: Collection[str] | None, script: str) -> runs.Run:
    """Read, train on every fold, and write ``results.csv``, ``predictions.csv`` and a picture into a run folder.

    Args:
        settings: As given.
        freeze: Whether the encoder stays as it is.
        given: Names of settings that were set on purpose.
        script: To go on with.
    """
    import torch
    from tqdm import tqdm

    from megen_gym.agents.nn.devices import keep_memory
    from megen_gym.agents.polysrl.evaluation import Question, judge_network, write_judgements
    from megen_gym.agents.polysrl.model import KIND
    from megen_gym.agents.polysrl.regression import Fit, kept_of

    log = console_log()
    run, s = reopened(TESTED, resolved(settings, freeze), resolved(Settings(), freeze), given, RESUMABLE)
    if run is not None and run.settings[TESTED.key]["freeze"] != freeze:
        raise InputError(f"run {run.id} was made by the other script; go on with that one")
    keep_memory()
    torch.set_num_threads(s.threads)
    shape = Shape(s.element_features, s.sto_gnns, s.sto_layers, s.hidden_dim)
    if s.model not in ("bundle", "random"):
        there = Path(str(s.model))
        found = there if there.is_file() else KIND.find(there, s.dir).path
        s = replace(s, model=str(found.resolve()))
    assert s.batch_size is not None
    assert s.target_scale is not None
    network, label = encoder_of(s, freeze, shape)
    features = network.shape.element_features if network is not None else s.element_features
    question = Question.read(s.data, s.target, s.formula, s.fold_file, s.folds, s.duplicates, (features,))
    for train, _ in question.folds:
        Scaler.fit(question.table.target[train], s.target_scale)
    options = Fit(
        freeze, s.members, s.epochs, s.batch_size, s.lr, s.weight_decay, s.dropout, s.target_scale, shape, s.seed
    )
    tell(question, log)
    if run is None:
        run = runs.create(
            s.dir, {"name": s.name, "seed": s.seed, TESTED.key: asdict(replace(s, resume=None)) | {"freeze": freeze}}
        )
        run.save_state({}, {"table": question.fingerprint()})
    elif run.load_state()[1]["table"] != question.fingerprint():
        raise InputError(f"the table differs from that of run {run.id}; go on with the same, or test anew")
    log.info(f"run {run.id}: {label}, {len(question.table)} formulas, {len(question.folds)} folds")
    done = sum((run.path / f"fold_{fold}.npz").exists() for fold in range(len(question.folds)))
    size = len(question.folds[0][0])
    each = s.members * options.passes(size - kept_of(size))
    try:
        with tqdm(total=len(question.folds) * each, initial=done * each, unit="epoch", disable=not s.progress) as bar:
            judged = [judge_network(question, label, options, network, run.path, lambda: bar.update() and None)]
        judged += beside(question, judged[0], s, run.path)
    except KeyboardInterrupt:
        log.info(f"stopped; go on with: {script}{where(s.dir)} --resume {run.id}")
        raise SystemExit(130) from None
    log.info("\n" + write_judgements(run.path, question, judged))
    from megen_gym.agents.polysrl.pictures import plot_predictions

    plot_predictions(run.path / "predictions.png", question.table.target, judged)
    log.info(f"everything is in {run.path}")
    return run


def encoder_of(settings: Settings, freeze: bool, shape: Shape) -> tuple[CompositionNetwork | None, str]:
    """The network to begin with (None for a new one each time), and what it is called."""
    import torch

    from megen_gym.agents.polysrl.model import CompositionEncoder
    from megen_gym.agents.polysrl.network import CompositionNetwork

    way = "frozen" if freeze else "fine-tuned"
    if settings.model == "random":
        if not freeze:
            return None, f"{shape.sto_gnns} network"
        torch.manual_seed(settings.seed)
        return CompositionNetwork(shape), "random encoder, frozen"
    where_from = None if settings.model == "bundle" else settings.model
    network = CompositionEncoder.load(where_from, settings.dir).network.requires_grad_(not freeze)
    return network, f"encoder {Path(str(settings.model)).name}, {way}"


def beside(question: Question, first: Judgement, settings: Settings, folder: Path) -> list[Judgement]:
    """The baselines, and network and baselines together."""
    from megen_gym.agents.polysrl.evaluation import judge_trees, stacked, statistics_of

    names = trees_of(settings)
    if not names:
        return []
    trees = judge_trees(question, statistics_of(question), names, settings.seed)
    return [*trees, stacked(question, first, trees, folder, settings.seed)]


def tell(question: Question, log: logging.Logger) -> None:
    """What was left out, and what leaks."""
    for sentence in question.told[:8]:
        log.warning(sentence)
    if len(question.told) > 8:
        log.warning(f"and {len(question.told) - 8} more")
