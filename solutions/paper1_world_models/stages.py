"""The four stages of training: collect, V, M, C. Each goes on where an earlier call on the same run folder stopped."""

import multiprocessing
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor
from tqdm import tqdm

from common.agent import load_agent
from common.checkpoint import load_checkpoint, save_checkpoint
from common.config import pick_device
from common.dream_env import DreamVecEnv
from common.env_wrapper import is_discrete, spaces_of, steps_as_batch
from common.evaluate import rollout
from common.metrics import Logger, active_units, check_finite, continue_accuracy, reward_accuracy
from common.replay_buffer import ReplayBuffer
from common.run_folder import config_to_dict
from solutions.paper1_world_models.agent import WorldModelsAgent
from solutions.paper1_world_models.collect import collect_episodes, open_stream
from solutions.paper1_world_models.config import PAPER, Config
from solutions.paper1_world_models.controller import evolve
from solutions.paper1_world_models.rnn import mdn_nll, rnn_train_step, sequence_batch
from solutions.paper1_world_models.vae import preprocess, vae_loss, vae_train_step

HELD_OUT = 0.1  # share of the rollouts, the last ones, that V and M never train on
SAVE_SECONDS = 60.0
LOG_EVERY = 50  # updates
COLLECT, VISION, MEMORY, CONTROL, EVALUATE = range(5)  # so that no two stages draw the same random numbers


def seed_of(*key: int) -> int:
    """A seed that depends on the key alone: an update or an episode has the same before and after a resume."""
    return int(np.random.SeedSequence(key).generate_state(1)[0])


def seeded(*key: int) -> np.random.Generator:
    """Seed torch by the key, and return a numpy generator."""
    torch.manual_seed(seed_of(*key))
    return np.random.default_rng(key)


@contextmanager
def process_pool(workers: int) -> Iterator[Executor | None]:
    """Processes for `run_jobs`; None, which means this process, where one is enough."""
    if workers <= 1:
        yield None
        return
    spawn = multiprocessing.get_context("spawn")  # torch's threads do not survive a fork
    pool = ProcessPoolExecutor(workers, spawn, initializer=torch.set_num_threads, initargs=(1,))
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def run_jobs(executor: Executor | None, job: Callable, *args: Iterable) -> Iterator:
    """Results in the order of the jobs, as they come in. Any `concurrent.futures` executor will do."""
    return map(job, *args) if executor is None else executor.map(job, *args)


@dataclass
class Run:
    """What the stages share: the agent that grows, its rollouts, and where all is written."""

    config: Config
    folder: Path
    device: torch.device
    executor: Executor | None = None
    agent: WorldModelsAgent = field(init=False)
    replay: ReplayBuffer = field(init=False)

    def __post_init__(self):
        spaces = spaces_of(self.config.env, **self.config.env_options())
        self.agent = WorldModelsAgent(self.config, *spaces, self.device)
        self.replay = ReplayBuffer(2**62, directory=self.folder / "replay")
        self.saved = time.monotonic()

    def checkpoint(self, stage: str) -> Path:
        return self.folder / "checkpoints" / f"{stage}.pt"

    def restore(self, stage: str) -> dict:
        """What the stage saved last (with the agent as it was), or {} if it has not begun."""
        if not self.checkpoint(stage).exists():
            return {}
        saved = load_checkpoint(self.checkpoint(stage), paper=PAPER, device=self.device)
        self.agent.load_state_dict(saved["agent"])
        return saved

    def save(self, stage: str, **progress) -> None:
        save_checkpoint(self.checkpoint(stage), self.payload() | progress)
        self.saved = time.monotonic()

    def payload(self) -> dict:
        return {"paper": PAPER, "config": config_to_dict(self.config), "agent": self.agent.state_dict()}

    def save_model(self) -> None:
        """model.pt: the weights alone, for eval.py and visualize.py."""
        save_checkpoint(self.folder / "model.pt", self.payload() | {"agent": self.agent.weights()})

    def logged_step(self) -> int:
        """The log's count at the last checkpoint: what was logged after it will be done again."""
        saved = [load_checkpoint(path, paper=PAPER) for path in self.folder.glob("checkpoints/*.pt")]
        return max((payload.get("step", 0) for payload in saved), default=0)

    @property
    def save_is_due(self) -> bool:
        return time.monotonic() - self.saved > SAVE_SECONDS


# ---- collect -----------------------------------------------------------------------------------------------


def collect(run: Run) -> int:
    """Stage 1: random rollouts into the replay until `steps` environment frames are there; returns their number."""
    config, replay, path = run.config, run.replay, run.checkpoint("collect")
    frames: list[int] = []  # of each rollout
    if path.exists():
        replay.restore()
        # It is saved before the replay is: what it knows of rollouts that did not get there is forgotten.
        frames = load_checkpoint(path, paper=PAPER)["frames"][: len(replay.episodes())]

    def save() -> None:
        save_checkpoint(path, {"paper": PAPER, "frames": frames})
        replay.save()
        run.saved = time.monotonic()

    per_job = 32 if steps_as_batch(config.env) else 1
    with tqdm(total=config.steps, initial=sum(frames), unit=" frames", desc="collect") as bar:
        while sum(frames) < config.steps:
            count = 8 * max(1, config.workers) * per_job
            seeds = [seed_of(config.seed, COLLECT, len(frames) + i) for i in range(count)]
            jobs = [seeds[i : i + per_job] for i in range(0, count, per_job)]
            for episodes in run_jobs(run.executor, partial(collect_episodes, config), jobs):
                if sum(frames) >= config.steps:
                    break
                for rows, played in zip(episodes.rows, episodes.frames.tolist(), strict=True):
                    for t in range(len(rows["reward"])):
                        replay.add({key: value[t : t + 1] for key, value in rows.items()})
                    frames.append(played)
                    bar.update(played)
                if run.save_is_due:
                    save()
    save()
    return sum(frames)


def split(replay: ReplayBuffer) -> tuple[np.ndarray, np.ndarray]:
    """The rollouts to train on and those held out, as `replay.episodes()` lists them."""
    episodes = replay.episodes()
    held_out = max(1, round(HELD_OUT * len(episodes)))
    return episodes[:-held_out], episodes[-held_out:]


def updates(stage: str, done: int, total: int) -> Iterator[tuple[int, tqdm]]:
    """Count from `done` to `total` with a progress bar."""
    with tqdm(total=total, initial=done, unit=" updates", desc=stage) as bar:
        for update in range(done, total):
            yield update, bar
            bar.update()


# ---- V -----------------------------------------------------------------------------------------------------


def rows_of(episodes: np.ndarray) -> np.ndarray:
    """(rows, 2) of (stream, t): every row of the episodes."""
    return np.concatenate([[(stream, t) for t in range(start, start + n)] for stream, start, n, _ in episodes.tolist()])


def train_vision(run: Run, logger: Logger, frames: int) -> int:
    """Stage 2: V on the shuffled frames of the rollouts; returns the number of updates."""
    config, agent, replay = run.config, run.agent, run.replay
    train, held_out = (rows_of(episodes) for episodes in split(replay))
    images = lambda rows: torch.as_tensor(replay.windows(rows, 1, ["image"])["image"][:, 0], device=run.device)
    test = images(held_out[:: max(1, len(held_out) // 256)])
    per_epoch = max(1, len(train) // config.vae_batch)
    total, done, order = config.epochs * per_epoch, run.restore("vae").get("updates", 0), None
    for update, bar in updates("V", done, total):
        epoch, i = divmod(update, per_epoch)
        if i == 0 or order is None:
            order = seeded(config.seed, VISION, 0, epoch).permutation(len(train))
        i = 0 if config.overfit_batch else i
        seeded(config.seed, VISION, 1, update)
        losses = vae_train_step(
            agent.vae, images(train[order[i * config.vae_batch :][: config.vae_batch]]), agent.vae_optimizer
        )
        last = update + 1 == total
        if (update + 1) % LOG_EVERY == 0 or last:
            metrics = {f"world_model/{name}_loss": float(value) for name, value in losses.items()}
            check_finite(metrics, f"update {update + 1} of V")
            if (update + 1) % per_epoch < LOG_EVERY or last:
                metrics |= vision_metrics(agent, test)
            logger.log(metrics, step=update + 1, frames=frames)
            bar.set_postfix({name: f"{float(value):.1f}" for name, value in losses.items()})
        if run.save_is_due or last:
            check_finite(
                {f"world_model/{name}_loss": float(value) for name, value in losses.items()},
                f"update {update + 1} of V",
            )
            run.save("vae", updates=update + 1, step=update + 1)
    return total


@torch.no_grad()
def vision_metrics(agent: WorldModelsAgent, image: Tensor) -> dict[str, float]:
    """How well V keeps frames that it never trained on."""
    image = preprocess(image)
    mu, logvar = agent.vae.encoder(image)
    loss = vae_loss(image, agent.vae.decoder(mu), mu, logvar)
    return {
        "world_model/heldout_recon_loss": float(loss.recon),
        "world_model/latent_use": float(active_units(mu).float().mean()),
    }


# ---- M -----------------------------------------------------------------------------------------------------


@dataclass
class Latents:
    """All rollouts through V: one row behind the other, as float16 posteriors (the official series.py keeps them so)."""

    rows: dict[str, Tensor]  # mu, logvar, prev_action (native), reward, is_first, is_terminal, each (rows, ...)
    episodes: np.ndarray  # (episodes, 2): first row, number of rows

    def windows(self, starts: np.ndarray, ends: np.ndarray, length: int) -> dict[str, Tensor]:
        """Windows of `length` rows from `starts`; `mask` is False from row `ends` on, where the last one is repeated."""
        index = starts[:, None] + np.arange(length)
        mask = index < ends[:, None]
        index = torch.as_tensor(np.minimum(index, ends[:, None] - 1))
        rows = {key: value[index] for key, value in self.rows.items()}
        rows["mu"], rows["logvar"] = rows["mu"].float(), rows["logvar"].float()
        return {**rows, "mask": torch.as_tensor(mask)}

    def sample(self, batch: int, length: int, rng: np.random.Generator) -> dict[str, Tensor]:
        """Windows inside one rollout each, every start equally likely; a shorter rollout is padded."""
        first, count = self.episodes.T
        starts_in = np.maximum(count - length + 1, 1)  # how many windows each rollout has
        chosen = rng.choice(len(first), batch, p=starts_in / starts_in.sum())
        starts = first[chosen] + rng.integers(starts_in[chosen])
        return self.windows(starts, first[chosen] + count[chosen], length)

    def whole(self) -> dict[str, Tensor]:
        """Every rollout whole, padded to the longest."""
        first, count = self.episodes.T
        return self.windows(first, first + count, int(count.max()))


@torch.no_grad()
def encode(run: Run, episodes: np.ndarray) -> Latents:
    """Take rollouts through V once: M trains on V's posterior and never sees a frame."""
    keys = ("mu", "logvar", "prev_action", "reward", "is_first", "is_terminal")
    parts = []
    for stream, start, length, _ in tqdm(episodes.tolist(), desc="encode", unit=" rollouts"):
        rows = run.replay.windows(np.array([[stream, start]]), length)
        encoded = run.agent.encode(rows)
        parts.append({key: encoded[key][0] for key in keys})
    rows = {key: torch.cat([part[key] for part in parts]) for key in keys}
    rows["mu"], rows["logvar"] = rows["mu"].half(), rows["logvar"].half()
    count = episodes["length"]
    return Latents(rows, np.stack([np.cumsum(count) - count, count], 1))


def train_memory(run: Run, logger: Logger, frames: int, offset: int) -> int:
    """Stage 3: M on windows of latents; returns the number of updates. `offset`: updates before, in the log's count."""
    config, agent = run.config, run.agent
    done = run.restore("rnn").get("updates", 0)
    train_episodes, held_out_episodes = split(run.replay)
    length = min(config.sequence_length + 1, int(train_episodes["length"].max()))
    transitions = int((train_episodes["length"] - 1).sum())
    per_epoch = max(1, transitions // (config.rnn_batch * (length - 1)))
    total = (config.rnn_epochs or config.epochs) * per_epoch
    if done == total:
        return total
    train, held_out = encode(run, train_episodes), encode(run, held_out_episodes)
    for update, bar in updates("M", done, total):
        rng = seeded(config.seed, MEMORY, 0 if config.overfit_batch else update)
        losses = rnn_train_step(
            agent.rnn, sequence_batch(train.sample(config.rnn_batch, length, rng)), agent.rnn_optimizer
        )
        last = update + 1 == total
        if (update + 1) % LOG_EVERY == 0 or last:
            metrics = {f"world_model/rnn_{name}_loss": float(value) for name, value in losses.items()}
            check_finite(metrics, f"update {update + 1} of M")
            if (update + 1) % per_epoch < LOG_EVERY or last:
                metrics |= memory_metrics(agent, train, held_out)
            logger.log(metrics, step=offset + update + 1, frames=frames)
            bar.set_postfix({name: f"{float(value):.3f}" for name, value in losses.items()})
        if run.save_is_due or last:
            check_finite(
                {f"world_model/rnn_{name}_loss": float(value) for name, value in losses.items()},
                f"update {update + 1} of M",
            )
            run.save("rnn", updates=update + 1, step=offset + update + 1)
    return total


@torch.no_grad()
def memory_metrics(agent: WorldModelsAgent, train: Latents, held_out: Latents) -> dict[str, float]:
    """M on rollouts it never saw, in nats per latent dimension, beside two baselines that need no M.

    - an unconditional Gaussian: each dimension's mean and variance over the training rollouts
    - copy the last latent: a Gaussian around z_t whose variance is that of z_{t+1} - z_t in the training rollouts
    """
    batch = sequence_batch(held_out.whole())
    out = agent.rnn(batch.z, batch.action, is_first=batch.is_first if agent.rnn.restart_input else None)
    past = sequence_batch(train.whole())
    seen, mask = past.next_z[past.mask], batch.mask
    jump = (past.next_z - past.z)[past.mask]
    gaussian = torch.distributions.Normal(seen.mean(0), seen.std(0)).log_prob(batch.next_z[mask])
    copy = torch.distributions.Normal(batch.z[mask], jump.square().mean(0).sqrt()).log_prob(batch.next_z[mask])
    metrics = {
        "world_model/heldout_nll": float(mdn_nll(out.logpi, out.mu, out.logsig, batch.next_z, mask)),
        "world_model/heldout_nll_gaussian": float(-gaussian.mean()),
        "world_model/heldout_nll_copy": float(-copy.mean()),
    }
    if out.reward is not None:
        error, sign = reward_accuracy(out.reward[mask], batch.reward[mask])
        metrics |= {"world_model/reward_error": float(error), "world_model/reward_sign_accuracy": float(sign)}
    if out.done_logit is not None:
        accuracy = continue_accuracy(1 - out.done_logit[mask].sigmoid(), batch.done[mask])
        metrics["world_model/cont_accuracy"] = float(accuracy)
    return metrics


# ---- C -----------------------------------------------------------------------------------------------------


@lru_cache(maxsize=2)
def worker_agent(path: Path, modified: float) -> WorldModelsAgent:
    """The process's own copy of V and M, kept from job to job; `modified` tells a new file of the same name."""
    return load_agent(path, WorldModelsAgent, Config, paper=PAPER)[0]


def play_candidates(
    checkpoint: Path, candidates: Float64[np.ndarray, "candidates params"], seeds: list[int]
) -> tuple[Float64[np.ndarray, "candidates seeds"], int]:
    """Every candidate's return on every seed's episode, and the frames played; a job for a worker process.

    On a built-in environment all of it steps as one batch; elsewhere one episode comes after the other.
    """
    agent = worker_agent(checkpoint, checkpoint.stat().st_mtime)
    config, n = agent.config, len(candidates)
    torch.manual_seed(seeds[0])
    limits = {"max_steps": config.max_episode_steps, "patience": config.patience}
    if steps_as_batch(config.env):
        stream = open_stream(config.env, n * len(seeds), **config.env_options())
        agent.controller.set_params(np.repeat(candidates, len(seeds), 0))
        played = rollout(agent, stream, seeds * n, **limits)
        return played.returns.reshape(n, -1), int(played.frames.sum())
    stream = open_stream(config.env, 1, **config.env_options())
    returns, frames = [], 0
    for candidate in candidates:
        agent.controller.set_params(candidate)
        played = rollout(agent, stream, seeds, **limits)
        returns.append(played.returns)
        frames += int(played.frames.sum())
    return np.array(returns), frames


class RealFitness:
    """A candidate's mean return over a few episodes of the real environment (paper, A.4).

    All candidates of a generation drive on the same tracks, which takes the tracks' difficulty out of their ranking;
    the next generation gets new ones.
    """

    def __init__(self, run: Run):
        self.run, self.frames = run, 0

    def __call__(self, candidates: np.ndarray, generation: int) -> np.ndarray:
        config = self.run.config
        seeds = [seed_of(config.seed, CONTROL, generation, i) for i in range(config.episodes_per_candidate)]
        return self.play(candidates, seeds).mean(1)

    def play(self, candidates: np.ndarray, seeds: list[int]) -> np.ndarray:
        """(candidates, seeds) returns, spread over the workers."""
        path = self.run.checkpoint("rnn")
        if steps_as_batch(self.run.config.env):
            returns, frames = play_candidates(path, candidates, seeds)
            self.frames += frames
            return returns
        jobs = [(candidate[None], [seed]) for candidate in candidates for seed in seeds]
        results = list(run_jobs(self.run.executor, partial(play_candidates, path), *zip(*jobs, strict=True)))
        self.frames += sum(frames for _, frames in results)
        return np.array([returns[0, 0] for returns, _ in results]).reshape(len(candidates), len(seeds))


class DreamFitness(RealFitness):
    """A candidate's mean return in M's dreams, which begin where real rollouts began (paper, section 4).

    All candidates of a generation dream as one batch. Evaluations of the mean still play the real environment.
    """

    def __init__(self, run: Run):
        super().__init__(run)
        config = run.config
        first_rows = [(stream, start) for stream, start, _, _ in split(run.replay)[0].tolist()]
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
        returns, dreaming = np.zeros(dreams.num_envs), np.ones(dreams.num_envs, bool)
        while dreaming.any():
            action = agent.dream_action(dreams.state).cpu().numpy()
            native = action.argmax(-1) if is_discrete(dreams.single_action_space) else action
            _, reward, terminated, truncated, _ = dreams.step(native)
            returns += np.where(dreaming, reward, 0)
            dreaming &= ~(terminated | truncated)
        agent.controller.set_params(best)
        return returns.reshape(len(candidates), -1).mean(1)


def train_controller(run: Run, logger: Logger, frames: int, offset: int) -> None:
    """Stage 4: CMA-ES over C's parameters. The controller kept is the search's mean at its best evaluation.

    Every `eval_every` generations the mean plays the same `eval_episodes` fixed episodes, none of which any
    candidate sees.
    """
    config, agent = run.config, run.agent
    run.restore("rnn")
    saved = run.restore("controller")
    history = [np.array(returns) for returns in saved.get("history", [])]
    best_return = saved.get("best_return", -np.inf)
    fitness = DreamFitness(run) if config.dream else RealFitness(run)
    fitness.frames = saved.get("frames", 0)
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
    with tqdm(total=config.generations, unit=" generations", desc="C") as bar:
        for generation in search:
            bar.update()
            count = generation.index + 1
            if count <= len(saved.get("history", [])):
                continue
            history.append(generation.returns)
            metrics = {
                "policy/population_return": generation.returns.mean(),
                "policy/population_best": generation.returns.max(),
                "policy/population_std": generation.returns.std(),
                "policy/sigma": generation.sigma,
            }
            if count % config.eval_every == 0 or count == config.generations:
                returns = fitness.play(generation.mean[None], seeds)[0]
                metrics["policy/episode_return"] = returns.mean()
                metrics["policy/episode_return_std"] = returns.std(ddof=1)
                if returns.mean() >= best_return:
                    best_return = float(returns.mean())
                    agent.controller.set_params(generation.mean)
                run.save_model()
            logger.log(metrics, step=offset + count, frames=frames + fitness.frames)
            bar.set_postfix(population=f"{generation.returns.mean():.1f}", best_mean=f"{best_return:.1f}")
            if run.save_is_due or count == config.generations:
                run.save(
                    "controller",
                    history=[returns.tolist() for returns in history],
                    best_return=best_return,
                    frames=fitness.frames,
                    step=offset + count,
                )


def train(config: Config, folder: Path, executor: Executor | None = None) -> None:
    """All four stages. `executor` takes the place of this machine's processes for rollouts and candidates."""
    torch.manual_seed(seed_of(config.seed))  # the initial weights
    with process_pool(0 if executor else config.workers) as pool:
        run = Run(config, folder, pick_device(config.device), executor or pool)
        frames = collect(run)
        with Logger(folder, resume_step=run.logged_step()) as logger:
            vision_updates = train_vision(run, logger, frames)
            memory_updates = train_memory(run, logger, frames, offset=vision_updates)
            run.save_model()
            train_controller(run, logger, frames, offset=vision_updates + memory_updates)
    print(f"trained agent: {folder / 'model.pt'}")
