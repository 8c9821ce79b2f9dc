"""Every number of the paper, and where it comes from."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from common.config import BaseConfig

PAPER = "paper1_world_models"
RUNS = Path(__file__).parent / "runs"


@dataclass
class Config(BaseConfig):
    """World Models. The defaults are the paper's CarRacing setting, as the official code has it."""

    least: ClassVar = BaseConfig.least | {"patience": 0, "controller_hidden": 0, "popsize": 2}
    may_change: ClassVar = ("device", "workers", "generations")

    env: str = "CarRacing-v3"
    steps: int = 10_000_000
    """Environment frames to collect with the random policy (paper 3.2: 10,000 rollouts of 1000 frames)."""
    epochs: int = 10
    """Passes of V over all frames (official vae_train.py; the paper's text says 1)."""
    rnn_passes: int = 1
    """Passes of M over the rollouts for each pass of V: M has far fewer updates in a pass."""
    generations: int = 1800
    """CMA-ES generations (official log: 900.46 after 1800)."""

    # The world as the agent sees it
    image_size: Literal[64, 96] = 64
    """Side of the square frame that V sees: 64 is the paper's, 96 keeps CarRacing's own size."""
    action_repeat: int = 1
    max_episode_steps: int = 1000
    """Agent steps after which a rollout stops (paper A.4)."""
    policy: Literal["brownian", "cauchy", "uniform"] = "cauchy"
    """Random policy of the collection: cauchy is the official one for CarRacing; see collect.py."""

    # V
    latent_size: int = 32
    vae_depth: int = 32
    """Channels of the first convolution."""
    vae_lr: float = 1e-4
    vae_batch: int = 100

    # M
    hidden_size: int = 256
    mixtures: int = 5
    rnn_lr: float = 1e-3
    rnn_batch: int = 100
    sequence_length: int = 999
    """Transitions of a training window; the official code takes whole episodes."""
    predict_reward: bool = True
    """Reward head of M (not in the paper's CarRacing model; dreams that train a policy need one)."""
    predict_done: bool = True
    """End-of-episode head of M (in the paper's VizDoom model)."""
    restart_input: bool = False
    """M also sees is_first (the paper's VizDoom model)."""

    # C
    controller_input: Literal["z", "zh", "zch"] = "zh"
    controller_hidden: int = 0
    controller_bias: bool = True
    popsize: int = 64
    episodes_per_candidate: int = 16
    sigma0: float = 0.1
    diagonal: bool = False
    """Keep CMA-ES's covariance diagonal: cheaper, and adapts faster where generations are few."""
    patience: int = 0
    """Stop a candidate's episode after this many agent steps without positive reward (0: never, the paper)."""
    dream: bool = False
    """Train the controller inside the dream (paper, section 4) instead of in the environment."""
    temperature: float = 1.15
    """Temperature of the dream that trains (paper, table 2: best real score)."""

    # Running
    workers: int = 2
    """Processes that collect and evaluate."""
    eval_every: int = 25
    """Generations between evaluations of the search's mean on fixed seeds (official train.py)."""
    eval_episodes: int = 1024
    overfit_batch: bool = False
    """Debugging: V and M train on one fixed batch, which they should learn by heart."""

    def env_options(self) -> dict:
        """V sees pixels, also where the environment's own observation is a vector."""
        frames = self.max_episode_steps * self.action_repeat
        return super().env_options() | {"obs": "image", "time_limit": frames}


PRESETS = {
    # Learns TinyRacer in minutes on two cores: the same modules, small.
    "tiny": Config(
        env="TinyRacer-v0",
        steps=40_000,
        epochs=4,
        rnn_passes=20,
        generations=30,
        max_episode_steps=200,
        policy="brownian",
        latent_size=16,
        vae_depth=8,
        vae_lr=1e-3,
        vae_batch=64,
        hidden_size=64,
        rnn_batch=32,
        sequence_length=32,
        popsize=32,
        episodes_per_candidate=2,
        sigma0=0.3,
        eval_every=5,
        eval_episodes=32,
    ),
    # The paper's networks on CarRacing, cut to what a laptop does in an hour or two.
    "small": Config(
        steps=150_000,
        epochs=4,
        rnn_passes=15,
        generations=100,
        action_repeat=4,
        max_episode_steps=250,
        policy="brownian",
        vae_lr=5e-4,
        rnn_batch=32,
        sequence_length=64,
        popsize=32,
        episodes_per_candidate=2,
        diagonal=True,
        patience=40,
        eval_every=8,
        eval_episodes=16,
    ),
    # 4000 updates of M (official rnn_train.py). The replay is kept in memory: 10 million frames are 123 GB.
    "paper": Config(rnn_passes=4, predict_reward=False, predict_done=False),
    # The paper's second experiment: the controller never sees VizDoom while it learns.
    "takecover": Config(
        env="VizdoomTakeCover-v1",
        steps=10_000_000,
        rnn_passes=12,  # 24,400 updates of M (official doomrnn/rnn_train.py)
        policy="brownian",  # a random action held for 1 to 10 steps (official doomrnn/extract.py)
        latent_size=64,
        hidden_size=512,
        sequence_length=500,
        max_episode_steps=2100,
        predict_reward=False,
        restart_input=True,
        controller_input="zch",
        controller_bias=False,
        dream=True,
    ),
}
