"""Levels that were trained on, and levels that never were: python generalize.py RUN RUN RUN --episodes 48

Returns, and how far the model sees ahead, on both. Every episode of a built-in environment is a new level.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro

from common.agent import Rows, load_agent
from common.compare import mean_and_interval
from common.env_wrapper import RowStream, family, make_vec_env
from common.errors import UserError, one_line_errors
from common.evaluate import Episodes, rollout
from common.plots import BLUE, GREY, ORANGE, predict, saved_figure
from common.run_folder import write_json
from common.runner import ENVIRONMENT
from common.seeding import seed_of
from paper4_dreamerv3.agent import DreamerV3Agent
from paper4_dreamerv3.config import PAPER, Config


@dataclass
class Options:
    """Compare trained agents on levels of their training with how they do on new ones."""

    runs: tyro.conf.Positional[list[Path]]
    """Run folders of one built-in environment, one for each seed."""
    episodes: int = 48
    """Of each run, of each kind; a multiple of the runs' --num-envs takes the least time."""
    context: int = 5
    """Real rows that a prediction sees before it goes on alone."""
    horizon: int = 15
    """Steps to predict."""
    seed: int = 3_000_000
    """Of the first new level; training never uses these."""
    figure: Path | None = None
    """Where to draw; the numbers go beside it, as .json. Without it: figures/generalization.png of the first run."""


@one_line_errors
def main(argv: list[str] | None = None) -> None:
    options = tyro.cli(Options, args=sys.argv[1:] if argv is None else argv)
    if min(options.episodes, options.context, options.horizon) < 1:
        raise UserError("--episodes, --context and --horizon must be positive")
    loaded = [load_agent(run / "model.pt", DreamerV3Agent, Config, paper=PAPER) for run in options.runs]
    env_id = loaded[0][1].env
    if {config.env for _, config in loaded} != {env_id}:
        raise UserError("the runs are on different environments")
    if family(env_id) != "tiny" or any(config.obs == "vector" for _, config in loaded):
        raise UserError(f"this needs images of a built-in environment; these runs are on {env_id}")
    measured = [measure(agent, config, options) for agent, config in loaded]
    result = {kind: summarise([each[kind] for each in measured]) for kind in ("seen", "unseen")}
    figure = draw(env_id, result, options.figure or options.runs[0] / "figures" / "generalization.png")
    write_json(figure.with_suffix(".json"), {"env": env_id, "episodes": options.episodes, **result})
    for kind, each in result.items():
        returns = ", ".join(f"{value:.2f}" for value in each["return"]["values"])
        error = each["error"]["mean"][-1]
        print(f"{kind:6} levels: return {each['return']['mean']:.2f} ({returns}), error {error:.4f}")
    print(f"error: mean squared, per pixel, after {options.horizon} steps; {figure}, {figure.with_suffix('.json')}")


def measure(agent: DreamerV3Agent, config: Config, options: Options) -> dict[str, dict]:
    """Return and open-loop error of one agent on both kinds of levels."""
    torch.manual_seed(options.seed)
    # Levels do not depend on what is done in them: these streams of random numbers give those of training again.
    seen = seed_of(config.seed, ENVIRONMENT, 0)
    kinds = {
        "seen": play(agent, config, seen, [None] * options.episodes),
        "unseen": play(agent, config, 0, [options.seed + i for i in range(options.episodes)]),
    }
    result, length = {}, options.context + options.horizon
    for kind, played in kinds.items():
        rows = [padded(rows, length) for rows in played.rows]
        predicted = predict(agent, {key: np.stack([each[key] for each in rows]) for key in rows[0]}, options.context)
        result[kind] = {"return": played.returns.mean(), "error": predicted.mse, "copy_error": predicted.copy_mse}
    return result


def play(agent: DreamerV3Agent, config: Config, first: int, seeds: list[int | None]) -> Episodes:
    """Episodes with these seeds; where they are None, those that environments seeded with `first` come to."""
    stream = RowStream(make_vec_env(config.env, config.num_envs, seed=first, **config.eval_options()))
    played = rollout(agent, stream, seeds, record=True)
    stream.envs.close()
    return played


def padded(rows: Rows, length: int) -> Rows:
    """So many rows of an episode; behind a shorter one its last row again, as if it began another, which is no error
    of the prediction."""
    missing = length - len(rows["reward"])
    rows = {key: np.concatenate([value[:length], *[value[-1:]] * max(missing, 0)]) for key, value in rows.items()}
    if missing > 0:
        rows["is_first"][-missing:] = True
    return rows


def summarise(seeds: list[dict]) -> dict:
    """Over the seeds: mean and interval of the returns, mean and standard deviation of the errors of every step."""
    steps = lambda name: np.array([each[name] for each in seeds])
    over = lambda values: {"mean": values.mean(0).tolist(), "std": values.std(0).tolist()}
    return {
        "return": mean_and_interval([each["return"] for each in seeds]),
        "error": over(steps("error")),
        "copy_error": over(steps("copy_error")),
    }


def draw(env_id: str, result: dict, path: Path) -> Path:
    """Returns at the left, errors by step at the right."""
    colours = {"seen": BLUE, "unseen": ORANGE}
    with saved_figure(path, 9.6, 4.2) as figure:
        left, right = figure.subplots(1, 2, width_ratios=(1, 2))
        for place, (kind, each) in enumerate(result.items()):
            values = each["return"]["values"]
            left.bar(place, each["return"]["mean"], 0.6, color=colours[kind], alpha=0.5)
            left.plot([place] * len(values), values, "o", color=colours[kind])
            mean, std = np.array(each["error"]["mean"]), np.array(each["error"]["std"])
            steps = np.arange(1, len(mean) + 1)
            right.plot(steps, mean, color=colours[kind], linewidth=2, label=f"{kind} levels")
            right.fill_between(steps, mean - std, mean + std, color=colours[kind], alpha=0.18, linewidth=0)
            style = "--" if kind == "seen" else ":"
            right.plot(steps, each["copy_error"]["mean"], style, color=GREY, label=f"last frame copied, {kind}")
        left.set_xticks([0, 1], list(result))
        left.set_ylabel("return (a dot for each seed)")
        left.set_title(env_id)
        right.set_xlabel("steps ahead, open loop")
        right.set_ylabel("mean squared error per pixel")
        right.set_ylim(bottom=0)
        figure.tight_layout(rect=(0, 0.08, 1, 1))
        figure.legend(loc="lower center", ncols=4)
    return path


if __name__ == "__main__":
    main()
