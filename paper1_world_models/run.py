"""What the four stages share: the agent that grows, its rollouts, and where all is written."""

import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from common.checkpoint import load_checkpoint, save_checkpoint
from common.env_wrapper import spaces_of, steps_as_batch
from common.jobs import StopButton, run_jobs
from common.metrics import Logger
from common.replay_buffer import ReplayBuffer
from common.run_folder import config_to_dict
from paper1_world_models.agent import WorldModelsAgent
from paper1_world_models.config import PAPER, Config

HELD_OUT = 0.1  # share of the rollouts, the last ones, that V and M never train on
SAVE_SECONDS = 60.0
LOG_EVERY = 50  # updates
COLLECT, VISION, MEMORY, CONTROL, EVALUATE = range(5)  # in a random key, so that no two stages draw the same numbers


@dataclass
class Run:
    """A training in its run folder."""

    config: Config
    folder: Path
    device: torch.device
    executor: Executor | None = None
    stop: StopButton = field(default_factory=StopButton)
    agent: WorldModelsAgent = field(init=False)
    replay: ReplayBuffer = field(init=False)
    logger: Logger = field(init=False)
    frames: int = 0  # environment frames played so far
    updates: int = 0  # updates of the finished stages: the log's count goes on behind them

    def __post_init__(self):
        self.agent = WorldModelsAgent(
            self.config, *spaces_of(self.config.env, **self.config.env_options()), self.device
        )
        self.replay = ReplayBuffer(2**62, directory=self.folder / "replay")
        # What was logged after the last checkpoint will be logged again.
        saved = [load_checkpoint(path, paper=PAPER) for path in self.folder.glob("checkpoints/*.pt")]
        self.logger = Logger(self.folder, resume_step=max((payload.get("step", 0) for payload in saved), default=0))
        self.saved = time.monotonic()

    def path(self, stage: str) -> Path:
        return self.folder / "checkpoints" / f"{stage}.pt"

    def restore(self, stage: str) -> dict:
        """What the stage saved last, with the agent set to what it was then; {} if the stage has not begun."""
        if not self.path(stage).exists():
            return {}
        saved = load_checkpoint(self.path(stage), paper=PAPER, device=self.device)
        self.agent.load_state_dict(saved["agent"])
        return saved

    def save(self, stage: str, **progress) -> None:
        save_checkpoint(self.path(stage), self.payload() | {"agent": self.agent.state_dict()} | progress)
        self.saved = time.monotonic()

    def save_model(self) -> None:
        """model.pt: the weights alone, for eval.py and visualize.py."""
        save_checkpoint(self.folder / "model.pt", self.payload() | {"agent": self.agent.weights()})

    def payload(self) -> dict:
        return {"paper": PAPER, "config": config_to_dict(self.config)}

    @property
    def save_is_due(self) -> bool:
        return self.stop.pressed or time.monotonic() - self.saved > SAVE_SECONDS

    def log(self, metrics: dict[str, float], update: int) -> None:
        self.logger.log(metrics, step=self.updates + update, frames=self.frames)

    def split(self) -> tuple[np.ndarray, np.ndarray]:
        """The rollouts to train on and those held out, as `replay.episodes()` lists them."""
        episodes = self.replay.episodes()
        held_out = max(1, round(HELD_OUT * len(episodes)))
        return episodes[:-held_out], episodes[-held_out:]

    def jobs(self, job: Callable, *args: Iterable) -> Iterator:
        """Results of jobs in their order; a built-in environment is so fast that this process plays it all."""
        return run_jobs(None if steps_as_batch(self.config.env) else self.executor, job, *args)

    def count(self, name: str, done: int, total: int, unit: str = "updates") -> Iterator[tuple[int, tqdm]]:
        """Count from `done` to `total` with a progress bar; each turn ends at a place where it is safe to stop."""
        with tqdm(total=total, initial=done, unit=f" {unit}", desc=name) as bar:
            for update in range(done, total):
                yield update, bar
                bar.update()
                self.stop.check()
