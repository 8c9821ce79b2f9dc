"""Every number of the paper, and where it comes from. "Code" is the authors' newest (danijar/dreamerv3), "2023" their
first version. One configuration serves all domains: only size and replay ratio vary."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from common.env_wrapper import family
from common.runner import RunnerConfig

PAPER = "paper4_dreamerv3"
RUNS = Path(__file__).parent / "runs"


@dataclass
class Config(RunnerConfig):
    """DreamerV3. The defaults are the paper's, at the size with 12 million parameters."""

    least: ClassVar = RunnerConfig.least | {
        "prefill": 0,
        "length": 2,
        "imag_last": 2,
        "horizon": 2,
        "warmup": 0,
        "actor_delay": 0,
        "bins": 3,
    }

    env: str = "dmc_walker_walk"
    steps: int = 1_000_000
    """Environment frames to play."""
    image_size: int = 64
    """Side of the square frames, a multiple of 16, or of what `mults` halves to 1 (code: 64, on Atari 96)."""
    grayscale: bool = False
    """Atari: frames in grey."""
    full_actions: bool = True
    """Atari: all 18 actions, whatever the game uses."""
    num_envs: int = 16
    prefill: int = 0
    """Environment frames of random actions first (2023: some; now the untrained actor is random enough)."""
    replay_capacity: int = 5_000_000
    """Rows; the oldest are dropped. All are in main memory, and in the run folder: 12 KB for an image of 64x64, 4 KB
    for the stored latents at size12m; 82 GB if there were so many."""
    eval_every: int = 10_000
    eval_episodes: int = 10
    """Episodes of an evaluation, the same ones each time (the paper has none: its scores are those of training)."""

    # Size (paper, table of model sizes; code)

    deter: int = 2048
    """Size of the deterministic state."""
    hidden: int = 256
    """Units of the RSSM's layers."""
    stoch: int = 32
    """Categorical variables."""
    classes: int = 16
    """Classes of each variable."""
    depth: int = 16
    """Channels of the convolutions, times `mults`."""
    mults: tuple[int, ...] = (2, 3, 4, 4)
    """One convolution for each, which halves the picture: 64 x 64 to 4 x 4."""
    strided: bool = False
    """Encode with convolutions in steps of two instead of pooling: a quarter of the work (code: an option)."""
    squash_image: bool = True
    """Decode images through a sigmoid (2023: no). Where there is little time to learn, dark pixels saturate it, and
    small bright things are drawn late."""
    units: int = 256
    """Units of all other layers."""
    blocks: int = 8
    """Blocks of the recurrence."""

    # World model

    unimix: float = 0.01
    """Share of chance in latents and discrete actions."""
    post_scale: float = 1.0
    """How much larger the posterior's last weights begin. At 1 its first samples are nearly pure chance, and the
    decoder learns to overlook them: where there is little time to learn, that costs most of it."""
    free_nats: float = 1.0
    dyn_scale: float = 1.0
    """Weight of the KL that moves the prior (2023: 0.5)."""
    rep_scale: float = 0.1
    """Weight of the KL that moves the posterior."""
    reward_head: Literal["twohot", "mse"] = "twohot"
    """mse: an ablation."""
    bins: int = 255
    bin_space: Literal["symexp", "symlog"] = "symexp"
    """Where the mean of the bins is taken (2023: symlog)."""
    recon_grad: bool = True
    """Whether the decoder's loss reaches the representation (False: an ablation)."""
    reward_grad: bool = True
    """The same for the reward's."""

    # Behaviour

    horizon: int = 15
    """Imagined steps."""
    imag_last: int | None = None
    """Rows at the end of each sequence that dreams start from; None: all of them (the paper)."""
    discount: float = 1 - 1 / 333
    lam: float = 0.95
    """Lambda of the lambda-returns."""
    entropy_scale: float = 3e-4
    return_norm: Literal["percentile", "none"] = "percentile"
    """What advantages are divided by (none: an ablation)."""
    first_cont: Literal["predicted", "data"] = "predicted"
    """Whether a dream starts at an end: as the model has it (code), or as it was (paper, 2023)."""
    value_scale: float = 1.0
    replay_value_scale: float = 0.3
    """Weight of the critic's loss on replayed rows (2023: 0)."""
    slow_scale: float = 1.0
    """Weight of the slow critic in the critic's loss."""
    slow_rate: float = 0.02
    actor_delay: int = 0
    """Updates of world model and critic before the actor begins to learn (0: the paper)."""

    # Training

    batch: int = 16
    """Sequences of a training batch."""
    length: int = 64
    """Rows of a sequence."""
    replay_ratio: float = 512.0
    """How often each row is trained on (paper: 32 on Atari, 512 on control from proprioception)."""
    reward_scale: float = 1.0
    """Factor of the rewards that are learned from; rewards, values and returns are logged as if there were none."""
    lr: float = 4e-5
    actor_lr: float | None = None
    """Of the actor, where it is another (2023: 3e-5 beside 1e-4)."""
    warmup: int = 1000
    """Updates in which the learning rate rises from 0."""
    agc: float = 0.3
    """Largest norm of a gradient, of that of its parameter."""
    compile: bool = False
    """torch.compile the losses of an update."""

    def env_options(self) -> dict:
        atari = {"grayscale": self.grayscale, "full_actions": self.full_actions}
        return super().env_options() | (atari if family(self.env) == "atari" else {})


def size(units: int, classes: int) -> dict[str, int]:
    """A row of the code's table of sizes."""
    return {"deter": 8 * units, "hidden": units, "units": units, "classes": classes, "depth": units // 16}


PRESETS = {
    # Learns TinyCatch and TinyReacher in minutes on two cores: the same modules, small.
    "tiny": Config(
        env="TinyCatch-v0",
        steps=18_000,
        num_envs=8,
        replay_capacity=500_000,
        eval_every=2_000,
        eval_episodes=50,
        log_every=500,
        image_size=32,
        deter=128,
        hidden=64,
        stoch=32,
        classes=8,
        depth=8,
        mults=(2, 3, 4),
        squash_image=False,
        post_scale=10.0,
        rep_scale=0.03,
        units=64,
        bins=63,
        horizon=10,
        imag_last=8,
        discount=0.95,
        actor_delay=400,
        entropy_scale=3e-4,
        batch=16,
        length=16,
        replay_ratio=32.0,
        lr=2e-3,
        actor_lr=3e-4,
        warmup=100,
    ),
    # The code's smallest size at a replay ratio that a laptop can keep up with.
    "small": Config(
        **size(64, classes=4),
        steps=500_000,
        num_envs=4,
        replay_capacity=500_000,
        eval_episodes=5,
        replay_ratio=64.0,
        lr=1e-4,
    ),
    "size1m": Config(**size(64, classes=4)),
    "size12m": Config(**size(256, classes=16)),
    "size25m": Config(**size(384, classes=24)),
    "size50m": Config(**size(512, classes=32)),
    "size100m": Config(**size(768, classes=48)),
    "size200m": Config(**size(1024, classes=64)),
    "paper": Config(
        **size(1024, classes=64), env="atari_pong", steps=200_000_000, eval_every=1_000_000, replay_ratio=32.0
    ),
}
