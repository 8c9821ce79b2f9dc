"""Train the agent with a part of it changed, and compare: python ablate.py --ablate gaussian --seeds 0 1 2"""

from pathlib import Path

from common import ablate

TRAIN = Path(__file__).with_name("train.py")
ABLATIONS = {
    "gaussian": ("--latent", "gaussian", "--stoch", "32"),
    "no-kl-balance": ("--kl-balance", "None"),
    "free-nats": ("--free-nats", "3"),
    "no-clip": ("--clip", "1e9"),
}


def main(argv: list[str] | None = None) -> None:
    ablate.main(TRAIN, ABLATIONS, argv)


if __name__ == "__main__":
    main()
