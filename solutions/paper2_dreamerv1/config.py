"""Every number of the paper, and where it comes from. TF1 is the program that the paper was run with
(google-research/dreamer), TF2 its successor (danijar/dreamer)."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from common.env_wrapper import family
from common.runner import RunnerConfig

PAPER = "paper2_dreamerv1"
RUNS = Path(__file__).parent / "runs"


@dataclass
class Config(RunnerConfig):
    """DreamerV1. The defaults are the paper's setting for the DeepMind Control Suite, from pixels."""

    least: ClassVar = RunnerConfig.least | {"pretrain": 0, "actor_delay": 0, "length": 2, "horizon": 2}

    env: str = "dmc_walker_walk"
    steps: int = 5_000_000
    """Environment frames to play (paper: 5 million)."""
    image_size: Literal[64] = 64
    """Side of the square frames: encoder and decoder are made for this one."""
    replay_capacity: int = 2_600_000
    """Rows: the whole of the paper's run, which needs 31 GB; the oldest are dropped. All are in main memory, and in the
    run folder: 12 KB for each image."""
    prefill: int = 5_000
    """Environment frames of random actions before training (TF2; paper: 5 episodes)."""
    eval_every: int = 10_000
    eval_episodes: int = 10
    """Episodes of an evaluation, the same ones each time (TF2 plays one)."""

    # World model (TF2 models.py)

    deter: int = 200
    """Size of the deterministic state."""
    stoch: int = 30
    """Size of the stochastic state."""
    hidden: int = 200
    """Units of the RSSM's hidden layers."""
    depth: int = 32
    """Channels of the first convolution."""
    latent_dim: int | None = None
    """Numbers that an image is embedded in by a dense layer, over convolutions with padding; None: the paper's encoder,
    which has neither."""
    units: int = 400
    """Units of the dense heads, of actor and critic."""
    reward_layers: int = 2
    value_layers: int = 3
    actor_layers: int = 4
    vector_layers: int = 2
    """Hidden layers of encoder and decoder for vectors, which the paper does not have."""
    vector_std: float = 0.1
    """Standard deviation of the Gaussian that a vector is predicted with (images: 1); the networks see vectors divided
    by it. The paper has none: their numbers are so few that at 1 they would not count beside the KL."""
    free_nats: float = 3.0
    free_before_mean: bool = False
    """Free nats for each state, before the mean (TF1, PlaNet), instead of after it (TF2)."""
    kl_scale: float = 1.0
    kl_balance: float | None = None
    """Share of the KL's gradient that moves the prior (DreamerV2: 0.8). None: plain KL, the paper."""
    use_continue: bool | None = None
    """Predict where episodes end; None: everywhere but in dm_control, which never ends early."""
    continue_scale: float = 10.0
    """Weight of that loss (TF2; TF1: 1)."""
    reward_transform: Literal["none", "tanh"] = "none"
    """tanh: the paper's choice for Atari."""

    # Behaviour

    horizon: int = 15
    """Imagined steps."""
    discount: float = 0.99
    lam: float = 0.95
    """Lambda of the lambda-returns."""
    actor_delay: int = 0
    """Updates of the world model before actor and critic begin to learn (0: the paper)."""

    # Exploration

    exploration: Literal["sample", "mode"] = "sample"
    """What noise is added to: a sample of the policy (TF1, TF2), or its mode."""
    expl_noise: float = 0.3
    """Standard deviation of the noise on continuous actions."""
    epsilon: float = 0.4
    """Probability of a random choice, where actions are discrete; falls to epsilon_end."""
    epsilon_end: float = 0.1
    epsilon_updates: int = 200_000
    """Updates until epsilon has fallen."""

    # Training (TF2 dreamer.py)

    batch: int = 50
    """Chunks in a training batch."""
    length: int = 50
    """Rows of a training chunk."""
    train_every: int = 1000
    """Environment frames between blocks of updates."""
    train_steps: int = 100
    """Updates in a block."""
    pretrain: int = 100
    """Updates before the first block."""
    model_lr: float = 6e-4
    actor_lr: float = 8e-5
    value_lr: float = 8e-5
    adam_eps: float = 1e-7
    """TF2; TF1 has 1e-4. TensorFlow means something else by it in the first thousand updates."""
    clip: float = 100.0
    """Largest gradient norm, of each of the three."""

    @property
    def predicts_continue(self) -> bool:
        return family(self.env) != "dmc" if self.use_continue is None else self.use_continue


PRESETS = {
    # Learns TinyReacher in minutes on two cores: the same modules, small.
    "tiny": Config(
        env="TinyReacher-v0",
        steps=21_000,
        num_envs=8,
        prefill=1_000,
        eval_every=3_000,
        eval_episodes=50,
        log_every=500,
        deter=128,
        stoch=16,
        hidden=64,
        depth=8,
        units=64,
        reward_layers=1,
        value_layers=2,
        actor_layers=2,
        free_nats=1.0,
        horizon=8,
        discount=0.95,
        actor_delay=600,
        batch=8,
        length=16,
        train_every=4,
        train_steps=1,
        model_lr=2e-3,
        actor_lr=1e-3,
        value_lr=3e-3,
    ),
    # Half the paper's networks and a fifth of its batch, for a laptop; with so few updates they may be larger.
    "small": Config(
        steps=500_000,
        eval_episodes=5,
        depth=16,
        units=200,
        batch=16,
        length=32,
        train_every=100,
        train_steps=10,
        model_lr=1e-3,
        actor_lr=1e-4,
        value_lr=3e-4,
    ),
    "paper": Config(),
    # The paper's second experiment, Atari and DMLab: a shorter horizon, a smaller KL and squashed rewards.
    "paper_discrete": Config(
        env="atari_boxing",
        steps=20_000_000,
        eval_every=200_000,
        horizon=10,
        kl_scale=0.1,
        reward_transform="tanh",
    ),
}
