"""Comparing runs, and training variants to compare."""

import json
import textwrap
import time
from pathlib import Path

import pytest

from common import ablate
from common.compare import compare, main, mean_and_interval, read_run, settings
from common.errors import UserError
from common.exercises import ROOT


def make_run(folder: Path, returns: list[float], **config) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"env": "TinyCatch-v0", "seed": 0, "steps": 30} | config))
    rows = [
        {
            "step": i,
            "frames": 10 * i,
            "wall_seconds": i,
            "policy/eval_return": value,
            "world_model/recon_error": 0.1 / i,
        }
        for i, value in enumerate(returns, start=1)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_seeds_of_one_setting_come_together(tmp_path):
    """A setting is named by what it has other than the first run; seed and length of a run make no setting."""
    runs = [
        make_run(tmp_path / "a", [1], latent="discrete"),
        make_run(tmp_path / "b", [1], latent="gaussian", stoch=32),
        make_run(tmp_path / "c", [1], latent="discrete", seed=1, steps=60),
        make_run(tmp_path / "d", [1], latent="gaussian", stoch=32, seed=1),
    ]
    assert settings({run: read_run(run)[0] for run in runs}) == {
        "baseline": [runs[0], runs[2]],
        "latent=gaussian, stoch=32": [runs[1], runs[3]],
    }


def test_papers_stand_side_by_side(tmp_path):
    """Each by its name, however many options they do not share; seeds from the results, costs in the table."""
    papers = "paper4_dreamerv3", "paper5_iris"
    folders = [ROOT / "solutions" / "results" / paper / "TinyCatch-v0" for paper in papers]
    folders.append(ROOT / "solutions" / "results" / "paper5_iris" / "TinyCatch-v0-cnn_lstm")
    summary = compare(folders, tmp_path / "figure.png")
    assert list(summary) == ["paper4_dreamerv3", "paper5_iris", "paper5_iris: actor=cnn_lstm"]
    for each in summary.values():
        assert len(each["policy/eval_return"]["values"]) == len(each["efficiency/parameters"]["values"]) == 3
    assert max(summary["paper5_iris"]["frames"]) <= 18_000, "as far as the shortest goes"
    assert compare(folders, tmp_path / "figure.png", whole=True)["paper5_iris"]["frames"] == [24_000] * 3


def test_interval_is_students():
    """1, 2, 3: std 1, t(2 degrees) = 4.3027, so 4.3027 / sqrt(3); one value has no interval."""
    assert mean_and_interval([1, 2, 3])["ci95"] == pytest.approx(2.4841, abs=1e-4)
    assert mean_and_interval([5.0]) == {"mean": 5.0, "ci95": None, "values": [5.0]}


def test_comparison_has_the_last_values_and_a_figure(tmp_path):
    runs = [make_run(tmp_path / str(seed), [0, 1, 2 + seed], seed=seed) for seed in range(2)]
    summary = compare(runs, tmp_path / "out" / "figure.png")
    assert summary["baseline"]["policy/eval_return"]["values"] == [2, 3]
    assert summary["baseline"]["frames"] == [30, 30]
    assert "world_model/kl" not in summary["baseline"], "nobody has logged it"
    assert json.loads((tmp_path / "out" / "figure.json").read_text()) == summary
    assert (tmp_path / "out" / "figure.png").stat().st_size > 10_000


def test_runs_are_compared_as_far_as_the_shortest_goes(tmp_path):
    runs = [make_run(tmp_path / "long", [0, 1, 2, 3]), make_run(tmp_path / "short", [0, 1], latent="gaussian")]
    summary = compare(runs, tmp_path / "figure.png")
    assert summary["baseline"]["policy/eval_return"]["values"] == [1]
    assert summary["baseline"]["frames"] == [20]


def test_command_line(tmp_path, capsys):
    runs = [str(make_run(tmp_path / name, [0, 1], latent=name)) for name in ("discrete", "gaussian")]
    main([*runs, "--figure", str(tmp_path / "figure.png"), "--metrics", "policy/eval_return"])
    assert "latent=gaussian" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main([str(tmp_path), "--figure", str(tmp_path / "figure.png")])
    assert "holds no run" in capsys.readouterr().err


TRAIN = """
import argparse, json, pathlib
parser = argparse.ArgumentParser()
for name in ("preset", "seed", "logdir", "resume", "steps", "latent"):
    parser.add_argument("--" + name)
options = parser.parse_args()
folder = pathlib.Path(options.resume or options.logdir)
if options.resume:
    frames = 30
else:
    (folder / "checkpoints").mkdir(parents=True)
    config = {"seed": int(options.seed), "steps": 30, "latent": options.latent or "discrete"}
    (folder / "config.json").write_text(json.dumps(config))
    frames = 10 if BREAKS and options.latent and options.seed == "1" else 30
row = {"step": frames, "frames": frames, "wall_seconds": 1, "policy/eval_return": 1.0 + int(bool(options.latent))}
(folder / "metrics.jsonl").write_text(json.dumps(row) + "\\n")
"""


def write_train(tmp_path: Path, breaks: bool) -> Path:
    path = tmp_path / "train.py"
    path.write_text(f"BREAKS = {breaks}\n" + textwrap.dedent(TRAIN))
    return path


ABLATIONS = {"gaussian": ("--latent", "gaussian")}


def test_every_variant_is_trained_on_every_seed(tmp_path, capsys):
    folder = tmp_path / "runs"
    arguments = ["--ablate", "gaussian", "--seeds", "0", "1", "--logdir", str(folder)]
    ablate.main(write_train(tmp_path, breaks=False), ABLATIONS, arguments)
    assert {path.name for path in folder.iterdir() if path.is_dir()} == {
        *("baseline-seed0", "baseline-seed1", "gaussian-seed0", "gaussian-seed1")
    }
    summary = json.loads((folder / "gaussian.json").read_text())
    assert summary["baseline"]["policy/eval_return"]["values"] == [1, 1]
    assert summary["latent=gaussian"]["policy/eval_return"]["values"] == [2, 2]
    ablate.main(write_train(tmp_path, breaks=False), ABLATIONS, arguments)
    assert capsys.readouterr().out.count("finished before") == 4


def test_what_was_broken_off_goes_on(tmp_path, capsys):
    folder = tmp_path / "runs"
    arguments = ["--ablate", "gaussian", "--seeds", "0", "1", "--logdir", str(folder)]
    with pytest.raises(SystemExit):
        ablate.main(write_train(tmp_path, breaks=True), ABLATIONS, arguments)
    assert "gaussian-seed1 did not finish" in capsys.readouterr().err
    ablate.main(write_train(tmp_path, breaks=True), ABLATIONS, arguments)
    output = capsys.readouterr().out
    assert output.count("finished before") == 3
    assert f"--resume {folder / 'gaussian-seed1'}" in output


def test_a_folder_of_another_run_is_refused(tmp_path):
    """Numbers are compared as numbers; flags, too; what the options do not name may be anything."""
    (tmp_path / "config.json").write_text(
        json.dumps({"steps": 500, "lr": 1e-3, "recon_grad": False, "env": "A", "clip": 1e9})
    )
    for words in (
        "--steps 500",
        "--steps 400",
        "--lr 0.001",
        "--lr 1e-3 --no-recon-grad",
        "--env A",
        "--clip 1e9",
        "--preset tiny",
    ):
        ablate.check_options(tmp_path, words.split())
    for words, name in (
        ("--steps 600", "steps 500"),
        ("--recon-grad --env A", "recon_grad False"),
        ("--env B", "env A"),
    ):
        with pytest.raises(UserError, match=f"holds a run with {name}, not"):
            ablate.check_options(tmp_path, words.split())
    ablate.check_options(tmp_path / "nothing", ["--steps", "1"])


@pytest.mark.parametrize("options", [["--jobs", "0"], ["--seeds"]])
def test_nothing_to_do_is_one_line(options, tmp_path, capsys):
    with pytest.raises(SystemExit):
        ablate.main(write_train(tmp_path, breaks=False), ABLATIONS, ["--ablate", "gaussian", *options])
    assert "--jobs must be 1 or more, and there must be a seed" in capsys.readouterr().err


def test_unknown_variants_are_refused(tmp_path, capsys):
    with pytest.raises(SystemExit):
        ablate.main(write_train(tmp_path, breaks=False), ABLATIONS, ["--ablate", "gausian"])
    assert "there is no ablation 'gausian'; there are: gaussian" in capsys.readouterr().err


def test_a_bad_folder_is_named(tmp_path):
    with pytest.raises(UserError, match="holds no run"):
        compare([tmp_path], tmp_path / "figure.png")
    with pytest.raises(UserError, match="one run folder at least"):
        compare([], tmp_path / "figure.png")


def test_ctrl_c_starts_nothing_more(tmp_path, capsys, monkeypatch):
    """The trainings under way save themselves; those that wait are not begun."""
    begun = []

    def train_one(train, folder, words, jobs):
        begun.append(folder.name)
        if len(begun) == 1:
            raise KeyboardInterrupt
        time.sleep(1)

    monkeypatch.setattr(ablate, "train_one", train_one)
    with pytest.raises(SystemExit):
        ablate.main(
            tmp_path / "train.py", ABLATIONS, ["--ablate", "gaussian", "--jobs", "1", "--logdir", str(tmp_path)]
        )
    assert "stopped; the same command goes on" in capsys.readouterr().err
    assert len(begun) <= 2
