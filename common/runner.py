"""Act, store, learn; log, evaluate, save: the loop in which the agents of papers 2 to 5 live."""

import shutil
import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from common.agent import Agent
from common.checkpoint import load_checkpoint, save_checkpoint
from common.config import BaseConfig, parse_config, pick_device
from common.env_wrapper import RowStream, make_vec_env, spaces_of, steps_as_batch
from common.errors import UserError, one_line_errors
from common.evaluate import RandomPolicy, rollout
from common.jobs import StopButton, Stopped
from common.metrics import Logger, check_finite, peak_gpu_memory_mib, peak_memory_mib
from common.replay_buffer import ReplayBuffer
from common.run_folder import config_to_dict, open_run
from common.seeding import seed_of, seeded

PLAY, ENVIRONMENT, EVALUATE = 100, 101, 102  # in a random key, beside those of the agents
SAVE_SECONDS = 300.0  # what a power cut may cost, and one line of the log beside it
SHOWN = ("episode_return", "eval_return")  # beside the progress bar


@dataclass
class RunnerConfig(BaseConfig):
    """What the loop needs to know."""

    may_change: ClassVar = (*BaseConfig.may_change, "threads", "eval_every", "eval_episodes", "log_every")

    obs: Literal["image", "vector", "both"] | None = None
    """What the agent observes; without it what the environment naturally has."""
    threads: int | None = None
    """CPU threads; without it torch's own choice. Some small networks are slower with two than with one."""
    num_envs: int = 1
    """Environments that are played side by side."""
    prefill: int = 5_000
    """Environment frames of random actions before training begins."""
    replay_capacity: int = 2_000_000
    """Rows; the oldest are dropped. All are in main memory, and in the run folder: 12 KB for each image of 64x64."""
    eval_every: int = 10_000
    """Environment frames between evaluations."""
    eval_episodes: int = 10
    """Episodes of an evaluation, the same ones each time; training never sees their seeds."""
    log_every: int = 1_000
    """Environment frames between lines of the log."""
    overfit_batch: bool = False
    """Debugging: train on one fixed batch, which the model should learn by heart."""

    def env_options(self) -> dict:
        return super().env_options() | {"obs": self.obs}


@one_line_errors
def main(
    agent_class: type[Agent], presets: Mapping[str, RunnerConfig], paper: str, runs: Path, argv: list[str] | None = None
) -> None:
    """The whole of a train.py."""
    config = parse_config(presets, runs, argv)
    if config.steps <= config.prefill:
        raise UserError(f"--steps {config.steps} trains nothing: the first {config.prefill} (--prefill) are random")
    if config.threads:
        torch.set_num_threads(config.threads)
    device = pick_device(config.device)
    agent = agent_class(config, *spaces_of(config.env, **config.env_options()), device)
    train(agent, config, open_run(config, runs), paper)


def train(agent: Agent, config: RunnerConfig, folder: Path, paper: str) -> None:
    """Play `config.steps` frames in all, going on from the folder's last checkpoint where it has one."""
    run = Run(agent, config, folder, paper)
    with run.stop, run.logger:
        try:
            run.play()
            print(f"trained agent: {folder / 'model.pt'}")
        except Stopped:
            run.log()
            run.save()
            print(f"stopped; go on with --resume {folder}")
        finally:
            run.close()


@dataclass
class Run:
    """A training in its run folder."""

    agent: Agent
    config: RunnerConfig
    folder: Path
    paper: str
    stop: StopButton = field(default_factory=StopButton)

    def __post_init__(self):
        config = self.config
        self.replay = ReplayBuffer(config.replay_capacity, directory=self.folder / "replay")
        self.checkpoint = self.folder / "checkpoints" / "latest.pt"
        saved = {"frames": 0, "agent_steps": 0, "ticks": 0, "evaluated_at": 0}
        if self.checkpoint.exists():
            saved |= load_checkpoint(self.checkpoint, paper=self.paper)  # on the CPU, where Adam's counters belong
            self.agent.load_state_dict(saved["agent"])
            self.replay.restore()
        else:  # a run that was killed within its first save begins anew
            shutil.rmtree(self.replay.directory, ignore_errors=True)
        self.ticks = saved["ticks"]  # steps of the loop
        self.logger = Logger(self.folder, resume_step=saved["agent_steps"])
        envs = make_vec_env(
            config.env, config.num_envs, seed=seed_of(config.seed, ENVIRONMENT, self.ticks), **config.env_options()
        )
        self.stream = RowStream(envs)
        self.stream.frames, self.stream.agent_steps = saved["frames"], saved["agent_steps"]
        side_by_side = config.eval_episodes if steps_as_batch(config.env) else 1
        self.eval_stream = RowStream(make_vec_env(config.env, side_by_side, **config.eval_options()))
        networks = self.agent.weights().values()
        self.parameters = sum(weight.numel() for network in networks for weight in network.values())
        self.pending: dict[str, list] = defaultdict(list)  # since the last line of the log
        self.evaluated_at = saved["evaluated_at"]  # agent steps
        self.shown: dict[str, str] = {}
        self.saved_at = self.logged_at = time.monotonic()
        self.logged_steps = self.stream.agent_steps

    def play(self) -> None:
        """The loop. What one of its turns draws depends on the seed and the turn alone."""
        config, agent, stream = self.config, self.agent, self.stream
        random = RandomPolicy(stream.envs.single_action_space, config.seed)
        state = agent.initial_state(config.num_envs)
        returns, lengths = np.zeros(config.num_envs), np.zeros(config.num_envs, int)
        rows = stream.reset()
        self.replay.add(rows)
        with tqdm(total=config.steps, initial=stream.frames, unit=" frames", desc=config.env) as bar:
            while stream.frames < config.steps:
                self.ticks += 1
                before = stream.frames
                random.rng = seeded(config.seed, PLAY, self.ticks)  # torch's generator, too
                if before < config.prefill:
                    action, _ = random.act(rows, {})
                else:
                    action, state = agent.act(rows, state, explore=True)
                rows = stream.step(action)
                self.replay.add(rows)

                returns = np.where(rows["is_first"], 0, returns + rows["reward"])
                lengths = np.where(rows["is_first"], 0, lengths + 1)
                self.note("policy/episode_return", *returns[rows["is_last"]])
                self.note("policy/episode_length", *lengths[rows["is_last"]])

                if stream.frames >= config.prefill:
                    self.learn()
                if self.passed(config.eval_every, before) and stream.frames >= config.prefill:
                    self.evaluate()
                if self.passed(config.log_every, before):
                    bar.set_postfix(self.log())
                    if time.monotonic() - self.saved_at > SAVE_SECONDS:
                        self.save()
                bar.update(stream.frames - before)
                self.stop.check()
        if self.evaluated_at != stream.agent_steps:  # equal where a finished run is resumed
            self.learn()  # what a resumed run still owes
            self.evaluate()  # of the agent that is kept
        self.log()
        self.save()

    def learn(self) -> None:
        """Train what is due, piece by piece: a stop or a power cut may come between."""
        while metrics := self.agent.learn(self.replay, self.stream.frames):
            for name, value in metrics.items():
                self.note(name, value)
            self.stop.check()
            if time.monotonic() - self.saved_at > SAVE_SECONDS:
                self.means()  # a loss of nan is not saved
                self.save()

    def passed(self, every: int, before: int) -> bool:
        """Whether a multiple of `every` frames was reached in this turn."""
        return self.stream.frames // every > before // every

    def note(self, name: str, *values: float | Tensor) -> None:
        """Keep values for the next line of the log, which has their mean. Nothing waits for a GPU here."""
        self.pending[name].extend(values)

    def evaluate(self) -> None:
        """Play the same episodes each time, without exploration; what is drawn here changes nothing in training."""
        config, start = self.config, time.monotonic()
        torch.manual_seed(seed_of(config.seed, EVALUATE))
        seeds = [seed_of(config.seed, EVALUATE, i) for i in range(config.eval_episodes)]
        played = rollout(self.agent, self.eval_stream, seeds, watch=self.stop.check)
        self.note("policy/eval_return", played.returns.mean())
        if len(seeds) > 1:
            self.note("policy/eval_return_std", played.returns.std(ddof=1))
        self.evaluated_at = self.stream.agent_steps
        self.logged_at += time.monotonic() - start  # the time per step is that of acting and learning
        self.log()
        self.save_model()

    def means(self) -> dict[str, float]:
        """Of what was noted since the last line of the log. UserError for a loss of nan or inf."""
        means = {name: float(np.mean([float(x) for x in values])) for name, values in self.pending.items() if values}
        check_finite(means, f"frame {self.stream.frames}")
        return means

    def log(self) -> dict[str, str]:
        """Write the means of what was noted; returns what a progress bar shows. UserError for a loss of nan or inf."""
        if not any(self.pending.values()):
            return self.shown
        means = self.means()
        self.pending.clear()
        now, steps = time.monotonic(), self.stream.agent_steps
        if steps > self.logged_steps:
            means["efficiency/seconds_per_step"] = (now - self.logged_at) / (steps - self.logged_steps)
        means["efficiency/parameters"] = self.parameters
        means["efficiency/memory_mib"] = peak_memory_mib()
        means["efficiency/gpu_memory_mib"] = peak_gpu_memory_mib()
        self.logged_at, self.logged_steps = now, steps
        self.logger.log(means, step=steps, frames=self.stream.frames)
        self.shown |= {name: f"{means[f'policy/{name}']:.2f}" for name in SHOWN if f"policy/{name}" in means}
        return self.shown

    def save(self) -> None:
        """Replay, agent and counters, each file in one stroke.

        Killed between the replay and the rest, the next run finds a few rows more than it remembers to have played.
        """
        self.replay.save()
        counters = {
            "frames": self.stream.frames,
            "agent_steps": self.stream.agent_steps,
            "ticks": self.ticks,
            "evaluated_at": self.evaluated_at,
        }
        save_checkpoint(self.checkpoint, self.payload() | {"agent": self.agent.state_dict()} | counters)
        self.save_model()
        self.saved_at = time.monotonic()

    def save_model(self) -> None:
        """model.pt: the weights alone, for eval.py and visualize.py."""
        save_checkpoint(self.folder / "model.pt", self.payload() | {"agent": self.agent.weights()})

    def payload(self) -> dict:
        return {"paper": self.paper, "config": config_to_dict(self.config)}

    def close(self) -> None:
        self.stream.envs.close()
        self.eval_stream.envs.close()
