"""The run folder: whole on disk whatever happens."""

import errno
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from megen_gym import runs
from megen_gym.errors import InputError, user_errors

SETTINGS = {"env": "megen_gym:GaCluster-v0", "seed": 3, "n": 18}


def full_disk(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_create_open_newest(tmp_path):
    first = runs.create(tmp_path / "runs", SETTINGS)
    second = runs.create(tmp_path / "runs", SETTINGS)
    assert first.id != second.id
    assert "-gacluster-s3" in first.id
    assert first.seed == 3
    assert first.config["versions"]["numpy"] == np.__version__
    again = runs.open(tmp_path / "runs", first.id)
    assert again.settings == SETTINGS
    assert again.config == first.config
    assert runs.newest(tmp_path / "runs").id == second.id
    assert runs.locate(first.path).id == first.id
    assert [run.id for run in runs.every(tmp_path / "runs")] == [first.id, second.id]


@pytest.mark.parametrize("make", [False, True])
def test_no_run_is_one_sentence(tmp_path, make):
    root = tmp_path / "runs"
    if make:
        root.mkdir()
    with pytest.raises(InputError, match=r"holds no run|does not exist.*train one first"):
        runs.newest(root)


def test_unknown_id_names_the_nearest(tmp_path):
    run = runs.create(tmp_path, SETTINGS)
    with pytest.raises(InputError, match=f"did you mean '{run.id}'"):
        runs.open(tmp_path, run.id[:-1] + "4")


def test_other_version_and_corrupt_config_are_refused(tmp_path):
    run = runs.create(tmp_path, SETTINGS)
    config = json.loads((run.path / "config.json").read_text())
    (run.path / "config.json").write_text(json.dumps(config | {"format": 99}))
    with pytest.raises(InputError, match=r"has format 99.*reads format 1; use the version that wrote it"):
        runs.open(tmp_path, run.id)
    for text in ("{", "[]", '{"format": 1}'):
        (run.path / "config.json").write_text(text)
        with pytest.raises(InputError, match=r"config\.json"):
            runs.open(tmp_path, run.id)


def test_setting_that_is_no_json_leaves_nothing(tmp_path):
    with pytest.raises(InputError, match="object"):
        runs.create(tmp_path / "runs", {"reward": object()})
    assert not (tmp_path / "runs").exists()


def test_full_disk_keeps_the_old_file(tmp_path, monkeypatch, capsys):
    run = runs.create(tmp_path, SETTINGS)
    runs.write_text(run.path / "report.html", "old")
    run.append_metrics(1, {"steps": 10})
    before = sorted(run.path.iterdir())
    monkeypatch.setattr(runs.os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space") as caught:
        runs.write_text(run.path / "report.html", "new")
    assert caught.value.filename == str(run.path / "report.html")
    with pytest.raises(OSError, match="No space"):
        run.append_metrics(2, {"steps": 20})
    with pytest.raises(OSError, match="No space"):
        runs.create(tmp_path, SETTINGS)
    with pytest.raises(SystemExit) as stopped:
        user_errors(runs.write_text)(run.path / "report.html", "new")
    assert stopped.value.code == 2
    assert "report.html" in (message := capsys.readouterr().err)
    assert "free disk space" in message
    assert (run.path / "report.html").read_text() == "old"
    assert sorted(run.path.iterdir()) == before
    assert run.metrics()["iteration"].tolist() == [1]
    assert [path.name for path in tmp_path.iterdir()] == [run.id]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_append_to_a_full_device():
    with pytest.raises(OSError, match="No space"):
        runs.append_bytes("/dev/full", b"x")


def test_metrics_grow_truncate_and_survive_a_torn_line(tmp_path):
    run = runs.create(tmp_path, SETTINGS)
    assert run.metrics() == {}
    for iteration in range(1, 5):
        run.append_metrics(iteration, {"steps": 64 * iteration, "return_mean": 0.1 * iteration})
    run.append_metrics(5, {"steps": 320, "eval/return_mean": np.float32(0.5)})
    table = run.metrics()
    assert list(table) == ["iteration", "steps", "return_mean", "eval/return_mean"]
    assert np.isnan(table["return_mean"][-1])
    assert np.isnan(table["eval/return_mean"][0])
    with (run.path / "metrics.csv").open("a") as file:
        file.write("6,38")
    assert len(run.metrics()["steps"]) == 5
    run.append_metrics(6, {"steps": 384})
    assert run.metrics()["steps"].tolist() == [64, 128, 192, 256, 320, 384]
    run.truncate_metrics(3)
    assert run.metrics()["iteration"].tolist() == [1, 2, 3]
    run.append_metrics(4, {"steps": 256})
    assert run.metrics()["iteration"].tolist() == [1, 2, 3, 4]


def test_damaged_metrics_are_refused(tmp_path):
    run = runs.create(tmp_path, SETTINGS)
    (run.path / "metrics.csv").write_text("iteration,steps\n1\n")
    with pytest.raises(InputError, match="damaged"):
        run.metrics()
    (run.path / "metrics.csv").write_text("iteration,steps\n1,many\n")
    with pytest.raises(InputError, match="no number"):
        run.metrics()


def test_weights_and_state_round_trip(tmp_path):
    torch = pytest.importorskip("torch")
    run = runs.create(tmp_path, SETTINGS)
    assert not run.resumable
    with pytest.raises(InputError, match="not completed a checkpoint"):
        run.load_state()
    shared = torch.arange(6.0).reshape(2, 3)
    tensors = {"a": shared, "b": shared.T, "n": torch.tensor(7)}
    run.save_weights(tensors)
    run.save_state(tensors, {"iteration": 4, "rng": np.random.default_rng(0).bit_generator.state})
    assert run.resumable
    loaded, meta = run.load_state()
    for name, tensor in tensors.items():
        assert torch.equal(loaded[name], tensor)
        assert torch.equal(run.load_weights()[name], tensor)
    generator = np.random.default_rng(1)
    generator.bit_generator.state = meta["rng"]
    assert generator.random() == np.random.default_rng(0).random()
    (run.path / "weights.safetensors").write_bytes(b"broken")
    with pytest.raises(InputError, match="no complete safetensors file"):
        run.load_weights()


def test_sigkill_leaves_whole_files(tmp_path):
    script = """
import sys
from megen_gym import runs
run = runs.create(sys.argv[1], {})
iteration = 0
while True:
    iteration += 1
    run.append_metrics(iteration, {"steps": iteration * 1.5})
    runs.write_text(run.path / "state.json", "[" + ",".join([str(iteration)] * 20000) + "]")
"""
    process = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)])
    deadline = time.monotonic() + 20
    while not list(tmp_path.glob("*/state.json")) and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(0.3)
    process.send_signal(signal.SIGKILL)
    process.wait()
    run = runs.newest(tmp_path)
    state = json.loads((run.path / "state.json").read_text())
    assert len(state) == 20000
    assert len(set(state)) == 1
    assert run.metrics()["iteration"][-1] in (state[0], state[0] + 1)
    run.truncate_metrics(state[0])
    run.clean()
    assert run.metrics()["iteration"][-1] == state[0]
    assert sorted(path.name for path in run.path.iterdir()) == ["config.json", "metrics.csv", "state.json"]


def test_no_heavy_import():
    modules = "megen_gym.io, megen_gym.runs, megen_gym.analysis.export, megen_gym.analysis.curves"
    heavy = "{'torch', 'dscribe', 'matplotlib', 'pandas', 'safetensors'}"
    code = f"import {modules}, sys; assert not {heavy} & set(sys.modules), {heavy} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
