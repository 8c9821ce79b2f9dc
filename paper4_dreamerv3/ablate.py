"""Train the agent without one of its techniques, and compare: python ablate.py --ablate no-free-bits --seeds 0 1 2"""

from pathlib import Path

from common import ablate

TRAIN = Path(__file__).with_name("train.py")
ABLATIONS = {
    "no-free-bits": ("--free-nats", "0"),
    "no-unimix": ("--unimix", "0"),
    "mse-reward": ("--reward-head", "mse"),
    "no-return-norm": ("--return-norm", "none"),
    "no-replay-value": ("--replay-value-scale", "0"),
    "no-recon-grad": ("--no-recon-grad",),
    "no-reward-grad": ("--no-reward-grad",),
    "symlog-bins": ("--bin-space", "symlog"),  # 2023
    "data-cont": ("--first-cont", "data"),  # the paper, 2023
    "rewards-x100": ("--reward-scale", "100"),  # the agent should not mind; less than 1 it does (ReturnNorm)
    "rewards-x10000": ("--reward-scale", "10000"),
    "rewards-x0.01": ("--reward-scale", "0.01"),
    "no-post-scale": ("--post-scale", "1"),  # what the tiny preset has and the paper has not
}


def main(argv: list[str] | None = None) -> None:
    ablate.main(TRAIN, ABLATIONS, argv)


if __name__ == "__main__":
    main()
