"""Learning curves: which runs belong together, what is drawn, what is refused."""

import numpy as np
import pytest

from megen_gym import runs
from megen_gym.analysis.curves import grouped, mean_curve, plot_learning_curves
from megen_gym.errors import InputError
from megen_gym.runs import Run


def train(root, rows: int = 5, **settings) -> Run:
    run = runs.create(root, {"name": "ppo", **settings})
    for k in range(1, rows + 1):
        evaluation = {"eval/return_mean": k / 10} if k % 2 == 0 else {}
        run.append_metrics(
            k, {"steps": 64 * k, "return_mean": k / 20 + 0.01 * run.seed, "valid_moves": 0.5, **evaluation}
        )
    return run


def test_grouping_ignores_the_seed(tmp_path):
    made = [train(tmp_path, seed=seed, policy=policy) for policy in ("mlp", "covariant") for seed in (0, 1)]
    groups = grouped(made)
    assert {label: len(group) for label, group in groups.items()} == {"policy=mlp": 2, "policy=covariant": 2}
    assert list(grouped(made[:2])) == ["ppo"]


def test_mean_and_spread_of_unequal_runs():
    x = np.array([1.0, 2.0, 3.0])
    grid, mean, spread = mean_curve([(x, x), (x[:2], x[:2] + 1)])
    assert grid.tolist() == [1, 2, 3]
    assert mean.tolist() == [1.5, 2.5, 3]
    assert spread.tolist() == [0.5, 0.5, 0]


@pytest.mark.parametrize("mode", ["train", "eval", "all"])
def test_picture(tmp_path, capsys, mode):
    for seed in (0, 1):
        train(tmp_path / "runs", seed=seed)
    path = plot_learning_curves(str(tmp_path / "runs"), mode=mode, baseline=0.2, min_num_steps=64, max_num_steps=300)
    assert path == tmp_path / "runs" / "learning_curve.png"
    assert path.read_bytes().startswith(b"\x89PNG")
    assert capsys.readouterr().out.strip() == str(path)


def test_one_run_and_list_of_folders(tmp_path):
    a, b = train(tmp_path / "a"), train(tmp_path / "b", policy="mlp", rows=1)
    assert plot_learning_curves(str(a.path)) == a.path / "learning_curve.png"
    assert plot_learning_curves(str(tmp_path / "a"), name=a.id) == a.path / "learning_curve.png"
    both = plot_learning_curves(
        [str(tmp_path / "a"), str(b.path)], columns=["eval/return_mean"], output=tmp_path / "x.png"
    )
    assert both.is_file()


def test_bad_input(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        plot_learning_curves(str(tmp_path / "runs"))
    runs.create(tmp_path / "runs", {})
    with pytest.raises(InputError, match="completed an iteration"):
        plot_learning_curves(str(tmp_path / "runs"))
    run = train(tmp_path / "runs")
    with pytest.raises(InputError, match=r"ends in \.png"):
        plot_learning_curves(str(run.path), output=tmp_path / "a.pdf")
    with pytest.raises(InputError, match="did you mean 'return_mean'"):
        plot_learning_curves(str(run.path), columns=["retrun_mean"])
