"""Time per update on random data: python -m solutions.benchmark paper2_dreamerv1 --preset small --set batch=16"""

import ast
import importlib
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
import tyro
from gymnasium import spaces
from jaxtyping import Int
from torch import Tensor

from common.config import pick_device
from common.env_wrapper import action_size, is_discrete, spaces_of
from common.errors import UserError, one_line_errors
from common.replay_buffer import ReplayBuffer
from common.run_folder import hardware
from solutions.paper5_iris.agent import IRISAgent
from solutions.paper5_iris.sample import imagine
from solutions.paper5_iris.transformer import Predicted, WorldModel


@dataclass
class Options:
    """Time an agent's update, world model and behaviour together; of IRIS each component's, and dreams."""

    paper: tyro.conf.Positional[str]
    """Folder name of the paper."""
    preset: str = "tiny"
    set: tuple[str, ...] = ()
    """Options of the config that are to be others than the preset's: batch=16 length=64 obs=vector deter=256 ..."""
    repeats: int = 10
    warmup: int = 2
    threads: int | None = None
    """Without it, as many as torch takes by itself."""
    device: str = "auto"


def random_rows(observation_space: spaces.Dict, action_space: spaces.Space, batch: int, length: int) -> dict:
    """Rows as a replay would give them, of noise; no episode ends in them."""
    rng = np.random.default_rng(0)
    rows = {
        "prev_action": rng.uniform(-1, 1, (batch, length, action_size(action_space))).astype(np.float32),
        "reward": rng.standard_normal((batch, length)).astype(np.float32),
        **{key: np.zeros((batch, length), bool) for key in ("is_first", "is_terminal", "is_last")},
    }
    if is_discrete(action_space):
        rows["prev_action"] = np.eye(action_space.n, dtype=np.float32)[rows["prev_action"].argmax(-1)]
    for key, space in observation_space.items():
        shape = (batch, length, *space.shape)
        is_image = space.dtype == np.uint8
        rows[key] = rng.integers(0, 256, shape, np.uint8) if is_image else rng.standard_normal(shape).astype(np.float32)
    return rows


def overridden(config, settings: tuple[str, ...]):
    """The config with settings such as "batch=16". Raises UserError for options that it does not have."""
    values = {}
    for setting in settings:
        name, _, value = setting.partition("=")
        if not hasattr(config, name) or not value:
            raise UserError(f"--set takes option=value, with an option of {type(config).__module__}, not {setting!r}")
        try:
            values[name] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            values[name] = value
    return replace(config, **values)


@one_line_errors
def main(argv: list[str] | None = None) -> None:
    options = tyro.cli(Options, args=argv)
    if options.threads:
        torch.set_num_threads(options.threads)
    agent_class = importlib.import_module(f"solutions.{options.paper}.eval").AGENT[0]
    presets = importlib.import_module(f"solutions.{options.paper}.config").PRESETS
    if options.preset not in presets or not hasattr(agent_class, "update"):
        raise UserError(f"{options.paper} has the presets {', '.join(presets)}; papers 2 to 5 can be timed")
    config = overridden(presets[options.preset], options.set)
    device = pick_device(options.device)
    env_spaces = spaces_of(config.env, **config.env_options())
    agent = agent_class(config, *env_spaces, device)
    machine = f"{torch.get_num_threads()} threads, {device}, {hardware()}"
    print(" ".join((options.paper, options.preset, *options.set)), machine, sep=", ")
    for what, work in (iris_work if isinstance(agent, IRISAgent) else dreamer_work)(agent, env_spaces).items():
        seconds = []
        for _ in range(options.warmup + options.repeats):
            start = time.perf_counter()
            work()
            if device.type == "cuda":
                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - start)
        seconds = np.array(seconds[options.warmup :])
        spread = f"median of {len(seconds)}, {seconds.min():.3f} to {seconds.max():.3f}"
        print(f"{what}: {np.median(seconds):.3f} s ({spread})")


def dreamer_work(agent, env_spaces: tuple) -> dict[str, Callable[[], object]]:
    """One update of everything."""
    config = agent.config
    stored = hasattr(agent, "to_stored")  # DreamerV3: windows have one row more, and all rows their latents
    rows = random_rows(*env_spaces, config.batch, config.length + stored)
    if stored:
        latents = agent.to_stored(agent.model.rssm.initial(rows["reward"].size))
        rows |= {key: value.reshape(*rows["reward"].shape, -1) for key, value in latents.items()}

    def update():
        agent.updates = getattr(config, "actor_delay", 0) + 1  # actor and critic learn, and nothing is diagnosed
        agent.update(rows)

    return {f"an update, {config.batch} x {config.length}": update}


def iris_work(agent: IRISAgent, env_spaces: tuple) -> dict[str, Callable[[], object]]:
    """One update of each component; and the dreams of an update, with the world model's cache and without."""
    config = agent.config
    replay = ReplayBuffer(10_000)
    rows = random_rows(*env_spaces, 8, 2 * config.frames)
    rows["is_first"][:, 0] = True
    for t in range(2 * config.frames):
        replay.add({key: value[:, t] for key, value in rows.items()})
    count = config.actor_critic_batch
    tokens = agent.tokens(rows["image"][:, 0]).repeat(count // 8 + 1, 1)[:count]
    start = agent.policy.initial(len(tokens)), tokens, config.horizon

    def dream(model):
        with torch.no_grad():
            imagine(model, agent.policy, *start)

    work = {f"an update of the {name}": partial(agent.update, name, replay) for name in agent.optimizers}
    dreams = f"{count} dreams of {config.horizon} steps"
    return work | {
        f"{dreams}, with the cache": partial(dream, agent.model),
        f"{dreams}, without": partial(dream, WithoutCache(agent.model)),
    }


class WithoutCache:
    """A world model that reads everything from the start for each new token."""

    @dataclass
    class Read:
        ids: Int[Tensor, "batch size"]

        @property
        def size(self) -> int:
            return self.ids.shape[1]

    def __init__(self, model: WorldModel):
        self.model, self.places, self.room = model, model.places, model.room

    def caches(self, batch: int) -> list:
        return [self.Read(torch.zeros(batch, 0, dtype=torch.long, device=self.model.position_table.weight.device))]

    def __call__(self, ids: Int[Tensor, "batch new"], caches: list) -> Predicted:
        caches[0].ids = torch.cat([caches[0].ids, ids], 1)
        return Predicted(*(logits[:, -1:] for logits in self.model(caches[0].ids)))


if __name__ == "__main__":
    main()
