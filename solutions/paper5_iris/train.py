"""Train IRIS: python train.py --env atari_breakout --steps 1000000"""

from common import runner
from solutions.paper5_iris.agent import IRISAgent
from solutions.paper5_iris.config import PAPER, PRESETS, RUNS


def main(argv: list[str] | None = None) -> None:
    runner.main(IRISAgent, PRESETS, PAPER, RUNS, argv)


if __name__ == "__main__":
    main()
