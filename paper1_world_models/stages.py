"""The stages in their order: collect, V, M, C. Each goes on where an earlier call on the same run folder stopped."""

import sys
from concurrent.futures import Executor
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from common.config import pick_device
from common.jobs import StopButton, Stopped, process_pool
from common.metrics import (
    Timer,
    active_units,
    check_finite,
    continue_accuracy,
    model_size,
    peak_memory_mib,
    reconstruction_error,
    reward_accuracy,
)
from common.seeding import seed_of, seeded
from paper1_world_models.agent import WorldModelsAgent
from paper1_world_models.collect import collect
from paper1_world_models.config import Config
from paper1_world_models.latents import Latents, encode
from paper1_world_models.rnn import mdn_nll, sequence_batch
from paper1_world_models.run import LOG_EVERY, MEMORY, VISION, Run
from paper1_world_models.search import train_controller
from paper1_world_models.vae import preprocess, vae_loss


def train(config: Config, folder: Path, executor: Executor | None = None) -> None:
    """All four stages. `executor` takes the place of this machine's processes for rollouts and candidates."""
    torch.manual_seed(seed_of(config.seed))  # the initial weights
    with StopButton() as stop, process_pool(0 if executor else config.workers) as pool:
        run = Run(config, folder, pick_device(config.device), executor or pool, stop)
        try:
            collect(run)
            train_vision(run)
            train_memory(run)
            if not run.path("controller").exists():
                run.save_model()  # V and M can be looked at while C is still searched for
            train_controller(run)
        except Stopped:
            print(f"stopped and saved; go on with: python train.py --resume {folder}")
            sys.exit(130)  # as a shell reports Ctrl-C
        finally:
            run.logger.close()
    print(f"trained agent: {folder / 'model.pt'}")


# ---- V -----------------------------------------------------------------------------------------------------


def train_vision(run: Run) -> None:
    """Stage 2: V on the shuffled frames of the rollouts."""
    config, agent, replay = run.config, run.agent, run.replay
    train, held_out = (rows_of(episodes) for episodes in run.split())
    images = lambda rows: torch.as_tensor(replay.windows(rows, 1, ["image"])["image"][:, 0], device=run.device)
    test = images(held_out[:: max(1, len(held_out) // 256)])
    per_epoch = max(1, len(train) // config.vae_batch)
    done, total, order = run.restore("vae").get("updates", 0), config.epochs * per_epoch, None
    timer = Timer()
    for update, bar in run.count("V", done, total):
        epoch, i = divmod(update, per_epoch)
        if config.overfit_batch:
            epoch = i = 0
        if i == 0 or order is None:
            order = seeded(config.seed, VISION, 0, epoch).permutation(len(train))
        seeded(config.seed, VISION, 1, update)
        with timer:
            batch = images(train[order[i * config.vae_batch :][: config.vae_batch]])
            losses = agent.learn_vision(batch)
        last = update + 1 == total
        if (update + 1) % LOG_EVERY == 0 or last or run.save_is_due:
            metrics = {name: float(value) for name, value in losses.items()}
            check_finite(metrics, f"update {update + 1} of V")
            if last or (update + 1) % (10 * LOG_EVERY) == 0:
                metrics |= vision_metrics(agent, test)
            run.log(metrics | cost(agent.vae, timer), update + 1)
            bar.set_postfix(recon=f"{metrics['world_model/recon_loss']:.1f}", kl=f"{metrics['world_model/kl']:.1f}")
        if last or run.save_is_due:
            run.save("vae", updates=update + 1, step=run.updates + update + 1)
    run.updates += total


def rows_of(episodes: np.ndarray) -> np.ndarray:
    """(rows, 2) of (stream, t): every row of the episodes."""
    return np.concatenate([[(stream, t) for t in range(start, start + n)] for stream, start, n, _ in episodes.tolist()])


@torch.no_grad()
def vision_metrics(agent: WorldModelsAgent, image: Tensor) -> dict[str, float]:
    """How well V keeps frames that it never trained on."""
    image = preprocess(image)
    mu, logvar = agent.vae.encoder(image)
    recon = agent.vae.decoder(mu)
    return {
        "world_model/heldout_recon_loss": float(vae_loss(image, recon, mu, logvar).recon),
        "world_model/recon_error": float(reconstruction_error(recon, image)),
        "world_model/latent_use": float(active_units(mu).float().mean()),
    }


def cost(module: torch.nn.Module, timer: Timer) -> dict[str, float]:
    """What an update costs."""
    return {
        "efficiency/seconds_per_update": timer.mean_seconds,
        "efficiency/memory_mib": peak_memory_mib(),
        "efficiency/parameters": model_size(module)[0],
    }


# ---- M -----------------------------------------------------------------------------------------------------


def train_memory(run: Run) -> None:
    """Stage 3: M on windows of latents."""
    config, agent = run.config, run.agent
    done = run.restore("rnn").get("updates", 0)
    train_episodes, held_out_episodes = run.split()
    length = min(config.sequence_length + 1, int(train_episodes["length"].max()))
    transitions = int((train_episodes["length"] - 1).sum())
    per_epoch = max(1, transitions // (config.rnn_batch * (length - 1)))
    total = config.epochs * config.rnn_passes * per_epoch
    if done < total:
        train, held_out = encode(run, train_episodes), encode(run, held_out_episodes)
    timer = Timer()
    for update, bar in run.count("M", done, total):
        rng = seeded(config.seed, MEMORY, 0 if config.overfit_batch else update)
        with timer:
            losses = agent.learn_memory(train.sample(config.rnn_batch, length, rng))
        last = update + 1 == total
        if (update + 1) % LOG_EVERY == 0 or last or run.save_is_due:
            metrics = {name: float(value) for name, value in losses.items()}
            check_finite(metrics, f"update {update + 1} of M")
            if last or (update + 1) % (10 * LOG_EVERY) == 0:
                metrics |= memory_metrics(agent, train, held_out)
            run.log(metrics | cost(agent.rnn, timer), update + 1)
            bar.set_postfix({name.removeprefix("world_model/"): f"{value:.3f}" for name, value in losses.items()})
        if last or run.save_is_due:
            run.save("rnn", updates=update + 1, step=run.updates + update + 1)
    run.updates += total


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
