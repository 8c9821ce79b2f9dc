"""Several processes, and Ctrl-C."""

import os
import signal
import threading
import time
from pathlib import Path

import pytest
import torch

from common.jobs import StopButton, Stopped, process_pool, run_jobs


@pytest.fixture(autouse=True)
def ctrl_c_is_heard():
    """A shell that starts a command in the background has it ignore Ctrl-C; Python leaves that as it is."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def press() -> None:
    """Ctrl-C, as the terminal sends it; Python handles it before the next line."""
    os.kill(os.getpid(), signal.SIGINT)


# ---- StopButton ----


def test_the_first_press_waits_for_a_safe_place_and_the_second_does_not(capsys):
    before = signal.getsignal(signal.SIGINT)
    with StopButton() as stop:
        stop.check()  # nobody has pressed
        assert not stop.pressed
        press()
        assert stop.pressed
        assert "stopping at the next safe place" in capsys.readouterr().out
        for _ in range(2):  # it stays pressed
            with pytest.raises(Stopped):
                stop.check()
        with pytest.raises(KeyboardInterrupt):
            press()
    assert signal.getsignal(signal.SIGINT) is before


def test_ctrl_c_means_what_it_meant_when_the_block_is_left():
    before = signal.getsignal(signal.SIGINT)

    def work():
        with StopButton() as stop:
            press()
            stop.check()

    with pytest.raises(Stopped):
        work()
    assert signal.getsignal(signal.SIGINT) is before
    with pytest.raises(KeyboardInterrupt):
        press()


def test_another_thread_leaves_ctrl_c_alone():
    before, seen = signal.getsignal(signal.SIGINT), []

    def work():
        with StopButton() as stop:
            seen.append(signal.getsignal(signal.SIGINT))
            stop.check()

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before]


# ---- process_pool ----


@pytest.mark.parametrize("workers", [0, 1])
def test_one_worker_is_this_process_and_takes_one_job_at_a_time(workers):
    done = []
    with process_pool(workers) as pool:
        assert pool is None
        results = run_jobs(pool, lambda x, y: done.append(x) or x * y, [1, 2, 3], [4, 5, 6])
        assert next(results) == 4
        assert done == [1]  # between two jobs there is room to save and to stop
        assert list(results) == [10, 18]


def slow_first(i: int) -> tuple[int, int]:
    time.sleep(0.3 if i == 0 else 0)
    return i, os.getpid()


def about_the_worker(_: int) -> tuple[int, str]:
    press()  # Ctrl-C in a terminal reaches every process
    return torch.get_num_threads(), torch.multiprocessing.get_start_method(allow_none=True)


def leave_a_mark(folder: Path, i: int) -> None:
    if i == 0:
        raise ValueError("job 0 failed")
    time.sleep(0.1)
    (folder / str(i)).touch()


@pytest.mark.slow
def test_two_workers_give_the_results_in_the_order_of_the_jobs():
    with process_pool(2) as pool:
        results = list(run_jobs(pool, slow_first, range(6)))
        assert list(run_jobs(pool, about_the_worker, range(2))) == [(1, "spawn")] * 2
    assert [i for i, _ in results] == list(range(6))
    assert [i for i, _ in run_jobs(None, slow_first, range(6))] == list(range(6))
    assert len({pid for _, pid in results}) == 2
    assert os.getpid() not in {pid for _, pid in results}


@pytest.mark.slow
def test_an_error_reaches_the_caller_and_the_waiting_jobs_are_dropped(tmp_path):
    with pytest.raises(ValueError, match="job 0 failed"), process_pool(2) as pool:
        list(run_jobs(pool, leave_a_mark, [tmp_path] * 100, range(100)))
    assert len(list(tmp_path.iterdir())) < 90  # 100 jobs would take 5 s; those that had begun may end
    with pytest.raises(RuntimeError):
        pool.submit(slow_first, 0)  # it is shut down
