"""Command lines: a dataclass of hyperparameters, named presets, and the options that every train.py has."""

import dataclasses
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, TypeVar

import torch
import tyro

from common.env_wrapper import resolve_id
from common.errors import UserError
from common.run_folder import config_from_dict, find_run, read_config, without


@dataclass
class BaseConfig:
    """What every paper's train.py accepts."""

    least: ClassVar[dict[str, int]] = {"seed": 0}  # the smallest value of an option that counts something; else 1

    may_change: ClassVar[tuple[str, ...]] = ("device", "steps")  # what --resume may set anew

    env: str
    """Environment id: CarRacing-v3, BipedalWalker-v3, atari_pong, dmc_walker_walk, crafter_reward, TinyRacer-v0, ..."""
    steps: int
    """Environment frames to play (action repeats counted)."""
    preset: str = "tiny"
    """Named set of hyperparameters; without it: tiny on a built-in environment, small elsewhere."""
    seed: int = 0
    device: str = "auto"
    """auto (cuda, else mps, else cpu), or a torch device."""
    logdir: Path | None = None
    """Run folder; without it a new one under runs/, named by time."""
    resume: str | None = None
    """Run folder to continue, or `latest`."""
    image_size: int = 64
    """Side of the square frames that the agent sees."""
    action_repeat: int | None = None
    """Frames that each action is held; without it what the environment's family is used with."""

    def env_options(self) -> dict:
        """What make_env and make_vec_env are told besides the id."""
        return {"image_size": self.image_size, "action_repeat": self.action_repeat}

    def eval_options(self) -> dict:
        """The same for the environments of an evaluation."""
        return self.env_options()


Config = TypeVar("Config", bound=BaseConfig)


def parse_config(presets: Mapping[str, Config], runs: Path, argv: list[str] | None = None) -> Config:
    """Read the command line on top of a preset, or, with --resume, on top of the earlier run's config.

    `--preset`, `--env` and `--resume` decide the defaults of all other options, so they are looked at first.
    Raises UserError for an unknown preset, environment or run and for numbers that make no sense.
    """
    argv = sys.argv[1:] if argv is None else argv
    env, resume = option(argv, "env"), option(argv, "resume")
    if resume:
        folder = find_run(resume, runs)
        default = config_from_dict(type(next(iter(presets.values()))), read_config(folder))
        default = dataclasses.replace(default, resume=str(folder))
        if env and resolve_id(env) != default.env:
            raise UserError(f"{folder} is a run on {default.env}, not on {env}")
        for name in ("preset", "logdir"):
            if option(argv, name):
                raise UserError(f"--{name} does not go with --resume: {folder} has its own")
        argv = without(argv, "resume")
    else:
        env = resolve_id(env) if env else None
        preset = choose_preset(presets, env, argv)
        default = dataclasses.replace(presets[preset], preset=preset, env=env or presets[preset].env)
    config = tyro.cli(type(default), default=default, args=without(argv, "env", "preset"))
    pick_device(config.device)  # a typo should end here, before there is a run folder
    for name, value in dataclasses.asdict(config).items():
        if resume and value != getattr(default, name) and name not in config.may_change:
            allowed = ", ".join(f"--{each.replace('_', '-')}" for each in config.may_change)
            raise UserError(f"a resumed run keeps its --{name.replace('_', '-')}; it may change {allowed}")
    for name, value in dataclasses.asdict(config).items():
        if type(value) is int and value < config.least.get(name, 1):
            raise UserError(f"--{name.replace('_', '-')} must be {config.least.get(name, 1)} or more, got {value}")
    return config


def choose_preset(presets: Mapping[str, Config], env: str | None, argv: list[str]) -> str:
    """The preset asked for; else tiny on a built-in environment (or where none is named), small elsewhere."""
    name = option(argv, "preset")
    if name is None:
        name = "tiny" if env is None or env.startswith("Tiny") else "small"
        print(f"preset: {name} (choose with --preset {' | '.join(presets)})")
    if name not in presets:
        raise UserError(f"unknown preset {name!r}; there are: {', '.join(presets)}")
    return name


def option(argv: list[str], name: str) -> str | None:
    """The value of `--name value` or `--name=value`, the last one given."""
    value = None
    for word, after in zip(argv, [*argv[1:], ""], strict=False):
        if word == f"--{name}":
            value = after
        elif word.startswith(f"--{name}="):
            value = word.split("=", 1)[1]
    if value == "":
        raise UserError(f"--{name} needs a value")
    return value


def pick_device(name: str) -> torch.device:
    """`auto` is cuda where there is one, else Apple's mps, else the processor."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"device {name!r} cannot be used: {str(error).splitlines()[0]}") from None
