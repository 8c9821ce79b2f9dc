"""Rollouts of a random policy: the only data that V and M ever see (paper, section 3.2)."""

import time
from functools import lru_cache, partial

import gymnasium
import numpy as np
import torch
from tqdm import tqdm

from common.agent import Rows
from common.checkpoint import load_checkpoint, save_checkpoint
from common.env_wrapper import RowStream, make_vec_env, steps_as_batch
from common.evaluate import Actor, Episodes, RandomPolicy, rollout
from common.replay_buffer import MANIFEST
from common.seeding import seed_of
from solutions.paper1_world_models.agent import ActionCodec
from solutions.paper1_world_models.config import PAPER, Config
from solutions.paper1_world_models.controller import Controller
from solutions.paper1_world_models.run import COLLECT, Run

BATCH = 32  # rollouts of a built-in environment that are played as one batch


class BrownianPolicy:
    """Actions that wander: a += N(0, 1) sqrt(1/50) in native units, kept in the box (ctallec's port, misc.py).

    A discrete action is held for 1 to 10 steps instead (official doomrnn/extract.py).
    """

    def __init__(self, codec: ActionCodec, action_space: gymnasium.Space, seed: int):
        self.codec = codec
        self.fresh, self.rng = RandomPolicy(action_space, seed), np.random.default_rng((seed, 1))

    def initial_state(self, batch_size: int) -> dict:
        return {"action": np.zeros((batch_size, self.codec.row_size), np.float32), "hold": np.zeros(batch_size, int)}

    def act(self, obs: Rows, state: dict, *, explore: bool = True) -> tuple[np.ndarray, dict]:
        fresh, _ = self.fresh.act(obs, {})
        if self.codec.discrete:
            new = obs["is_first"] | (state["hold"] == 0)
            hold = np.where(new, self.rng.integers(1, 11, len(new)), state["hold"]) - 1
            return (action := np.where(new[:, None], fresh, state["action"])), {"action": action, "hold": hold}
        native = self.codec.to_native(torch.as_tensor(state["action"])).numpy()
        step = self.rng.standard_normal(native.shape).astype(np.float32) * np.sqrt(1 / 50, dtype=np.float32)
        moved = np.clip(self.codec.to_row(torch.as_tensor(native + step)).numpy(), -1, 1)
        action = np.where(obs["is_first"][:, None], fresh, moved)
        return action, {"action": action, "hold": state["hold"]}


class CauchyPolicy:
    """The official random policy: the real controller with Cauchy weights of scale s ~ U(0, 0.01), on noise for z.

    Official extract.py also has random V and M, whose weights it divides by 10,000: z is then N(0, 1) noise and h
    nearly 0. A controller is drawn for each episode.
    """

    def __init__(self, codec: ActionCodec, latent_size: int, seed: int):
        self.codec, self.latent_size, self.rng = codec, latent_size, np.random.default_rng(seed)
        self.controller = Controller(latent_size, 0, codec.outputs, inputs="z", kind=codec.kind)

    def initial_state(self, batch_size: int) -> dict:
        scale = self.rng.uniform(0, 0.01, (batch_size, 1))
        self.controller.set_params(scale * self.rng.standard_cauchy((batch_size, self.controller.num_params)))
        return {}

    def act(self, obs: Rows, state: dict, *, explore: bool = True) -> tuple[np.ndarray, dict]:
        z = torch.as_tensor(self.rng.standard_normal((len(obs["is_first"]), self.latent_size)), dtype=torch.float32)
        return self.codec.to_row(self.controller.act(z)).numpy(), state


def random_policy(config: Config, action_space: gymnasium.Space, seed: int) -> Actor:
    """The policy that `--policy` names."""
    codec = ActionCodec(config.env, action_space)
    if config.policy == "cauchy":
        return CauchyPolicy(codec, config.latent_size, seed)
    if config.policy == "brownian":
        return BrownianPolicy(codec, action_space, seed)
    return RandomPolicy(action_space, seed)


@lru_cache(maxsize=2)
def open_stream(env_id: str, num_envs: int, **options) -> RowStream:
    """The process's own environments, kept from job to job: building one takes longer than many steps."""
    return RowStream(make_vec_env(env_id, num_envs, **options))


def collect_episodes(config: Config, seeds: list[int]) -> Episodes:
    """Play one random rollout for each seed; a job for a worker process. The same seeds give the same rows."""
    stream = open_stream(config.env, len(seeds) if steps_as_batch(config.env) else 1, **config.env_options())
    policy = random_policy(config, stream.envs.single_action_space, seeds[0])
    return rollout(policy, stream, seeds, record=True)


def collect(run: Run) -> None:
    """Stage 1: random rollouts into the replay until `steps` environment frames are there."""
    config, replay, path = run.config, run.replay, run.path("collect")
    frames: list[int] = []  # of each rollout
    if path.exists() and (run.folder / "replay" / MANIFEST).exists():
        replay.restore()
        # It is saved before the replay is: what it knows of rollouts that did not get there is forgotten.
        frames = load_checkpoint(path, paper=PAPER)["frames"][: len(replay.episodes())]

    def save() -> None:
        save_checkpoint(path, {"paper": PAPER, "frames": frames})
        replay.save()
        run.saved = time.monotonic()

    per_job = BATCH if steps_as_batch(config.env) else 1
    with tqdm(total=config.steps, initial=sum(frames), unit=" frames", desc="collect") as bar:
        while sum(frames) < config.steps or len(frames) < 2:  # one at least is held out
            count = 8 * max(1, config.workers) * per_job
            seeds = [seed_of(config.seed, COLLECT, len(frames) + i) for i in range(count)]
            jobs = [seeds[i : i + per_job] for i in range(0, count, per_job)]
            for episodes in run.jobs(partial(collect_episodes, config), jobs):
                for rows, played in zip(episodes.rows, episodes.frames.tolist(), strict=True):
                    for t in range(len(rows["reward"])):
                        replay.add({key: value[t : t + 1] for key, value in rows.items()})
                    frames.append(played)
                    bar.update(played)
                if run.save_is_due:
                    save()
                run.stop.check()
                if sum(frames) >= config.steps:
                    break
    save()
    run.frames = sum(frames)
