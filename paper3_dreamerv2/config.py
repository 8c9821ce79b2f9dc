"""Every number of the paper, and where it comes from. The paper's tables and the public code (danijar/dreamerv2, here
"code") disagree in places: `paper` is the one, `repo_atari` and `repo_dmc` are the other, and they are not mixed."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Literal

from common.env_wrapper import family, usual_repeat
from common.runner import RunnerConfig
from paper3_dreamerv2.actor_critic import ActorGradient, Advantage
from paper3_dreamerv2.utils import RewardTransform

PAPER = "paper3_dreamerv2"
RUNS = Path(__file__).parent / "runs"


@dataclass
class Config(RunnerConfig):
    """DreamerV2. The defaults are the paper's setting for Atari."""

    least: ClassVar = RunnerConfig.least | {"pretrain": 0, "actor_delay": 0, "length": 2, "horizon": 2}

    env: str = "atari_pong"
    steps: int = 200_000_000
    """Environment frames to play (paper: 200 million, which are 50 million choices of an action)."""
    image_size: Literal[64] = 64
    """Side of the square frames: encoder and decoder are made for this one."""
    grayscale: bool = True
    """Atari: frames in grey."""
    full_actions: bool = True
    """Atari: all 18 actions, whatever the game uses (paper; code: those that the game uses)."""
    prefill: int = 200_000
    """Environment frames of random actions before training (50,000 choices)."""
    replay_capacity: int = 2_000_000
    """Rows; the oldest are dropped. All are in main memory, and in the run folder: 4 KB for a grey image, 8 GB."""
    eval_every: int = 1_000_000
    eval_episodes: int = 5
    """Episodes of an evaluation, the same ones each time (code: 1)."""

    # World model

    latent: Literal["discrete", "gaussian"] = "discrete"
    """gaussian: DreamerV1's, to compare with."""
    stoch: int = 32
    """Categorical variables, or dimensions of the Gaussian."""
    classes: int = 32
    """Classes of each variable."""
    deter: int = 600
    """Size of the deterministic state."""
    hidden: int = 600
    """Units of the RSSM's hidden layers."""
    depth: int = 48
    """Channels of the first convolution."""
    units: int = 400
    """Units of the dense heads, of actor and critic."""
    layers: int = 4
    """Hidden layers of the same."""
    vector_layers: int = 2
    """Hidden layers of encoder and decoder for vectors, which the paper does not have."""
    vector_std: float = 0.1
    """Standard deviation of the Gaussian that a vector is predicted with (images: 1); the networks see vectors divided
    by it. The paper has none: their numbers are so few that at 1 they would not count beside the KL."""
    kl_scale: float = 0.1
    kl_balance: float | None = 0.8
    """Share of the KL's gradient that moves the prior. None: plain KL, as in DreamerV1."""
    free_nats: float = 0.0
    free_before_mean: bool = False
    """Free nats for each state, before the mean, instead of after it."""
    use_continue: bool | None = None
    """Predict the discount of every state; None: everywhere but in dm_control, which never ends early."""
    continue_scale: float = 5.0
    """Weight of that loss (code; not in the paper's table)."""
    reward_transform: RewardTransform | None = None
    """None: tanh on Atari, none elsewhere. symlog is DreamerV3's."""

    # Behaviour

    horizon: int = 15
    """Imagined steps."""
    discount: float = 0.995
    """Table D.1; the paper's section 2.1 and the code have 0.999."""
    lam: float = 0.95
    """Lambda of the lambda-returns."""
    actor_gradient: ActorGradient | None = None
    """None: reinforce where actions are discrete, dynamics where they are not."""
    actor_mix: float = 0.1
    """Share of dynamics in `both`."""
    actor_mix_end: float | None = None
    """What that share changes to, linearly, within schedule_steps (the first release, on Atari: 0)."""
    entropy_scale: float = 1e-3
    entropy_scale_end: float | None = None
    """The same of the entropy's weight (the first release: from 3e-3 to 3e-4)."""
    schedule_steps: int = 2_500_000
    """Agent steps within which the two change."""
    advantage: Advantage = "next"
    """same: as the paper's equation pairs actions and returns; next: as the code does."""
    slow_every: int = 100
    """Updates between copies of the critic."""
    actor_delay: int = 0
    """Updates of the world model before actor and critic begin to learn (0: the paper)."""

    # Training

    batch: int = 50
    """Chunks in a training batch (code: 16)."""
    length: int = 50
    """Rows of a training chunk."""
    prioritize_ends: bool = True
    """Take the last rows of an episode more often (Atari)."""
    train_every: int = 4
    """Agent steps for one update (paper's table; the code takes 16, and perhaps the paper's runs did)."""
    pretrain: int = 0
    """Updates before the first of these."""
    model_lr: float = 2e-4
    actor_lr: float = 4e-5
    value_lr: float = 1e-4
    adam_eps: float = 1e-5
    """TensorFlow means something else by it in the first thousand updates."""
    weight_decay: float = 1e-6
    """What every update takes off every weight, whatever the learning rate."""
    clip: float = 100.0
    """Largest gradient norm, of each of the three."""

    @property
    def predicts_continue(self) -> bool:
        return family(self.env) != "dmc" if self.use_continue is None else self.use_continue

    @property
    def reward_target(self) -> RewardTransform:
        return self.reward_transform or ("tanh" if family(self.env) == "atari" else "none")

    @property
    def repeat(self) -> int:
        """Environment frames of an agent step."""
        return self.action_repeat or usual_repeat(self.env)

    def env_options(self) -> dict:
        atari = {"grayscale": self.grayscale, "full_actions": self.full_actions}
        return super().env_options() | (atari if family(self.env) == "atari" else {})


PAPER_ATARI = Config()

PRESETS = {
    # Learns TinyCatch in minutes on two cores: the same modules, small.
    "tiny": Config(
        env="TinyCatch-v0",
        steps=12_000,
        num_envs=8,
        prefill=1_000,
        eval_every=2_000,
        eval_episodes=50,
        log_every=500,
        stoch=8,
        classes=16,
        deter=128,
        hidden=64,
        depth=8,
        units=64,
        layers=2,
        kl_scale=0.3,
        horizon=10,
        discount=0.95,
        batch=16,
        length=12,
        prioritize_ends=False,
        train_every=8,
        model_lr=2e-3,
        actor_lr=1e-3,
        value_lr=1e-3,
    ),
    # A third of the paper's networks and a sixth of its batch, for a laptop; with so few updates they may be larger.
    "small": Config(
        steps=2_000_000,
        prefill=20_000,
        replay_capacity=500_000,
        eval_every=50_000,
        eval_episodes=1,
        log_every=2_000,
        deter=200,
        hidden=200,
        depth=24,
        units=200,
        full_actions=False,
        batch=16,
        length=32,
        train_every=16,
        model_lr=3e-4,
        actor_lr=8e-5,
        value_lr=2e-4,
    ),
    "paper": PAPER_ATARI,
    "paper_atari": PAPER_ATARI,
    "repo_atari": replace(PAPER_ATARI, full_actions=False, discount=0.999, batch=16, train_every=16, pretrain=1),
    "repo_dmc": Config(
        env="dmc_walker_walk",
        steps=2_000_000,
        grayscale=False,
        prefill=2_000,
        eval_every=20_000,
        deter=200,
        hidden=200,
        kl_scale=1.0,
        free_nats=1.0,
        use_continue=False,
        reward_transform="none",
        discount=0.99,
        actor_gradient="dynamics",
        entropy_scale=1e-4,
        batch=16,
        prioritize_ends=False,
        train_every=5,
        pretrain=100,
        model_lr=3e-4,
        actor_lr=8e-5,
        value_lr=8e-5,
    ),
}
