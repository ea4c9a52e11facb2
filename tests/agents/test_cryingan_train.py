"""CryinGAN as a user runs it: training, SIGKILL and resume, generating, playing, judging, wrong input."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from ase.io import read, write
from gymnasium.utils.env_checker import check_env
from script_checks import killed, refusal, same_tensors

import megen_gym  # noqa: F401
from megen_gym import cli, runs
from megen_gym.agents.cryingan.generate import Settings as GenerateSettings
from megen_gym.agents.cryingan.generate import generate
from megen_gym.agents.cryingan.logs import EpochTable
from megen_gym.agents.cryingan.networks import GAN, load_gan
from megen_gym.agents.cryingan.policy import CryinGANPolicy
from megen_gym.agents.cryingan.refine import RefineTask
from megen_gym.agents.cryingan.settings import Settings
from megen_gym.agents.cryingan.train import train
from megen_gym.envs.single import StructureEnv
from megen_gym.envs.vector import make_vec
from megen_gym.errors import InputError
from megen_gym.io import read_structures
from megen_gym.rewards import make_reward
from megen_gym.rollout import rollout
from megen_gym.structure import StructureBatch

ROOT = Path(__file__).resolve().parents[2]
Capture = pytest.CaptureFixture[str]
DATA = ROOT / "megen_gym" / "data" / "cuau_interface.extxyz"
SMALL = {
    "training_data": str(DATA), "batch_size": 8, "n_epochs": 4, "eval_freq": 2, "n_eval": 16, "n_save": 5,
    "gsave_freq": 2, "msave_freq": 2, "progress": False, "disable_cuda": True, "holdout": 0.25, "n_neighbors": 3,
}  # fmt: skip


def small(folder: Path, **changes: object) -> Settings:
    return Settings(**{**SMALL, "dir": folder, **changes})  # type: ignore[arg-type]


def command(script: str, **options: object) -> list[str]:
    words = (f"--{name}={json.dumps(value) if isinstance(value, bool) else value}" for name, value in options.items())
    return [sys.executable, f"agents/cryingan/{script}.py", *words]


def call(script: str, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(script, **options), cwd=ROOT, capture_output=True, text=True, timeout=180)


def refused(function: Callable[[Any], object], component: type, capsys: Capture, **options: object) -> str:
    """The one sentence of a command line that is refused with exit code 2."""
    return refusal(lambda: function(cli.run(component, command("train", **options)[2:])), capsys)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> runs.Run:
    return train(small(tmp_path_factory.mktemp("whole")))


@pytest.fixture(scope="module")
def gan(whole: runs.Run) -> GAN:
    return load_gan(whole.path)[0]


def test_the_run_folder_is_complete(whole: runs.Run) -> None:
    names = {path.name for path in whole.path.iterdir()}
    assert names == {
        "config.json", "gen_data", "learning_rate.csv", "losses.csv", "metrics.csv", "model_saves",
        "report.html", "resume.safetensors", "training.png", "weights.safetensors",
    }  # fmt: skip
    losses = (whole.path / "losses.csv").read_text().splitlines()
    assert losses[0] == "epoch,distance_dis,cost_dis,cost_gen,D_real,D_fake,D_dist_real,D_dist_fake"
    assert [line.partition(",")[0] for line in losses[1:]] == ["0", "1", "2", "3"]
    rates = (whole.path / "learning_rate.csv").read_text().splitlines()
    assert rates[0] == "epoch,generator_lr,coord_disc_lr,dist_disc_lr"
    assert {path.name for path in (whole.path / "gen_data").iterdir()} == {f"gen_{e}.extxyz" for e in (0, 2, 3)}
    assert {path.name for path in (whole.path / "model_saves").iterdir()} == {
        f"weights_{e}.safetensors" for e in (0, 2, 3)
    }
    made = read(whole.path / "gen_data" / "gen_3.extxyz", ":")
    assert len(made) == 5
    assert made[0].get_chemical_formula() == "Au8Cu8"
    assert whole.metrics()["iteration"].tolist() == [0, 2, 3]


@pytest.mark.parametrize("preset", ["default", "published"])
def test_coordinates_alone_have_no_distance_critic(tmp_path: Path, preset: str) -> None:
    run = train(small(tmp_path, weight_dist=0.0, n_epochs=1, preset=preset))
    assert (run.path / "losses.csv").read_text().startswith("epoch,distance_dis,cost_dis,cost_gen,D_real,D_fake\n")
    assert set(load_gan(run.path)[0].modules) == {"generator", "average", "coordinate"}


@pytest.mark.slow
def test_a_slab_repeats_along_two_axes(tmp_path: Path) -> None:
    run = train(small(tmp_path, n_epochs=1, pbc="TTF"))
    assert load_gan(run.path)[0].system.pbc == (True, True, False)
    assert not read(run.path / "gen_data" / "gen_0.extxyz").pbc[2]


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["default", pytest.param("published", marks=pytest.mark.slow)])
def test_a_killed_run_goes_on_to_the_bit(tmp_path: Path, preset: str) -> None:
    options = SMALL | {"preset": preset, "n_epochs": 5, "augment": True, "translate": "xy", "ema": 0.9}
    first = train(Settings(**options, dir=tmp_path / "whole"))  # type: ignore[arg-type]
    folder = tmp_path / "killed"
    begun = killed(command("train", **(options | {"dir": folder, "n_epochs": 100_000})), folder, 4, "losses.csv")
    done = begun.load_state()[1]["epoch"]
    assert done >= 1
    if done > 5:
        pytest.skip("the machine trained on before the signal came")
    second = train(
        Settings(dir=folder, resume=begun.id, n_epochs=5, progress=False), given=("n_epochs", "dir", "progress")
    )
    whole, resumed = (EpochTable(run.path / "losses.csv").read() for run in (first, second))
    for name, column in whole.items():
        np.testing.assert_array_equal(column, resumed[name], err_msg=name)
    same_tensors(first.load_state()[0], second.load_state()[0])


def test_what_cannot_change_on_resuming_is_refused(whole: runs.Run, tmp_path: Path, capsys: Capture) -> None:
    wanted = Settings(dir=whole.path.parent, resume=whole.id, batch_size=4)
    with pytest.raises(SystemExit):
        train(wanted, given=("batch_size",))
    other = tmp_path / "other.extxyz"
    write(other, read(DATA, ":30"), format="extxyz")
    capsys.readouterr()
    options = {"dir": whole.path.parent, "resume": whole.id, "training_data": other, "n_epochs": 5}
    assert "does not hold the structures that run" in refused(train, Settings, capsys, **options)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"training_data": ""}, "no training data were given"),
        ({"training_data": "missing.extxyz"}, "does not exist"),
        ({"batch_size": 500}, "fewer than a batch of 500; give more structures or --batch_size 30"),
        ({"n_epochs": 0}, "n_epochs is 0; give at least 1"),
        ({"batch_size": 1}, "batch_size is 1; give at least 2"),
        ({"msave_dir": "/proc/x"}, "/proc/x"),
        ({"b1": 1.0}, "b1 is 1.0"),
        ({"translate": "ab"}, "translate is 'ab'"),
        ({"pbc": "TT"}, "pbc is 'TT'"),
        ({"device": "cuda:99", "disable_cuda": False}, "cannot be used here"),
        ({"resume": "nothing"}, "nothing"),
        ({"load_generator": "nothing"}, "nothing"),
        ({"weight_dist": "much"}, "weight_dist"),
        ({"no_such_option": 1}, "no_such_option"),
    ],
)
def test_wrong_input_is_answered_in_one_sentence(
    tmp_path: Path, options: dict[str, object], words: str, capsys: Capture
) -> None:
    assert words in refused(train, Settings, capsys, **(SMALL | {"dir": tmp_path / "runs"} | options))
    assert not list(tmp_path.glob("runs/*"))


@pytest.mark.slow
def test_a_warm_start_survives_a_kill_before_the_first_epoch(whole: runs.Run, tmp_path: Path) -> None:
    options = SMALL | {"dir": tmp_path, "load_generator": whole.path, "n_epochs": 100_000}
    process = subprocess.Popen(command("train", **options), cwd=ROOT, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not list(tmp_path.glob("*/resume.safetensors")):
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    run = runs.newest(tmp_path)
    tensors, meta = run.load_state()
    if meta["epoch"]:
        pytest.skip("the machine trained on before the signal came")
    for name, tensor in load_gan(whole.path)[0].average.state_dict().items():
        assert torch.equal(tensor, tensors[f"generator.{name}"]), name
    assert not (run.path / "weights.safetensors").exists()


@pytest.mark.slow
def test_sigterm_stops_as_ctrl_c_does(tmp_path: Path) -> None:
    process = subprocess.Popen(
        command("train", **(SMALL | {"dir": tmp_path, "n_epochs": 100_000})),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not list(tmp_path.glob("*/losses.csv")):
        time.sleep(0.05)
    process.terminate()
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert f"--dir {tmp_path} --resume {runs.newest(tmp_path).id}" in said


def test_weights_of_an_epoch_that_was_not_judged_are_whole(tmp_path: Path) -> None:
    run = train(small(tmp_path, n_epochs=4, eval_freq=100, msave_freq=2))
    chosen = {"run": str(run.path), "n_struc": 60, "progress": False}
    spread = {}
    for name in ("weights_2", "weights_3"):
        file = str(tmp_path / f"{name}.extxyz")
        generate(GenerateSettings(**chosen, weights=f"model_saves/{name}.safetensors", write_fname=file))  # type: ignore[arg-type]
        made = StructureBatch.from_atoms(read_structures(file))
        lattice = load_gan(run.path)[0].system.lattice
        spread[name] = lattice.minimum_image(made.positions[:, :4] - made.positions[:1, :4]).std()
    assert 0.5 < spread["weights_2"] / spread["weights_3"] < 2
    by_file = GenerateSettings(
        load_generator=str(run.path / "model_saves" / "weights_2.safetensors"), n_struc=60, progress=False,
        write_fname=str(tmp_path / "by_file.extxyz"),
    )  # fmt: skip
    first, second = (read_structures(path) for path in (generate(by_file), tmp_path / "weights_2.extxyz"))
    np.testing.assert_array_equal(first[0].positions, second[0].positions)


def test_weights_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    torch.save([1, 2], tmp_path / "list.pt")
    (tmp_path / "empty.pt").write_bytes(b"")
    (tmp_path / "text.pt").write_text("not weights at all")
    (tmp_path / "torn.safetensors").write_bytes(b"\x10\x00")
    for name in ("list.pt", "empty.pt", "text.pt", "torn.safetensors"):
        with pytest.raises(SystemExit):
            train(small(tmp_path / "runs", load_generator=str(tmp_path / name)))
    assert not list(tmp_path.glob("runs/*"))


def test_other_elements_are_other_data(whole: runs.Run, tmp_path: Path, capsys: Capture) -> None:
    renamed = read(DATA, ":")
    for atoms in renamed:
        atoms.symbols[atoms.symbols == "Au"] = "Ag"
    write(tmp_path / "ag.extxyz", renamed, format="extxyz")
    options = {"dir": whole.path.parent, "resume": whole.id, "training_data": tmp_path / "ag.extxyz", "n_epochs": 5}
    assert "does not hold the structures that run" in refused(train, Settings, capsys, **options)


def test_weights_of_another_run_can_be_started_from(whole: runs.Run, tmp_path: Path, capsys: Capture) -> None:
    run = train(small(tmp_path, n_epochs=1, g_lr=0.0, load_generator=str(whole.path), ema=0.0))
    before = load_gan(whole.path)[0].average.state_dict()
    after = load_gan(run.path)[0].generator.state_dict()
    for name, tensor in before.items():
        if name not in ("mean", "scale"):
            assert torch.equal(tensor, after[name]), name
    capsys.readouterr()
    other = SMALL | {"dir": tmp_path, "preset": "published", "load_generator": whole.path}
    told = refused(train, Settings, capsys, **other)
    assert "do not fit the generator network of --preset published" in told


def test_a_published_state_dict_is_read_by_the_order_of_its_layers(tmp_path: Path) -> None:
    run = train(small(tmp_path, preset="published", n_epochs=1))
    weights = load_gan(run.path)[0].generator.state_dict()
    path = tmp_path / "generator_100"
    torch.save({f"renamed.{index}": tensor for index, tensor in enumerate(weights.values())}, path)
    again = train(small(tmp_path, preset="published", n_epochs=1, g_lr=0.0, load_generator=str(path)))
    found = load_gan(again.path)[0].generator.state_dict()
    for name, tensor in weights.items():
        if "running" not in name and "tracked" not in name:
            assert torch.equal(tensor, found[name]), name


def test_generating_is_repeatable_and_keeps_the_order_of_the_reference(whole: runs.Run, tmp_path: Path) -> None:
    root = whole.path.parent
    settings = GenerateSettings(dir=root, n_struc=7, seed=3, write_fname=str(tmp_path / "a.extxyz"), progress=False)
    first = read_structures(generate(settings))
    again = read_structures(generate(replace(settings, write_fname=str(tmp_path / "b.extxyz"), run=whole.id)))
    assert len(first) == 7
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(a.positions, b.positions)
    reference = read(DATA, 0)[::-1]
    write(tmp_path / "ref.extxyz", reference, format="extxyz")
    latents = tmp_path / "z.npy"
    turned = replace(
        settings,
        ref_struc=str(tmp_path / "ref.extxyz"),
        write_fname=str(tmp_path / "c.extxyz"),
        save_latents=str(latents),
    )
    third = read_structures(generate(turned))
    assert third[0].get_chemical_symbols() == reference.get_chemical_symbols()
    for a, c in zip(first, third, strict=True):
        for element in ("Cu", "Au"):
            np.testing.assert_allclose(a.positions[a.symbols == element], c.positions[c.symbols == element])
    assert len(np.load(latents)) == 7


def test_generating_with_wrong_input(whole: runs.Run, tmp_path: Path, capsys: Capture) -> None:
    wrong = read(DATA, 0)
    wrong.set_cell(wrong.cell[:] * 1.1)
    write(tmp_path / "wrong.extxyz", wrong, format="extxyz")
    common = {"dir": whole.path.parent, "progress": False, "write_fname": tmp_path / "gen.extxyz"}
    for options, words in (
        ({"ref_struc": tmp_path / "wrong.extxyz"}, "has the cell"),
        ({"n_struc": 0}, "n_struc is 0"),
        ({"threads": 0}, "threads is 0"),
        ({"latent_dim": 65}, "latent_dim is 65"),
        ({"run": "unknown"}, "no run 'unknown'"),
        ({"write_fname": "gen.pdf"}, "gen.pdf"),
        ({"weights": "model_saves/none.safetensors"}, "none.safetensors"),
        ({"dir": tmp_path / "empty"}, "empty"),
    ):
        assert words in refused(generate, GenerateSettings, capsys, **(common | options))
    done = call("generate", **(common | {"run": "unknown"}))
    assert (done.returncode, "no run 'unknown'" in done.stderr, "Traceback" in done.stderr) == (2, True, False)
    assert not (tmp_path / "gen.extxyz").exists()


ENV = {"template": str(DATA), "free": "positions", "min_distance": 0.0, "reward": "contacts"}


def test_the_generator_plays_its_structures(gan: GAN) -> None:
    env = make_vec("CrystalSlots-v0", 3, **ENV)
    played = rollout(CryinGANPolicy(gan, env, seed=5), env, 6, seed=0)
    made = gan.sample(3, 5)
    lattice = gan.system.lattice
    for row in range(3):
        apart = lattice.minimum_image(made.positions[row][:, None] - played.structures.positions[row])
        nearest = np.linalg.norm(apart, axis=-1).min(1)
        assert nearest.max() < 1e-4
    single = gym.make("CrystalSlots-v0", **ENV)
    policy, done, state = CryinGANPolicy(gan, single, seed=5), False, None
    observation, _ = single.reset(seed=0)
    steps = 0
    while not done:
        action, state = policy.predict(observation, state, np.array([state is None]), deterministic=True)
        observation, _, terminated, truncated, _ = single.step(action)
        done = terminated or truncated
        steps += 1
    assert steps == 16


def test_kept_atoms_stay_and_the_generator_gives_way(gan: GAN) -> None:
    env = make_vec("CrystalSlots-v0", 2, **(ENV | {"keep": 6}))
    played = rollout(CryinGANPolicy(gan, env, seed=1), env, 2, seed=0)
    template = env.task.template
    np.testing.assert_allclose(
        played.structures.positions[:, :6], np.tile(template.positions[:6], (2, 1, 1)), atol=1e-4
    )
    assert (played.structures.n_atoms == 16).all()
    distances = gan.system.lattice.distances(played.structures.positions) + np.eye(16) * 99
    assert distances.min() > 1.5


def test_another_crystal_is_refused(gan: GAN) -> None:
    with pytest.raises(InputError, match="another cell, periodicity or composition than the model, which makes Cu8Au8"):
        CryinGANPolicy(gan, gym.make("CrystalSlots-v0", template="l12"))
    with pytest.raises(InputError, match="actions are places in a cell"):
        CryinGANPolicy(gan, gym.make("CrystalSlots-v0", **(ENV | {"free": "species"})))


@pytest.mark.filterwarnings("error")
def test_an_agent_refines_what_the_generator_proposes(gan: GAN) -> None:
    from stable_baselines3.common.env_checker import check_env as sb3_check_env

    task = gym.make("CrystalSlots-v0", **ENV).unwrapped.task  # type: ignore[attr-defined]
    env = StructureEnv(RefineTask(task, gan, radius=0.2), make_reward("contacts"))
    check_env(env, skip_render_check=True)
    sb3_check_env(env)
    observation, _ = env.reset(seed=4)
    proposal = observation["proposal"].reshape(-1, 3)
    for _ in range(16):
        observation, *_ = env.step(np.array([1.0, 0.0, 0.0], dtype=np.float32))
    moved = task.lattice.minimum_image(observation["positions"].reshape(-1, 3).astype(float) - proposal)
    np.testing.assert_allclose(moved, np.tile([0.2, 0, 0], (16, 1)), atol=1e-4)


def test_the_critics_score_real_structures_around_zero(whole: runs.Run) -> None:
    reward = make_reward("discriminator", run=str(whole.path))
    structures = read_structures(DATA)
    batch = StructureBatch.from_atoms(structures)
    empty = batch[:]
    score = reward(empty, batch).value
    assert abs(score.mean()) < 0.6
    assert 0.5 < score.std() < 2
    shuffled = StructureBatch.from_atoms([atoms[np.random.default_rng(0).permutation(16)] for atoms in structures])
    np.testing.assert_allclose(reward(empty, shuffled).value, score, atol=1e-3)
    part = StructureBatch.from_atoms([atoms[:-1] for atoms in structures])
    assert not reward(empty, part).value.any()
    random = batch.positions + np.random.default_rng(1).normal(scale=0.5, size=batch.positions.shape)
    noisy = StructureBatch(random, batch.species, batch.symbols, batch.cell, batch.pbc)
    ungated = make_reward("discriminator", run=str(whole.path), min_distance=0.0)
    assert ungated(empty, noisy).value.mean() < score.mean() - 0.3
    assert ungated(empty, noisy).value.max() <= 3.0
    gated = make_reward("discriminator", run=str(whole.path), worst=-7.0)
    assert gated.min_distance == pytest.approx(load_gan(whole.path)[0].valid_distance)
    assert 1.7 < gated.min_distance < 2.2
    close = np.array(batch.positions)
    close[:, 1] = close[:, 0] + [0.5, 0, 0]
    crowded = StructureBatch(close, batch.species, batch.symbols, batch.cell, batch.pbc)
    assert (gated(empty, crowded).value == -7).all()
    swapped = batch.species.copy()
    swapped[:, 0] = 3 - swapped[:, 0]
    other = StructureBatch(batch.positions, swapped, batch.symbols, batch.cell, batch.pbc)
    with pytest.raises(InputError, match="cannot judge another composition"):
        reward(empty, other)
    with pytest.raises(InputError, match="have another one"):
        reward(empty, StructureBatch(batch.positions, batch.species, batch.symbols, batch.cell * 1.2, batch.pbc))


def test_the_critics_judge_an_episode(whole: runs.Run) -> None:
    env = make_vec(
        "CrystalSlots-v0", 4, **(ENV | {"reward": "discriminator", "reward_kwargs": {"run": str(whole.path)}})
    )
    played = rollout(CryinGANPolicy(str(whole.path), env), env, 8, seed=1)
    assert np.isfinite(played.episode_return).all()
    assert (played.episode_return > -10).any()
