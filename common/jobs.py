"""Work for several processes, and Ctrl-C that leaves nothing half done."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager

import torch


@contextmanager
def process_pool(workers: int) -> Iterator[Executor | None]:
    """So many processes of this machine; None, which means this process, where one is enough."""
    if workers <= 1:
        yield None
        return
    spawn = multiprocessing.get_context("spawn")  # torch's threads do not survive a fork
    with ProcessPoolExecutor(workers, spawn, initializer=_start_worker) as pool:
        try:
            yield pool
        finally:
            pool.shutdown(cancel_futures=True)


def _start_worker() -> None:
    torch.set_num_threads(1)  # the processes share the cores
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the main process's to handle
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A pool's process would wait for work for ever when the main one is killed."""
    multiprocessing.parent_process().join()
    os._exit(1)


def run_jobs(executor: Executor | None, job: Callable, *args: Iterable) -> Iterator:
    """Results in the order of the jobs, as they come in. Any `concurrent.futures` executor will do."""
    return map(job, *args) if executor is None else executor.map(job, *args)


class Stopped(Exception):
    """The user asked to stop, and a place was reached where that is safe."""


class StopButton:
    """Within `with`, Ctrl-C asks to stop where nothing is half done; pressed again, it stops at once."""

    def __init__(self):
        self.pressed = False

    def check(self) -> None:
        """Called at safe places: raises Stopped if the user asked to stop."""
        if self.pressed:
            raise Stopped

    def __enter__(self) -> "StopButton":
        self.previous = None
        if threading.current_thread() is threading.main_thread():  # no other may handle signals
            self.previous = signal.signal(signal.SIGINT, self._press)
        return self

    def _press(self, *_) -> None:
        if self.pressed:
            raise KeyboardInterrupt
        self.pressed = True
        print("\nstopping at the next safe place (Ctrl-C again: at once)")

    def __exit__(self, *_) -> None:
        if self.previous is not None:
            signal.signal(signal.SIGINT, self.previous)
