"""Train DreamerV2: python train.py --env atari_pong --steps 2000000"""

from common import runner
from solutions.paper3_dreamerv2.agent import DreamerV2Agent
from solutions.paper3_dreamerv2.config import PAPER, PRESETS, RUNS


def main(argv: list[str] | None = None) -> None:
    runner.main(DreamerV2Agent, PRESETS, PAPER, RUNS, argv)


if __name__ == "__main__":
    main()
