"""Levels that were trained on, and levels that never were: python generalize.py RUN RUN RUN --episodes 48

Returns, and how far the model sees ahead, on both. Every episode of a built-in environment is a new level.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

import gymnasium
import numpy as np
import torch
import tyro

from common.agent import Rows, load_agent
from common.compare import mean_and_interval
from common.env_wrapper import RowStream, family, make_vec_env
from common.errors import UserError, one_line_errors
from common.metrics import read_metrics
from common.plots import BLUE, GREY, ORANGE, predict, saved_figure
from common.run_folder import read_sessions, write_json
from common.runner import ENVIRONMENT
from common.seeding import seed_of
from solutions.paper4_dreamerv3.agent import DreamerV3Agent
from solutions.paper4_dreamerv3.config import PAPER, Config


@dataclass
class Options:
    """Compare trained agents on levels of their training with how they do on new ones."""

    runs: tyro.conf.Positional[list[Path]]
    """Run folders of one built-in environment, one for each seed."""
    episodes: int = 48
    """Of each run, of each kind; rounded up to a multiple of the runs' --num-envs."""
    context: int = 5
    """Real rows that a prediction sees before it goes on alone."""
    horizon: int = 15
    """Steps to predict; as many of them are shown as half of the episodes last."""
    seed: int = 3_000_000
    """Of the first new level; training never uses these."""
    figure: Path | None = None
    """Where to draw; the numbers go beside it, as .json. Without it: figures/generalization.png of the first run."""


@one_line_errors
def main(argv: list[str] | None = None) -> None:
    options = tyro.cli(Options, args=sys.argv[1:] if argv is None else argv)
    if not options.runs:
        raise UserError("name one run folder at least")
    if min(options.episodes, options.context, options.horizon) < 1:
        raise UserError("--episodes, --context and --horizon must be positive")
    loaded = [load_agent(run / "model.pt", DreamerV3Agent, Config, paper=PAPER) for run in options.runs]
    env_id = loaded[0][1].env
    if {config.env for _, config in loaded} != {env_id}:
        raise UserError("the runs are on different environments")
    if family(env_id) != "tiny" or any(config.obs == "vector" for _, config in loaded):
        raise UserError(f"this needs images of a built-in environment; these runs are on {env_id}")
    for run, (_, config) in zip(options.runs, loaded, strict=True):
        check_levels(run, config, options.episodes)
    result = summarise([measure(agent, config, options) for agent, config in loaded])
    figure = draw(env_id, result, options.figure or options.runs[0] / "figures" / "generalization.png")
    write_json(figure.with_suffix(".json"), {"env": env_id, "episodes": options.episodes, **result})
    for kind, each in result.items():
        returns = ", ".join(f"{value:.2f}" for value in each["return"]["values"])
        error = each["error"]["mean"][-1]
        print(f"{kind:6} levels: return {each['return']['mean']:.2f} ({returns}), error {error:.4f}")
    steps = len(each["error"]["mean"])
    print(f"error: mean squared, per pixel, after {steps} steps; {figure}, {figure.with_suffix('.json')}")


def check_levels(run: Path, config: Config, episodes: int) -> None:
    """Raise UserError where a run may not have come to so many levels, or was resumed: it drew others from there on."""
    if len(read_sessions(run)) > 1:
        raise UserError(f"{run} was broken off and resumed: which levels it saw cannot be told")
    steps = read_metrics(run / "metrics.jsonl")[-1]["step"]
    surely = steps // config.num_envs // gymnasium.make(config.env).unwrapped.max_episode_steps
    if episodes > surely * config.num_envs:
        raise UserError(f"{run} is sure to have seen {surely * config.num_envs} levels only: --episodes is too large")


def measure(agent: DreamerV3Agent, config: Config, options: Options) -> dict[str, dict]:
    """Return and open-loop error of one agent on both kinds of levels; `share`: of the episodes that last so long."""
    torch.manual_seed(options.seed)
    # Levels do not depend on what is done in them: environments seeded as in training come to the same ones again.
    seeds = {"seen": seed_of(config.seed, ENVIRONMENT, 0), "unseen": options.seed}
    result, length = {}, options.context + options.horizon
    for kind, seed in seeds.items():
        episodes = play(agent, config, seed, options.episodes)
        rows = [padded(rows, length) for rows in episodes]
        predicted = predict(agent, {key: np.stack([each[key] for each in rows]) for key in rows[0]}, options.context)
        result[kind] = {
            "return": np.mean([rows["reward"].sum() for rows in episodes]),
            "error": predicted.mse,
            "copy_error": predicted.copy_mse,
            "share": predicted.same_episode.mean(0),
        }
    return result


def play(agent: DreamerV3Agent, config: Config, seed: int, count: int) -> list[Rows]:
    """So many episodes: as many in each environment, the first ones that environments with this seed come to."""
    stream = RowStream(make_vec_env(config.env, config.num_envs, seed=seed, **config.eval_options()))
    each = -(-count // config.num_envs)
    rows, state = stream.reset(), agent.initial_state(config.num_envs)
    history, ended = [rows], np.zeros(config.num_envs, int)
    while ended.min() < each:
        action, state = agent.act(rows, state, explore=False)
        rows = stream.step(action)
        history.append(rows)
        ended += rows["is_last"]
    stream.envs.close()
    played = {key: np.stack([row[key] for row in history], 1) for key in rows}
    episodes = []
    for i in range(config.num_envs):
        firsts, lasts = (np.flatnonzero(played[key][i])[:each] for key in ("is_first", "is_last"))
        spans = zip(firsts, lasts, strict=True)
        episodes += [{key: value[i, first : last + 1] for key, value in played.items()} for first, last in spans]
    return episodes


def padded(rows: Rows, length: int) -> Rows:
    """So many rows of an episode; behind a shorter one its last row again, as if it began another, which is no error
    of the prediction."""
    missing = length - len(rows["reward"])
    rows = {key: np.concatenate([value[:length], *[value[-1:]] * max(missing, 0)]) for key, value in rows.items()}
    if missing > 0:
        rows["is_first"][-missing:] = True
    return rows


def summarise(seeds: list[dict[str, dict]]) -> dict[str, dict]:
    """Of both kinds of levels, over the seeds: mean and interval of the returns, mean and standard deviation of every
    step's errors, as far as half of the episodes last. Raises UserError where that is not one step."""
    share = np.min([each[kind]["share"] for each in seeds for kind in each], 0)
    steps = int((share >= 0.5).sum())
    if not steps:
        raise UserError("more than half of the episodes end within --context: take a smaller one")
    result = {}
    for kind in ("seen", "unseen"):
        result[kind] = {"return": mean_and_interval([each[kind]["return"] for each in seeds])}
        for name in ("error", "copy_error"):
            values = np.array([each[kind][name][:steps] for each in seeds])
            result[kind][name] = {"mean": values.mean(0).tolist(), "std": values.std(0).tolist()}
    return result


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
