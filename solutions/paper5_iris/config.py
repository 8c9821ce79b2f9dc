"""Every number of the paper, and where it comes from: its tables, and the authors' code (eloialonso/iris, "code")."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from common.env_wrapper import family, usual_repeat
from common.runner import RunnerConfig

PAPER = "paper5_iris"
RUNS = Path(__file__).parent / "runs"


@dataclass
class Config(RunnerConfig):
    """IRIS. The defaults are the paper's, for Atari 100k."""

    may_change: ClassVar = (*RunnerConfig.may_change, "lpips_weights")
    least: ClassVar = RunnerConfig.least | {
        "prefill": 0,
        "tokenizer_after": 0,
        "world_model_after": 0,
        "actor_critic_after": 0,
        "last_epochs": 0,
        "frames": 2,
        "horizon": 2,
    }

    env: str = "atari_breakout"
    steps: int = 400_000
    """Environment frames to play (paper: 100,000 choices of an action). More cannot be held against Atari 100k."""
    sticky: float = 0.0
    """Atari: probability at each frame that the last action goes on."""
    life_loss: bool = True
    """Atari: a lost life ends an episode of training (of an evaluation never)."""
    prefill: int = 0
    """Environment frames of random actions before the policy plays (the untrained one is random enough)."""
    replay_capacity: int = 1_000_000
    """Rows; the oldest are dropped (paper: none ever is). All are in main memory, and in the run folder: 12 KB each."""
    eval_every: int = 4_000
    """Environment frames between evaluations (code: every 5 epochs)."""
    eval_episodes: int = 16
    """Episodes of an evaluation, the same ones each time (paper: 100 when all is done)."""

    # Tokenizer

    codes: int = 512
    """Words of the language."""
    embed: int = 512
    """Size of a word's vector."""
    channels: int = 64
    """Channels of all convolutions."""
    levels: int = 5
    """Levels of the pyramid: the picture is halved between them, 64 x 64 to 4 x 4, a token for each place."""
    attention: tuple[int, ...] = (8, 16)
    """Heights at which places look at each other."""
    z: int = 512
    """Channels that the encoder ends in."""
    beta: float = 1.0
    """Weight of the commitment (VQ-VAE: 0.25)."""
    recon: Literal["absolute", "squared"] = "absolute"
    """Error of the reconstruction. The absolute one is least at the median: of small things, that there are none."""
    perceptual: Literal["lpips", "none"] = "lpips"
    """lpips: the paper's, with weights of your own."""
    lpips_weights: str | None = None
    """File with the weights of VGG16 and of LPIPS; eval.py and visualize.py look for it in the same place."""

    # World model

    frames: int = 20
    """Frames of its memory, each with its tokens and an action."""
    width: int = 256
    layers: int = 10
    heads: int = 4
    dropout: float = 0.1

    # Actor and critic

    actor: Literal["cnn_lstm", "transformer"] = "cnn_lstm"
    """cnn_lstm: the paper's, on reconstructed pictures. transformer: on the tokens of the last frames."""
    actor_channels: tuple[int, ...] = (32, 32, 64, 64)
    """cnn_lstm: channels of its convolutions."""
    actor_hidden: int = 512
    """cnn_lstm: units of the LSTM."""
    actor_frames: int = 4
    """transformer: frames that it looks at. Not in the paper, like the next three."""
    actor_width: int = 128
    actor_layers: int = 2
    actor_heads: int = 4
    burn_in: int = 20
    """Real frames that it is shown before a dream."""
    horizon: int = 20
    """Imagined steps."""
    discount: float = 0.995
    lam: float = 0.95
    """Lambda of the lambda-returns."""
    entropy_scale: float = 1e-3
    epsilon: float = 0.01
    """Share of random actions where it explores."""
    temperature: float = 1.0
    """The policy's logits are divided by it where it explores."""
    eval_temperature: float = 0.5
    """The same in an evaluation."""

    # Training

    epoch_steps: int = 200
    """Agent steps of an epoch. After them each component that is due makes its updates."""
    last_epochs: int = 100
    """Epochs of updates alone, when all is played."""
    tokenizer_updates: int = 200
    """Updates of an epoch."""
    world_model_updates: int = 200
    actor_critic_updates: int = 200
    tokenizer_after: int = 5
    """Epochs before it begins to learn."""
    tokenizer_until: int | None = None
    """The last epoch in which it learns: from then on the language stands still (paper: it never does)."""
    world_model_after: int = 25
    actor_critic_after: int = 50
    tokenizer_batch: int = 256
    """Frames."""
    world_model_batch: int = 64
    """Segments of `frames` frames."""
    actor_critic_batch: int = 64
    """Dreams."""
    tokenizer_lr: float = 1e-4
    world_model_lr: float = 1e-4
    actor_critic_lr: float = 1e-4
    weight_decay: float = 0.01
    """Of the world model's linear layers."""
    clip: float = 10.0
    """Largest gradient norm, of each of the three."""

    @property
    def repeat(self) -> int:
        """Environment frames of an agent step."""
        return self.action_repeat or usual_repeat(self.env)

    def env_options(self) -> dict:
        atari = {"sticky": self.sticky, "life_loss": self.life_loss, "time_limit": 20_000}
        return super().env_options() | (atari if family(self.env) == "atari" else {})

    def eval_options(self) -> dict:
        atari = {"life_loss": False, "time_limit": 108_000, "noop_max": 1}
        return self.env_options() | (atari if family(self.env) == "atari" else {})


PRESETS = {
    # Learns TinyCatch in minutes on two cores: the same modules, small. Its departures: the guide, "Training".
    "tiny": Config(
        env="TinyCatch-v0",
        steps=24_000,
        threads=1,
        num_envs=8,
        image_size=16,
        action_repeat=2,
        eval_every=2_400,
        eval_episodes=50,
        log_every=800,
        replay_capacity=100_000,
        codes=16,
        embed=32,
        channels=16,
        levels=3,
        attention=(4,),
        z=32,
        beta=0.05,
        recon="squared",
        perceptual="none",
        frames=4,
        width=64,
        layers=2,
        dropout=0.0,
        actor="transformer",
        actor_channels=(16, 32),
        actor_hidden=64,
        actor_frames=2,
        actor_width=64,
        burn_in=2,
        horizon=5,
        discount=0.95,
        entropy_scale=0.02,
        epoch_steps=400,
        last_epochs=0,
        tokenizer_updates=60,
        world_model_updates=120,
        actor_critic_updates=45,
        tokenizer_after=2,
        tokenizer_until=13,
        world_model_after=13,
        actor_critic_after=21,
        tokenizer_batch=64,
        world_model_batch=48,
        actor_critic_batch=128,
        tokenizer_lr=1e-3,
        world_model_lr=2e-3,
        actor_critic_lr=1e-3,
    ),
    # A fifth of the paper's networks and a quarter of its updates, for a laptop.
    "small": Config(
        steps=400_000,
        num_envs=1,
        codes=256,
        embed=64,
        channels=16,
        attention=(8,),
        z=64,
        perceptual="none",
        frames=10,
        width=128,
        layers=4,
        burn_in=10,
        horizon=10,
        tokenizer_updates=50,
        world_model_updates=50,
        actor_critic_updates=20,
        tokenizer_batch=32,
        world_model_batch=16,
        actor_critic_batch=16,
        last_epochs=0,
        tokenizer_lr=2e-4,
        world_model_lr=2e-4,
        actor_critic_lr=2e-4,
        eval_every=40_000,
        eval_episodes=4,
        log_every=800,
    ),
    "paper": Config(),
}
