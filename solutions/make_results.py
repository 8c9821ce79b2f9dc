"""Turn finished runs into the folder of solutions/results that README and guide quote.

    python -m solutions.make_results paper1_world_models RUN [RUN ...] --episodes 50

The runs are seeds of one command. The folder gets result.json, the learning curve, the pictures and videos of the first
run, and its weights where they have at most 2 MB (in half precision, where that is what it takes).
"""

import importlib
import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro

from common.agent import Agent, load_agent
from common.checkpoint import load_checkpoint, save_checkpoint
from common.config import BaseConfig, option
from common.env_wrapper import spaces_of
from common.errors import UserError, one_line_errors
from common.evaluate import RandomPolicy, evaluate, line, summarise
from common.metrics import read_metrics
from common.plots import plot_curves, predict
from common.run_folder import read_config, read_sessions, write_json
from common.tiny_envs import SCORES
from common.visualize import VisualizeOptions, draw, real_episodes
from solutions.score_table import RESULTS, score_table

README = Path(__file__).parent.parent / "README.md"
BEGIN, END = "<!-- results: written by solutions/make_results.py -->", "<!-- end of results -->"
SCORES_BEGIN, SCORES_END = "<!-- scores: written by solutions/make_results.py -->", "<!-- end of scores -->"
MAX_BYTES = 2 * 2**20
EVAL_SEED = 1_000_000


@dataclass
class Options:
    """Evaluate finished runs and write what is committed of them."""

    paper: tyro.conf.Positional[str]
    """Folder name of the paper."""
    runs: tyro.conf.Positional[list[Path]]
    """Run folders, one for each seed."""
    episodes: int = 50
    """Evaluation episodes of each run."""
    name: str | None = None
    """Folder name; without it the environment's id."""


class ConstantPolicy(RandomPolicy):
    """The same action at every step, as a row holds it."""

    def __init__(self, action: list[float]):
        self.action = np.array([action], np.float32)

    def act(self, obs, state, *, explore=True):
        return self.action.repeat(len(obs["is_first"]), 0), {}


def updates_of(run: Path, log: list[dict[str, float]]) -> int:
    """Updates of a run: papers 2 to 5 keep their number beside the weights, World Models counts them in its log."""
    checkpoint = run / "checkpoints" / "latest.pt"
    return load_checkpoint(checkpoint)["agent"]["updates"] if checkpoint.exists() else int(log[-1]["step"])


def command_of(sessions: list[dict[str, str]]) -> str:
    """What one would type for the whole of a run that was resumed with more steps."""
    steps = [steps for each in sessions[1:] if (steps := option(each["command"].split(), "steps"))]
    return " ".join([sessions[0]["command"], *(["--steps", steps[-1]] if steps else [])])


def prediction(agent: Agent, config: BaseConfig, episodes: int = 50, context: int = 5, horizon: int = 15) -> dict:
    """How the model's open-loop prediction compares with always showing the last frame seen, on new episodes.

    Mean squared error per pixel at the last of `horizon` steps; nothing where the agent observes no images.
    """
    played = real_episodes(agent, config, episodes, EVAL_SEED, max_steps=context + horizon - 1)
    rows = [each for each in played if len(each["reward"]) >= context + horizon]
    if not rows or "image" not in rows[0]:
        return {}
    rows = {key: np.stack([each[key][: context + horizon] for each in rows]) for key in rows[0]}
    predicted = predict(agent, rows, context)
    return {
        "prediction": {
            "episodes": len(rows["reward"]),
            "context": context,
            "steps": horizon,
            "error_at_last": float(predicted.mse[-1]),
            "copy_last_frame_error_at_last": float(predicted.copy_mse[-1]),
        }
    }


def copy_weights(model: Path, copy: Path) -> None:
    """Weights of at most MAX_BYTES: as they are, or else in half precision; nothing where that is too much, too."""
    if model.stat().st_size > MAX_BYTES:
        payload = load_checkpoint(model)
        half = lambda value: value.half() if value.is_floating_point() else value
        halves = lambda weights: {key: half(value) for key, value in weights.items()}
        save_checkpoint(copy, payload | {"agent": {name: halves(each) for name, each in payload["agent"].items()}})
        if copy.stat().st_size > MAX_BYTES:
            copy.unlink()
    else:
        shutil.copy(model, copy)


def table() -> str:
    """The table of all results, as the README shows it."""
    lines = [
        "| paper | environment | preset | return: mean +- sd | random | frames | time | seeds x episodes | command |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for path in sorted(RESULTS.glob("*/*/result.json")):
        result = json.loads(path.read_text())
        seeds = result["seeds"]
        returns = np.concatenate([seed["evaluation_returns"] for seed in seeds])
        score = f" (score {result['score']['mean']:.2f})" if "score" in result else ""
        minutes = np.mean([seed["wall_seconds"] for seed in seeds]) / 60
        cells = [
            path.parent.parent.name,
            f"[{result['env']}](solutions/results/{path.parent.parent.name}/{path.parent.name})",
            result["preset"],
            f"{returns.mean():.1f} +- {returns.std(ddof=1):.1f}{score}",
            f"{result['random_return']:.1f}",
            f"{np.mean([seed['frames'] for seed in seeds]):,.0f}",
            f"{minutes:.0f} min",
            f"{len(seeds)} x {len(seeds[0]['evaluation_returns'])}",
            f"`{result['command']}`",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def write_readme() -> None:
    """Put both tables in their places in the README."""
    text = README.read_text()
    for begin, end, written in ((BEGIN, END, table()), (SCORES_BEGIN, SCORES_END, score_table())):
        before, rest = text.split(begin)
        _, after = rest.split(end)
        text = f"{before}{begin}\n{written}\n{end}{after}"
    README.write_text(text)


@one_line_errors
def main(argv: list[str] | None = None) -> None:
    options = tyro.cli(Options, args=argv)
    agent_class, config_class, paper, _ = importlib.import_module(f"solutions.{options.paper}.eval").AGENT
    configs = [read_config(run) for run in options.runs]
    env_id = configs[0]["env"]
    if {config["env"] for config in configs} != {env_id}:
        raise UserError("the runs are on different environments")
    finished = RESULTS / paper / (options.name or env_id.replace("/", "-"))
    folder = finished.with_name(finished.name + ".new")  # takes its place when it is whole
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)

    logs = [read_metrics(run / "metrics.jsonl") for run in options.runs]
    seeds = []
    for run, log in zip(options.runs, logs, strict=True):
        agent, config = load_agent(run / "model.pt", agent_class, config_class, paper=paper)
        torch.manual_seed(EVAL_SEED)
        played, score = evaluate(agent, env_id, options.episodes, seed=EVAL_SEED, **config.eval_options())
        seeds.append(
            prediction(agent, config)
            | {
                "seed": config.seed,
                "evaluation": score,
                "evaluation_returns": played.returns.round(3).tolist(),
                "frames": log[-1]["frames"],
                "updates": updates_of(run, log),
                "wall_seconds": log[-1]["wall_seconds"],
                "sessions": read_sessions(run),
            }
        )
        print(line(f"seed {config.seed}", score))

    _, action_space = spaces_of(env_id, **config.env_options())
    random_policy = RandomPolicy(action_space, EVAL_SEED)
    _, random = evaluate(random_policy, env_id, options.episodes, seed=EVAL_SEED, **config.eval_options())
    result = {
        "env": env_id,
        "preset": configs[0]["preset"],
        "command": command_of(seeds[0]["sessions"]),
        "hardware": seeds[0]["sessions"][0]["hardware"],
        "commit": seeds[0]["sessions"][0]["commit"],
        "mean_over_seeds": float(np.mean([seed["evaluation"]["mean"] for seed in seeds])),
        "random_return": random["mean"],
        "random": random,
    }
    if env_id.startswith("CarRacing"):
        _, result["constant_half_gas"] = evaluate(
            ConstantPolicy([0, 0, -1]), env_id, options.episodes, seed=EVAL_SEED, **config.eval_options()
        )
    if env_id in SCORES:
        known = SCORES[env_id]
        result |= {"random_return": known.random, "optimal_return": known.optimal}
        for seed in seeds:
            seed["score"] = known.normalise(seed["evaluation"]["mean"])
        result["score"] = summarise(np.array([seed["score"] for seed in seeds]))
        print(f"score {result['score']['mean']:.3f} over {len(seeds)} seeds")
    write_json(folder / "result.json", result | {"seeds": seeds, "config": configs[0]})

    baselines = {name: result[f"{name}_return"] for name in ("random", "optimal") if f"{name}_return" in result}
    plot_curves({env_id: logs}, folder / "learning_curve.png", y="policy/eval_return", baselines=baselines)
    agent, config = load_agent(options.runs[0] / "model.pt", agent_class, config_class, paper=paper)
    torch.manual_seed(EVAL_SEED)
    episodes = real_episodes(agent, config, 3, EVAL_SEED)
    if "image" in episodes[0]:
        draw(agent, episodes, folder, VisualizeOptions())
        if more := getattr(importlib.import_module(f"solutions.{options.paper}.visualize"), "more", None):
            more(agent, episodes, folder / "figures")
    for extra in sorted((folder / "videos").glob("dream_*.gif"))[1:]:
        extra.unlink()  # one dream is enough to commit
    for run in options.runs:
        shutil.copy(run / "metrics.jsonl", folder / f"metrics_seed{read_config(run)['seed']}.jsonl")
    copy_weights(options.runs[0] / "model.pt", folder / "model.pt")
    shutil.rmtree(finished, ignore_errors=True)
    folder.rename(finished)
    write_readme()
    print(f"written: {finished}, and the tables in the README")


if __name__ == "__main__":
    main()
