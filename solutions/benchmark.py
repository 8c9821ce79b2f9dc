"""Time per update on random data: python -m solutions.benchmark paper2_dreamerv1 --preset small"""

import importlib
import time
from dataclasses import dataclass, replace

import numpy as np
import torch
import tyro
from gymnasium import spaces

from common.config import pick_device
from common.env_wrapper import action_size, is_discrete, spaces_of
from common.errors import UserError, one_line_errors
from common.run_folder import hardware


@dataclass
class Options:
    """Time an agent's update, world model and behaviour together."""

    paper: tyro.conf.Positional[str]
    """Folder name of the paper."""
    preset: str = "tiny"
    batch: int | None = None
    """Sequences of a batch; without it the preset's."""
    length: int | None = None
    """Rows of a sequence; without it the preset's."""
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


@one_line_errors
def main(argv: list[str] | None = None) -> None:
    options = tyro.cli(Options, args=argv)
    if options.threads:
        torch.set_num_threads(options.threads)
    agent_class = importlib.import_module(f"solutions.{options.paper}.eval").AGENT[0]
    presets = importlib.import_module(f"solutions.{options.paper}.config").PRESETS
    if options.preset not in presets or not hasattr(agent_class, "update"):
        raise UserError(f"{options.paper} has the presets {', '.join(presets)}; papers 2 to 5 can be timed")
    config = presets[options.preset]
    config = replace(config, batch=options.batch or config.batch, length=options.length or config.length)
    device = pick_device(options.device)
    agent = agent_class(config, *spaces_of(config.env, **config.env_options()), device)
    rows = random_rows(*spaces_of(config.env, **config.env_options()), config.batch, config.length)

    seconds = []
    for _ in range(options.warmup + options.repeats):
        agent.updates = getattr(config, "actor_delay", 0) + 1  # actor and critic learn, and nothing is diagnosed
        start = time.perf_counter()
        agent.update(rows)
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    seconds = np.array(seconds[options.warmup :])
    print(
        f"{options.paper} {options.preset}, {config.batch} x {config.length}: "
        f"{np.median(seconds):.3f} s an update (median of {len(seconds)}, {seconds.min():.3f} to {seconds.max():.3f}), "
        f"{torch.get_num_threads()} threads, {device}, {hardware()}"
    )


if __name__ == "__main__":
    main()
