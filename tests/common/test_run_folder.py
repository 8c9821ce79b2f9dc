"""Run folders: never shared, found again, and complete."""

import json
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import pytest

from common import run_folder
from common.errors import UserError
from common.run_folder import config_from_dict, config_to_dict, find_run, open_run, read_config, read_sessions
from tests.common.toys import ToyConfig

CONFIG = ToyConfig(env="ALE/Pong-v5", preset="small", seed=4, size=8)


@pytest.fixture
def one_second(monkeypatch):
    """The clock stands still."""

    class Stopped(datetime):
        @classmethod
        def now(cls, tz=None):
            return cls(2025, 3, 4, 5, 6, 7)

    monkeypatch.setattr(run_folder, "datetime", Stopped)


def test_the_name_says_when_and_what(tmp_path, one_second, capsys):
    folder = open_run(CONFIG, tmp_path / "runs")
    assert folder == tmp_path / "runs" / "20250304-050607-ALE-Pong-v5-small-4"
    assert f"run folder: {folder}" in capsys.readouterr().out
    assert config_from_dict(ToyConfig, json.loads((folder / "config.json").read_text())) == CONFIG


def test_two_runs_in_one_second_have_folders_of_their_own(tmp_path, one_second):
    folders = [open_run(replace(CONFIG, size=size), tmp_path) for size in (1, 2, 3)]
    assert len(set(folders)) == 3
    assert [read_config(folder)["size"] for folder in folders] == [1, 2, 3]
    assert find_run("latest", tmp_path) == folders[-1]


def test_runs_that_begin_at_the_same_moment_have_folders_of_their_own(tmp_path, one_second):
    with ThreadPoolExecutor(8) as pool:
        folders = list(pool.map(lambda size: open_run(replace(CONFIG, size=size), tmp_path), range(8)))
    assert len(set(folders)) == 8
    assert sorted(read_config(folder)["size"] for folder in folders) == list(range(8))


def test_a_logdir_is_taken_as_it_is_but_not_twice(tmp_path):
    config = replace(CONFIG, logdir=tmp_path / "a" / "b")
    (tmp_path / "a" / "b").mkdir(parents=True)  # an empty folder is welcome
    assert open_run(config, tmp_path / "runs") == tmp_path / "a" / "b"
    assert not (tmp_path / "runs").exists()
    before = (tmp_path / "a" / "b" / "config.json").read_text()
    with pytest.raises(UserError, match=r"already holds a run: continue it with --resume .*b"):
        open_run(replace(config, size=9), tmp_path / "runs")
    assert (tmp_path / "a" / "b" / "config.json").read_text() == before


def test_a_resumed_run_keeps_its_folder_and_notes_the_session(tmp_path):
    folder = open_run(CONFIG, tmp_path)
    assert open_run(replace(CONFIG, resume=str(folder), size=9), tmp_path) == folder
    assert read_config(folder)["size"] == 9
    sessions = read_sessions(folder)
    assert len(sessions) == 2
    assert {"command", "started", "hardware", "commit", "versions"} <= sessions[0].keys()
    assert list(tmp_path.iterdir()) == [folder]


def test_the_command_that_is_kept_has_no_folders_of_this_machine(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "sys.argv", ["/here/train.py", "--resume", "/home/me/runs/one", "--steps", "5", "--logdir", "/x"]
    )
    assert run_folder.session()["command"] == "python train.py --resume one --steps 5"


def test_runs_are_found_by_path_by_name_and_as_the_latest(tmp_path, monkeypatch):
    runs, names = tmp_path / "runs", ["20250102-000000-x", "20250103-000000-x", "20250101-000000-x"]
    for name in names:
        open_run(replace(CONFIG, logdir=runs / name), runs)
    (runs / "20259999-no-run").mkdir()  # without a config.json
    monkeypatch.chdir(tmp_path)
    assert find_run("latest", runs).name == "20250101-000000-x"  # begun last, whatever its name
    assert find_run("20250101-000000-x", runs) == runs / "20250101-000000-x"
    assert find_run("runs/20250102-000000-x", Path("elsewhere")).name == "20250102-000000-x"
    for wrong in ("20259999-no-run", "20250101", str(tmp_path)):
        with pytest.raises(UserError, match="holds no run") as error:
            find_run(wrong, runs)
        assert "20250103-000000-x" in str(error.value)  # it says which there are
    with pytest.raises(UserError, match="there is no run to resume in"):
        find_run("latest", tmp_path / "empty")


def test_the_latest_run_is_the_one_begun_last_whatever_it_is_called(tmp_path):
    named = open_run(replace(CONFIG, logdir=tmp_path / "zebra"), tmp_path)
    later = open_run(CONFIG, tmp_path)
    os.utime(named / "config.json", (1_000_000, 1_000_000))
    assert find_run("latest", tmp_path) == later


def test_configs_survive_as_plain_values():
    """All but where the run is kept, which may be moved."""
    values = json.loads(json.dumps(config_to_dict(replace(CONFIG, logdir=Path("x/y"), resume="latest"))))
    assert config_from_dict(ToyConfig, {**values, "of_another_version": 1}) == CONFIG
    assert config_from_dict(ToyConfig, {"size": 5}) == ToyConfig(size=5)  # what is missing takes its default


def test_a_run_needs_no_git(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    folder = open_run(CONFIG, tmp_path / "runs")
    assert read_sessions(folder)[0]["commit"] == ""
