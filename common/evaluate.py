"""Play episodes, and say how well an agent does: mean, spread and number, beside a random policy."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

import gymnasium
import numpy as np
import torch
import tyro
from jaxtyping import Float, Int

from common.agent import Agent, Rows, load_agent
from common.checkpoint import find_checkpoint
from common.config import BaseConfig, pick_device
from common.env_wrapper import RowStream, action_size, is_discrete, make_vec_env, steps_as_batch
from common.errors import UserError, one_line_errors
from common.run_folder import write_json
from common.tiny_envs import SCORES
from common.video import write_video


@runtime_checkable
class Actor(Protocol):
    """The part of an Agent that plays."""

    def initial_state(self, batch_size: int) -> dict: ...

    def act(self, obs: Rows, state: dict, *, explore: bool) -> tuple[np.ndarray, dict]: ...


class RandomPolicy:
    """A fresh, uniformly random action at every step."""

    def __init__(self, action_space: gymnasium.Space, seed: int):
        self.discrete, self.size = is_discrete(action_space), action_size(action_space)
        self.rng = np.random.default_rng(seed)

    def initial_state(self, batch_size: int) -> dict:
        return {}

    def act(self, obs: Rows, state: dict, *, explore: bool = True) -> tuple[np.ndarray, dict]:
        n = len(obs["is_first"])
        if self.discrete:
            return np.eye(self.size, dtype=np.float32)[self.rng.integers(self.size, size=n)], {}
        return self.rng.uniform(-1, 1, (n, self.size)).astype(np.float32), {}


class Episodes(NamedTuple):
    """What `rollout` played, in the order of its seeds."""

    returns: Float[np.ndarray, " episodes"]
    lengths: Int[np.ndarray, " episodes"]  # agent steps
    frames: Int[np.ndarray, " episodes"]  # environment frames, action repeats counted
    rows: list[Rows] | None  # each (length + 1, ...), where they were asked for


def rollout(
    actor: Actor,
    stream: RowStream,
    seeds: list[int],
    *,
    max_steps: int | None = None,
    patience: int = 0,
    explore: bool = False,
    record: bool = False,
    watch: Callable[[], None] = lambda: None,
) -> Episodes:
    """Play one episode for each seed, as many side by side as `stream` has environments.

    An episode ends where the environment ends it, terminated or truncated, or after `max_steps` agent steps, or after
    `patience` agent steps in a row without positive reward; the last two are truncations (is_last without is_terminal).
    `watch` is called after every step, while the environments show where it led.
    """
    limits = {"max_steps": max_steps, "patience": patience, "explore": explore, "record": record, "watch": watch}
    n = stream.envs.num_envs
    waves = [_wave(actor, stream, seeds[i : i + n], **limits) for i in range(0, len(seeds), n)]
    return Episodes(
        *(np.concatenate(parts) for parts in list(zip(*waves, strict=True))[:3]),
        rows=[rows for wave in waves for rows in wave.rows] if record else None,
    )


def _wave(actor, stream, seeds, max_steps, patience, explore, record, watch) -> Episodes:
    """One episode in each environment; those beyond `len(seeds)` play along and are not counted."""
    n, wanted = stream.envs.num_envs, len(seeds)
    rows = stream.reset([*seeds, *range(n - wanted)])
    state = actor.initial_state(n)
    playing, idle = np.arange(n) < wanted, np.zeros(n, int)
    returns, lengths, frames = np.zeros(n), np.zeros(n, int), np.zeros(n, int)
    history = [rows]
    watch()
    while playing.any():
        action, state = actor.act(rows, state, explore=explore)
        rows = stream.step(action)
        watch()
        returns += np.where(playing, rows["reward"], 0)
        frames += np.where(playing, stream.step_frames, 0)
        lengths += playing
        idle = np.where(rows["reward"] > 0, 0, idle + 1)
        cut = (lengths == max_steps) | ((idle == patience) & (patience > 0))
        rows = {**rows, "is_last": rows["is_last"] | (cut & playing)}
        if record:
            history.append(rows)
        playing &= ~rows["is_last"]
    recorded = [
        {key: np.stack([past[key][i] for past in history[: lengths[i] + 1]]) for key in rows}
        for i in range(wanted if record else 0)
    ]
    return Episodes(returns[:wanted], lengths[:wanted], frames[:wanted], recorded)


def summarise(returns: Float[np.ndarray, " episodes"]) -> dict[str, float]:
    """Mean, standard deviation (of the episodes, n - 1), standard error of the mean, and n."""
    n = len(returns)
    std = float(np.std(returns, ddof=1)) if n > 1 else None  # one episode says nothing of the spread
    return {"mean": float(np.mean(returns)), "std": std, "sem": None if std is None else std / n**0.5, "n": n}


def line(name: str, score: dict[str, float]) -> str:
    """A summary as eval.py prints it."""
    spread = "" if score["std"] is None else f" +- {score['std']:.2f}"
    return f"{name:<8} {score['mean']:9.2f}{spread} (standard deviation, n = {score['n']})"


def evaluate(
    actor: Actor, env_id: str, episodes: int, *, seed: int, **env_options
) -> tuple[Episodes, dict[str, float]]:
    """Play `episodes` episodes with seeds seed, seed + 1, ...; returns them and the summary of their returns."""
    stream = open_episodes(env_id, episodes, **env_options)
    played = rollout(actor, stream, [seed + i for i in range(episodes)])
    stream.envs.close()
    return played, summarise(played.returns)


def open_episodes(env_id: str, episodes: int, **env_options) -> RowStream:
    """Environments to play so many episodes: one batch of a built-in one, else a process for each core."""
    if steps_as_batch(env_id):
        return RowStream(make_vec_env(env_id, episodes, **env_options))
    n = min(episodes, os.cpu_count() or 1)
    return RowStream(make_vec_env(env_id, n, parallel=n > 1, **env_options))


@dataclass
class EvalOptions:
    """Play episodes with a trained agent."""

    checkpoint: str = "model.pt"
    """Looked for here, then in this paper's newest run."""
    episodes: int = 10
    render: bool = False
    """Write a video of the first three episodes."""
    seed: int = 1_000_000
    """Seed of the first episode; training never uses these."""
    device: str = "auto"


@one_line_errors
def main(agent_class: type[Agent], config_class: type[BaseConfig], paper: str, runs: Path, argv=None) -> None:
    """The whole of every eval.py."""
    options = tyro.cli(EvalOptions, args=argv)
    if options.episodes < 1:
        raise UserError(f"--episodes must be positive, got {options.episodes}")
    path = find_checkpoint(options.checkpoint, runs)
    agent, config = load_agent(path, agent_class, config_class, paper=paper, device=pick_device(options.device))
    torch.manual_seed(options.seed)
    env_options = config.eval_options()
    played, score = evaluate(agent, config.env, options.episodes, seed=options.seed, **env_options)
    stream = open_episodes(config.env, 1, **env_options)
    random = RandomPolicy(stream.envs.single_action_space, options.seed)
    _, random_score = evaluate(random, config.env, options.episodes, seed=options.seed, **env_options)
    print(f"{config.env}, return of an episode:")
    print(line("agent", score), f"in {played.lengths.mean():.0f} agent steps, {played.frames.mean():.0f} frames")
    print(line("random", random_score))
    result = {"env": config.env, "checkpoint": str(path), "seed": options.seed, "agent": score, "random": random_score}
    if config.env in SCORES:
        known = SCORES[config.env]
        result["score"] = (score["mean"] - known.random) / (known.optimal - known.random)
        print(
            f"score    {result['score']:9.2f} (0 is random, {known.random:.2f}; 1 is near-optimal, {known.optimal:.2f})"
        )
    result["returns"] = played.returns.tolist()
    write_json(path.parent / "eval.json", result)
    print(f"written: {path.parent / 'eval.json'}")
    if options.render:
        for i in range(min(3, options.episodes)):
            frames: list[np.ndarray] = []
            shown = rollout(
                agent, stream, [options.seed + i], watch=lambda frames=frames: frames.append(stream.envs.render()[0])
            )
            video = path.parent / "videos" / f"episode_{i}.mp4"
            write_video(video, np.stack(frames), fps=20)
            print(f"video:   {video} (return {shown.returns[0]:.1f})")
    stream.envs.close()
