"""Checkpoints: whole or not at all; nothing in the file is ever run."""

import errno
import os
import random

import numpy as np
import pytest
import torch

from common.checkpoint import find_checkpoint, load_checkpoint, save_checkpoint
from common.errors import UserError


def payload(step: int = 0, size: int = 10) -> dict:
    return {"paper": "paper2_dreamerv1", "step": step, "weights": torch.arange(size) + step}


class RunsCode:
    """A pickle of this creates a file as soon as it is loaded."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_everything_a_run_needs_comes_back_exactly(tmp_path):
    net = torch.nn.Linear(3, 2)
    optimiser = torch.optim.Adam(net.parameters(), lr=1e-3)
    net(torch.randn(5, 3)).sum().backward()
    optimiser.step()
    saved = {
        "paper": "paper4_dreamerv3",
        "net": net.state_dict(),
        "optimiser": optimiser.state_dict(),
        "numpy_rng": np.random.default_rng(0).bit_generator.state,
        "python_rng": random.Random(0).getstate(),
        "torch_rng": torch.get_rng_state(),
        "scale": float("inf"),
        "nothing": None,
        "mask": torch.tensor([True, False]),
        "half": torch.tensor([1.5], dtype=torch.float16),
    }
    save_checkpoint(tmp_path / "new" / "folder" / "model.pt", saved)
    loaded = load_checkpoint(tmp_path / "new" / "folder" / "model.pt", paper="paper4_dreamerv3")

    assert set(loaded) == {"format", *saved}
    for key in ("numpy_rng", "python_rng", "scale", "nothing"):
        assert loaded[key] == saved[key]
    for key in ("torch_rng", "mask", "half"):
        assert loaded[key].dtype == saved[key].dtype
        assert torch.equal(loaded[key], saved[key])
    assert torch.equal(loaded["net"]["weight"], net.weight)
    twin = torch.optim.Adam(torch.nn.Linear(3, 2).parameters())
    twin.load_state_dict(loaded["optimiser"])
    assert twin.param_groups[0]["lr"] == 1e-3
    assert torch.equal(twin.state_dict()["state"][0]["exp_avg"], optimiser.state_dict()["state"][0]["exp_avg"])


def test_saving_again_replaces_and_leaves_nothing_else(tmp_path):
    save_checkpoint(tmp_path / "model.pt", payload(step=1))
    save_checkpoint(tmp_path / "model.pt", payload(step=2))
    assert load_checkpoint(tmp_path / "model.pt")["step"] == 2
    assert os.listdir(tmp_path) == ["model.pt"]


def test_tensors_come_to_the_wanted_device(tmp_path):
    save_checkpoint(tmp_path / "model.pt", payload())
    assert load_checkpoint(tmp_path / "model.pt", device="meta")["weights"].device.type == "meta"


@pytest.mark.parametrize("value", [np.float64(1.0), np.zeros(3), RunsCode("never")])
def test_what_could_not_be_loaded_is_not_saved(tmp_path, value):
    save_checkpoint(tmp_path / "model.pt", payload(step=1))
    with pytest.raises(TypeError, match="could not be loaded again"):
        save_checkpoint(tmp_path / "model.pt", {**payload(step=2), "value": value})
    assert load_checkpoint(tmp_path / "model.pt")["step"] == 1


def test_full_disk_keeps_the_previous_checkpoint(tmp_path):
    resource = pytest.importorskip("resource")
    save_checkpoint(tmp_path / "model.pt", payload(step=1))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, limits[1]))  # a write beyond this fails half-way
    try:
        with pytest.raises(UserError, match=r"could not write .*model.pt: File too large; the previous one"):
            save_checkpoint(tmp_path / "model.pt", payload(step=2, size=100_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert load_checkpoint(tmp_path / "model.pt")["step"] == 1
    assert os.listdir(tmp_path) == ["model.pt"]


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_failure_at_the_last_moment_keeps_the_previous_checkpoint(tmp_path, monkeypatch, call):
    def full(*args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    save_checkpoint(tmp_path / "model.pt", payload(step=1))
    monkeypatch.setattr(os, call, full)
    with pytest.raises(UserError, match="No space left on device; the previous one is kept"):
        save_checkpoint(tmp_path / "model.pt", payload(step=2))
    with pytest.raises(UserError, match=r"other.pt: No space left on device$"):  # nothing was there to keep
        save_checkpoint(tmp_path / "other.pt", payload())
    assert load_checkpoint(tmp_path / "model.pt")["step"] == 1
    assert os.listdir(tmp_path) == ["model.pt"]


def test_ctrl_c_while_saving_is_not_swallowed(tmp_path, monkeypatch):
    def interrupt(*args):
        raise KeyboardInterrupt

    save_checkpoint(tmp_path / "model.pt", payload(step=1))
    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(tmp_path / "model.pt", payload(step=2))
    assert load_checkpoint(tmp_path / "model.pt")["step"] == 1
    assert os.listdir(tmp_path) == ["model.pt"]


def test_a_folder_that_is_a_file_is_a_user_error(tmp_path):
    (tmp_path / "runs").write_text("")
    with pytest.raises(UserError, match="could not write"):
        save_checkpoint(tmp_path / "runs" / "model.pt", payload())


def test_missing_checkpoint_says_where_it_looked(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as error:
        load_checkpoint("model.pt")
    assert "model.pt" in str(error.value)
    assert str(tmp_path) in str(error.value)


@pytest.mark.parametrize("fraction", [0.0, 0.3, 0.99])
def test_truncated_checkpoint_is_refused(tmp_path, fraction):
    path = tmp_path / "model.pt"
    save_checkpoint(path, payload(size=1000))
    path.write_bytes(path.read_bytes()[: int(fraction * path.stat().st_size)])
    with pytest.raises(UserError, match="damaged"):
        load_checkpoint(path)


def test_one_flipped_bit_in_the_weights_is_noticed(tmp_path):
    """torch.load alone returns wrong weights here, without a word."""
    path = tmp_path / "model.pt"
    save_checkpoint(path, payload(size=1000))
    content = bytearray(path.read_bytes())
    content[content.index(torch.arange(1000).numpy().tobytes()) + 4000] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match="damaged"):
        load_checkpoint(path)


def test_another_kind_of_file_is_refused(tmp_path):
    (tmp_path / "model.pt").write_text("not a checkpoint")
    with pytest.raises(UserError, match="no checkpoint"):
        load_checkpoint(tmp_path / "model.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(UserError, match="not written by this repository"):
        load_checkpoint(tmp_path / "list.pt")


def test_a_pickle_that_would_run_code_is_refused_and_not_run(tmp_path):
    trap = tmp_path / "the code ran"
    torch.save({"format": 1, "paper": "paper2_dreamerv1", "agent": RunsCode(trap)}, tmp_path / "model.pt")
    with pytest.raises(UserError, match=r"could run code .*mkdir"):
        load_checkpoint(tmp_path / "model.pt", paper="paper2_dreamerv1")
    assert not trap.exists()
    torch.load(tmp_path / "model.pt", weights_only=False)  # the trap is a real one
    assert trap.exists()


def test_another_papers_checkpoint_is_refused(tmp_path):
    save_checkpoint(tmp_path / "model.pt", payload())
    with pytest.raises(UserError, match="checkpoint of paper2_dreamerv1, not of paper5_iris"):
        load_checkpoint(tmp_path / "model.pt", paper="paper5_iris")
    assert load_checkpoint(tmp_path / "model.pt", paper="paper2_dreamerv1")["step"] == 0


def test_find_takes_the_path_as_given_first(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for folder in (".", "runs/a"):
        save_checkpoint(tmp_path / folder / "model.pt", payload())
    assert find_checkpoint("model.pt", tmp_path / "runs").resolve() == tmp_path / "model.pt"
    assert find_checkpoint(tmp_path / "runs/a/model.pt", tmp_path / "runs") == tmp_path / "runs/a/model.pt"
    assert capsys.readouterr().out == ""


def test_find_takes_the_newest_run_that_has_one_and_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    runs = tmp_path / "runs"
    for run, time in (("b", 3), ("a", 2), ("c", 1)):
        save_checkpoint(runs / run / "model.pt", payload())
        os.utime(runs / run / "model.pt", (time, time))
    (runs / "z-no-checkpoint-yet").mkdir()
    assert find_checkpoint("model.pt", runs) == runs / "b" / "model.pt"
    assert str(runs / "b" / "model.pt") in capsys.readouterr().out
    os.utime(runs / "c" / "model.pt", (3, 3))  # equally old: the later name
    assert find_checkpoint("model.pt", runs) == runs / "c" / "model.pt"


@pytest.mark.parametrize("name", ["model.pt", "/nowhere/model.pt"])
def test_find_without_any_run_is_a_user_error(tmp_path, name):
    with pytest.raises(UserError, match=r"no checkpoint .*model.pt"):
        find_checkpoint(name, tmp_path / "runs")
