"""Stage 4: the search for a controller, in the real environment or in the dream."""

from functools import lru_cache, partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float64, Int
from tqdm import tqdm

from common.agent import load_agent
from common.dream_env import DreamVecEnv
from common.env_wrapper import is_discrete, spaces_of, steps_as_batch
from common.evaluate import rollout
from common.jobs import Stopped
from common.seeding import seed_of
from solutions.paper1_world_models.agent import WorldModelsAgent
from solutions.paper1_world_models.collect import open_stream
from solutions.paper1_world_models.config import PAPER, Config
from solutions.paper1_world_models.controller import evolve
from solutions.paper1_world_models.run import CONTROL, EVALUATE, Run


@lru_cache(maxsize=2)
def worker_agent(path: Path, modified: float) -> WorldModelsAgent:
    """The process's own copy of V and M, kept from job to job; `modified` tells a new file of the same name."""
    return load_agent(path, WorldModelsAgent, Config, paper=PAPER)[0]


class Played(NamedTuple):
    """Episodes of several candidates, all on the same seeds."""

    returns: Float64[np.ndarray, "candidates seeds"]
    lengths: Int[np.ndarray, "candidates seeds"]  # agent steps
    frames: Int[np.ndarray, "candidates seeds"]


def play_candidates(
    checkpoint: Path, patience: int, candidates: Float64[np.ndarray, "candidates params"], seeds: list[int]
) -> Played:
    """Every candidate on every seed's episode; a job for a worker process.

    On a built-in environment all of it steps as one batch; elsewhere one episode comes after the other.
    """
    agent = worker_agent(checkpoint, checkpoint.stat().st_mtime)
    config, n = agent.config, len(candidates)
    torch.manual_seed(seeds[0])
    if steps_as_batch(config.env):
        stream = open_stream(config.env, n * len(seeds), **config.env_options())
        agent.controller.set_params(np.repeat(candidates, len(seeds), 0))
        parts = [rollout(agent, stream, seeds * n, patience=patience)]
    else:
        stream, parts = open_stream(config.env, 1, **config.env_options()), []
        for candidate in candidates:
            agent.controller.set_params(candidate)
            parts.append(rollout(agent, stream, seeds, patience=patience))
    returns, lengths, frames = (np.concatenate(arrays).reshape(n, -1) for arrays in list(zip(*parts, strict=True))[:3])
    return Played(returns, lengths, frames)


class RealFitness:
    """A candidate's mean return over a few episodes of the real environment (paper, A.4).

    All candidates of a generation drive on the same tracks, which takes the tracks' difficulty out of their ranking;
    the next generation gets new ones.
    """

    def __init__(self, run: Run):
        self.run = run
        self.length = 0.0  # mean agent steps of the episodes played last

    def __call__(self, candidates: np.ndarray, generation: int) -> np.ndarray:
        config = self.run.config
        seeds = [seed_of(config.seed, CONTROL, generation, i) for i in range(config.episodes_per_candidate)]
        return self.play(candidates, seeds, config.patience).returns.mean(1)

    def play(self, candidates: np.ndarray, seeds: list[int], patience: int = 0) -> Played:
        """All candidates on all seeds, spread over the workers."""
        run, n = self.run, len(candidates)
        jobs = [(candidates, seeds)]
        if not steps_as_batch(run.config.env):
            jobs = [(candidate[None], [seed]) for candidate in candidates for seed in seeds]
        parts = []
        for part in run.jobs(partial(play_candidates, run.path("rnn"), patience), *zip(*jobs, strict=True)):
            parts.append(part)
            run.stop.check()
        played = Played(
            *(np.concatenate([x.ravel() for x in arrays]).reshape(n, -1) for arrays in zip(*parts, strict=True))
        )
        self.length = played.lengths.mean()
        run.frames += int(played.frames.sum())  # only now: a generation that is broken off will be played again
        return played


class DreamFitness(RealFitness):
    """A candidate's mean return in M's dreams, which begin where real rollouts began (paper, section 4).

    All candidates of a generation dream as one batch. Evaluations of the mean still play the real environment.
    """

    def __init__(self, run: Run):
        super().__init__(run)
        config = run.config
        first_rows = [(stream, start) for stream, start, _, _ in run.split()[0].tolist()]
        self.dreams = DreamVecEnv(
            run.agent,
            run.replay.windows(np.array(first_rows), 1),
            spaces_of(config.env, **config.env_options())[1],
            config.popsize * config.episodes_per_candidate,
            obs="feat",
            horizon=config.max_episode_steps,
            temperature=config.temperature,
        )

    @torch.no_grad()
    def __call__(self, candidates: np.ndarray, generation: int) -> np.ndarray:
        config, dreams, agent = self.run.config, self.dreams, self.run.agent
        best = agent.controller.get_params()
        agent.controller.set_params(np.repeat(candidates, config.episodes_per_candidate, 0))
        dreams.reset(seed=seed_of(config.seed, CONTROL, generation))
        returns, lengths, dreaming = (
            np.zeros(dreams.num_envs),
            np.zeros(dreams.num_envs),
            np.ones(dreams.num_envs, bool),
        )
        while dreaming.any():
            action = agent.dream_action(dreams.state).cpu().numpy()
            native = action.argmax(-1) if is_discrete(dreams.single_action_space) else action
            _, reward, terminated, truncated, _ = dreams.step(native)
            returns += np.where(dreaming, reward, 0)
            lengths += dreaming
            dreaming &= ~(terminated | truncated)
            self.run.stop.check()
        agent.controller.set_params(best)
        self.length = lengths.mean()
        return returns.reshape(len(candidates), -1).mean(1)


def train_controller(run: Run) -> None:
    """CMA-ES over C's parameters. The controller that is kept is the search's mean at its best evaluation.

    At the first, every `eval_every`-th and the last generation the mean plays the same `eval_episodes` episodes, which
    no candidate ever sees.
    """
    config, agent = run.config, run.agent
    run.restore("rnn")
    saved = run.restore("controller")
    history = [np.array(returns) for returns in saved.get("history", [])]
    best_return, done = saved.get("best_return", -np.inf), len(history)
    run.frames = saved.get("frames", run.frames)
    fitness = DreamFitness(run) if config.dream else RealFitness(run)
    seeds = [seed_of(config.seed, EVALUATE, i) for i in range(config.eval_episodes)]
    search = evolve(
        fitness,
        agent.controller.num_params,
        popsize=config.popsize,
        generations=config.generations,
        sigma0=config.sigma0,
        seed=config.seed,
        diagonal=config.diagonal,
        history=list(history),
    )

    def save() -> None:
        progress = {"history": [returns.tolist() for returns in history], "best_return": best_return}
        run.save("controller", **progress, frames=run.frames, step=run.updates + len(history))

    with tqdm(total=config.generations, unit=" generations", desc="C") as bar:
        try:
            for generation in search:
                bar.update()
                count = generation.index + 1
                if count <= done:
                    continue
                metrics = {
                    "policy/episode_return": generation.returns.mean(),
                    "policy/episode_length": fitness.length,
                    "policy/population_best": generation.returns.max(),
                    "policy/population_std": generation.returns.std(),
                    "policy/sigma": generation.sigma,
                }
                last = count == config.generations
                if count == 1 or count % config.eval_every == 0 or last:
                    returns = fitness.play(generation.mean[None], seeds).returns[0]
                    metrics |= {"policy/eval_return": returns.mean(), "policy/eval_return_std": returns.std(ddof=1)}
                    if returns.mean() >= best_return:
                        best_return = float(returns.mean())
                        agent.controller.set_params(generation.mean)
                        run.save_model()
                history.append(generation.returns)
                run.log(metrics, count)
                bar.set_postfix(population=f"{generation.returns.mean():.1f}", best_mean=f"{best_return:.1f}")
                if run.save_is_due or "policy/eval_return" in metrics:
                    save()
                run.stop.check()
        except Stopped:
            save()
            raise
