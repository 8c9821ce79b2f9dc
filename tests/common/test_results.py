"""Results: the README shows what the committed files say, and the files are written whole or not at all."""

import json
import shutil

import pytest
import torch

from common.checkpoint import load_checkpoint, save_checkpoint
from solutions import make_results
from solutions.paper2_dreamerv1 import train
from solutions.score_table import ENVIRONMENTS, PAPERS, REPORTED, score_table

MICRO = [
    *("--env", "TinyReacher-v0", "--steps", "160", "--prefill", "120", "--num-envs", "4", "--eval-episodes", "2"),
    *("--depth", "2", "--deter", "8", "--stoch", "4", "--hidden", "8", "--units", "8", "--batch", "4", "--length", "6"),
    *("--pretrain", "2", "--train-every", "40", "--actor-delay", "1", "--horizon", "4", "--device", "cpu"),
]


def test_the_readme_shows_what_the_result_files_say():
    shown = make_results.README.read_text().split(make_results.BEGIN)[1].split(make_results.END)[0].strip()
    assert shown == make_results.table()
    scores = make_results.README.read_text().split(make_results.SCORES_BEGIN)[1].split(make_results.SCORES_END)[0]
    assert scores.strip() == score_table()
    assert shown.count("\n") >= 1 + len(list(make_results.RESULTS.glob("*/*/result.json")))  # two lines of heading


def test_scores_of_papers_and_of_this_code_side_by_side():
    """A cell for each pair; our CarRacing is read from its result; nothing stands for what was not run."""
    rows = [line.split(" | ") for line in score_table().splitlines()[2:]]
    assert [len(row) for row in rows] == [1 + len(PAPERS)] * len(ENVIRONMENTS)
    racing, walker, pong, _ = rows
    assert racing[1].startswith("906 ± 21")
    assert (
        "here: [526 ± 86](solutions/results/paper1_world_models/CarRacing-v3) at 2.2M (1 seed x 30 episodes)"
        in racing[1]
    )
    assert racing[2] == "not reported<br>here: not run"
    assert walker[5].strip(" |") == "has no continuous actions"
    assert pong[4].startswith("20.5 at 200M")
    assert REPORTED.keys() == ENVIRONMENTS.keys()


def test_results_are_written_whole(tmp_path, monkeypatch, capsys):
    """From a run folder to result.json, pictures and the README's table; and a second try that fails spoils nothing."""
    run, readme = tmp_path / "run", tmp_path / "README.md"
    train.main([*MICRO, "--logdir", str(run)])
    places = make_results.BEGIN, make_results.END, make_results.SCORES_BEGIN, make_results.SCORES_END
    readme.write_text("\n".join(["before", *places, "after"]))
    monkeypatch.setattr(make_results, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(make_results, "README", readme)
    make_results.main(["paper2_dreamerv1", str(run), "--episodes", "3"])
    folder = tmp_path / "results" / "paper2_dreamerv1" / "TinyReacher-v0"
    result = json.loads((folder / "result.json").read_text())
    (seed,) = result["seeds"]
    assert (result["env"], result["preset"], len(seed["evaluation_returns"])) == ("TinyReacher-v0", "tiny", 3)
    assert (seed["frames"], seed["updates"]) == (160, 2 + (160 - 120) // 40)
    assert seed["prediction"]["steps"] == 15
    assert seed["prediction"]["error_at_last"] > 0
    for name in (
        "learning_curve.png",
        "figures/predictions.png",
        "videos/dream_0.gif",
        "metrics_seed0.jsonl",
        "model.pt",
    ):
        assert (folder / name).is_file(), name
    assert "TinyReacher-v0" in readme.read_text()
    assert readme.read_text().startswith("before\n")

    broken = tmp_path / "broken"
    shutil.copytree(run, broken)
    (broken / "model.pt").unlink()
    with pytest.raises(SystemExit):
        make_results.main(["paper2_dreamerv1", str(run), str(broken), "--episodes", "3"])
    assert "there is no checkpoint" in capsys.readouterr().err
    assert json.loads((folder / "result.json").read_text()) == result


def test_the_command_of_a_resumed_run_has_its_last_steps():
    first = {"command": "python train.py --seed 0"}
    assert make_results.command_of([first]) == "python train.py --seed 0"
    resumed = [
        first,
        {"command": "python train.py --resume run --steps 50"},
        {"command": "python train.py --resume run"},
    ]
    assert make_results.command_of(resumed) == "python train.py --seed 0 --steps 50"


@pytest.mark.parametrize(("limit", "dtype"), [(2**20, torch.float32), (30_000, torch.float16), (10_000, None)])
def test_large_weights_are_kept_in_half_precision(limit, dtype, tmp_path, monkeypatch):
    """10,000 numbers: as they are, in half precision, or not at all."""
    monkeypatch.setattr(make_results, "MAX_BYTES", limit)
    save_checkpoint(tmp_path / "model.pt", {"paper": "toy", "agent": {"net": {"w": torch.ones(100, 100)}}})
    make_results.copy_weights(tmp_path / "model.pt", tmp_path / "copy.pt")
    assert (tmp_path / "copy.pt").exists() == (dtype is not None)
    if dtype:
        weight = load_checkpoint(tmp_path / "copy.pt", paper="toy")["agent"]["net"]["w"]
        assert weight.dtype == dtype
        assert (weight == 1).all()
