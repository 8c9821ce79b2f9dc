"""Turn finished runs into the folder of solutions/results that README and guide quote.

    python -m solutions.make_results paper1_world_models RUN [RUN ...] --episodes 50

The runs are seeds of one command. The folder gets result.json, the learning curve, the pictures and videos of the first
run, and its weights where they have at most 2 MB.
"""

import importlib
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro

from common.agent import load_agent
from common.env_wrapper import spaces_of
from common.errors import UserError, one_line_errors
from common.evaluate import RandomPolicy, evaluate, summarise
from common.metrics import read_metrics
from common.plots import plot_curves
from common.run_folder import read_config, read_sessions, write_json
from common.tiny_envs import SCORES
from common.visualize import VisualizeOptions, draw, real_episodes

RESULTS = Path(__file__).parent / "results"
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


@one_line_errors
def main(argv: list[str] | None = None) -> None:
    options = tyro.cli(Options, args=argv)
    agent_class, config_class, paper, _ = importlib.import_module(f"solutions.{options.paper}.eval").AGENT
    configs = [read_config(run) for run in options.runs]
    env_id = configs[0]["env"]
    if {config["env"] for config in configs} != {env_id}:
        raise UserError("the runs are on different environments")
    folder = RESULTS / paper / env_id.replace("/", "-")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)

    logs = [read_metrics(run / "metrics.jsonl") for run in options.runs]
    seeds = []
    for run, log in zip(options.runs, logs, strict=True):
        agent, config = load_agent(run / "model.pt", agent_class, config_class, paper=paper)
        torch.manual_seed(EVAL_SEED)
        played, score = evaluate(agent, env_id, options.episodes, seed=EVAL_SEED, **config.env_options())
        seeds.append(
            {
                "seed": config.seed,
                "evaluation": score,
                "evaluation_returns": played.returns.round(3).tolist(),
                "frames": log[-1]["frames"],
                "updates": log[-1]["step"],
                "wall_seconds": log[-1]["wall_seconds"],
                "sessions": read_sessions(run),
            }
        )
        print(f"seed {config.seed}: {score['mean']:.2f} +- {score['std']:.2f} (n = {score['n']})")

    _, action_space = spaces_of(env_id, **config.env_options())
    random_policy = RandomPolicy(action_space, EVAL_SEED)
    _, random = evaluate(random_policy, env_id, options.episodes, seed=EVAL_SEED, **config.env_options())
    result = {
        "env": env_id,
        "preset": configs[0]["preset"],
        "command": seeds[0]["sessions"][0]["command"],
        "hardware": seeds[0]["sessions"][0]["hardware"],
        "commit": seeds[0]["sessions"][0]["commit"],
        "mean_over_seeds": float(np.mean([seed["evaluation"]["mean"] for seed in seeds])),
        "random_return": random["mean"],
        "random": random,
    }
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
    pictures = VisualizeOptions()
    draw(agent, real_episodes(agent, config, 3, EVAL_SEED), folder, pictures)
    for run in options.runs:
        shutil.copy(run / "metrics.jsonl", folder / f"metrics_seed{read_config(run)['seed']}.jsonl")
    if (options.runs[0] / "model.pt").stat().st_size <= MAX_BYTES:
        shutil.copy(options.runs[0] / "model.pt", folder / "model.pt")
    print(f"written: {folder}")


if __name__ == "__main__":
    main()
