"""Look at what an agent has learned: reconstructions, dreams, prediction against reality, the learning curve."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro

from common.agent import Agent, Rows, dream, load_agent
from common.checkpoint import find_checkpoint
from common.config import BaseConfig, pick_device
from common.env_wrapper import make_env
from common.errors import UserError, one_line_errors
from common.evaluate import open_episodes, rollout
from common.metrics import read_metrics
from common.plots import (
    compare_predictions,
    plot_codebook,
    plot_curves,
    plot_latent_use,
    predict,
    visualize_imagination,
    visualize_vae,
)
from common.tiny_envs import SCORES
from common.video import error_frames, mark_first, side_by_side, write_video


@dataclass
class VisualizeOptions:
    """Draw what a trained agent's world model has learned."""

    checkpoint: str = "model.pt"
    """Looked for here, then in this paper's newest run."""
    num_dreams: int = 5
    horizon: int = 50
    """Steps to dream."""
    context: int = 5
    """Real rows that a prediction sees before it goes on alone; at most two thirds of the shortest episode."""
    temperature: float = 1.0
    """Of the dreams; below 1 they surprise less."""
    play: bool = False
    """Open a window and play inside the agent's dream, with the keys of the real environment; draws nothing."""
    seed: int = 2_000_000
    device: str = "auto"


@one_line_errors
def main(
    agent_class: type[Agent],
    config_class: type[BaseConfig],
    paper: str,
    runs: Path,
    argv: list[str] | None = None,
    more: Callable[[Agent, list[Rows], Path], list[Path]] | None = None,
) -> None:
    """The whole of every visualize.py. `more` draws what only one paper has, of the real episodes into a folder."""
    options = tyro.cli(VisualizeOptions, args=argv)
    if min(options.num_dreams, options.horizon, options.context) < 1:
        raise UserError("--num-dreams, --horizon and --context must be positive")
    if options.temperature <= 0:
        raise UserError(f"--temperature must be positive, got {options.temperature}")
    path = find_checkpoint(options.checkpoint, runs)
    agent, config = load_agent(path, agent_class, config_class, paper=paper, device=pick_device(options.device))
    torch.manual_seed(options.seed)
    episodes = real_episodes(agent, config, options.num_dreams, options.seed)
    if options.play and "image" in episodes[0]:
        play(agent, config, episodes, options)
        return
    if "image" in episodes[0]:
        for written in draw(agent, episodes, path.parent, options):
            print(f"written: {written}")
        for written in more(agent, episodes, path.parent / "figures") if more else ():
            print(f"written: {written}")
    else:
        print("this agent observes no images: there is only its learning curve to draw")
    if curve := learning_curve(path.parent, config.env):
        print(f"written: {curve}")


def learning_curve(run: Path, env_id: str) -> Path | None:
    """Return against environment frames: of evaluations where the run made some, else of training; None without any."""
    log = read_metrics(run / "metrics.jsonl") if (run / "metrics.jsonl").exists() else []
    logged = set().union(*log)
    y = next((name for name in ("policy/eval_return", "policy/episode_return") if name in logged), None)
    if y is None:
        return None
    baselines = SCORES[env_id]._asdict() if env_id in SCORES else None
    return plot_curves({env_id: log}, run / "figures" / "learning_curve.png", y=y, baselines=baselines)


def real_episodes(agent: Agent, config: BaseConfig, count: int, seed: int, max_steps: int | None = None) -> list[Rows]:
    """Episodes that the agent plays in its real environment, row by row, or the first `max_steps` steps of them."""
    stream = open_episodes(config.env, count, **config.env_options())
    played = rollout(agent, stream, [seed + i for i in range(count)], max_steps=max_steps, record=True)
    stream.envs.close()
    return played.rows


def contexts(episodes: list[Rows], context: int) -> Rows:
    """The first rows of each episode (episodes, time, ...): `context`, but at most two thirds of the shortest one."""
    shortest = min(len(rows["reward"]) for rows in episodes)
    context = min(context, max(1, 2 * shortest // 3))
    return {key: np.stack([rows[key][:context] for rows in episodes]) for key in episodes[0]}


def play(agent: Agent, config: BaseConfig, episodes: list[Rows], options: VisualizeOptions) -> None:
    """Hand the dream to the user's keyboard."""
    from common.play import play_dream  # pygame, which nothing else here needs

    env = make_env(config.env, **config.env_options())
    play_dream(agent, contexts(episodes, options.context), config.env, env, options.temperature)
    env.close()


def draw(agent: Agent, episodes: list[Rows], folder: Path, options: VisualizeOptions) -> list[Path]:
    """All pictures of a set of real episodes; returns the files written."""
    figures, videos = folder / "figures", folder / "videos"
    starts = contexts(episodes, options.context)
    context = starts["reward"].shape[1]
    longest = max(episodes, key=lambda rows: len(rows["reward"]))
    truth = {key: value[None, : context + options.horizon] for key, value in longest.items()}
    written = [
        visualize_vae(agent, {key: value[None] for key, value in longest.items()}, figures / "reconstructions.png")
    ]
    shortest = min(len(rows["reward"]) for rows in episodes)
    used = agent.latent_use({key: np.stack([rows[key][:shortest] for rows in episodes]) for key in longest})
    written.append((plot_codebook if used.ndim > 1 else plot_latent_use)(used, figures / "latents.png"))
    written.append(visualize_imagination(agent, starts, figures / "imagination.png", 15, options.num_dreams))
    written.append(compare_predictions(agent, truth, figures / "predictions.png", context)[0])

    imagined = dream(agent, starts, options.horizon, temperature=options.temperature)
    for i, images in enumerate(imagined.images):
        frames = np.concatenate([starts["image"][i, -1:], images])
        written.append(write_video(videos / f"dream_{i}.gif", side_by_side(frames, titles=["dream"]), fps=15))
    seen = {key: value[:, :context] for key, value in truth.items()}
    real = truth["image"][0]
    model = np.concatenate([agent.reconstruct(seen)[0], predict(agent, truth, context).images[0]])
    titles = ["reality", "model", "difference"]
    video = mark_first(side_by_side(real, model, error_frames(real, model), titles=titles), context)
    written.append(write_video(videos / "predictions.gif", video, fps=15))
    return written
