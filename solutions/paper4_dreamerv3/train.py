"""Train DreamerV3: python train.py --env minecraft_navigate --steps 10000000"""

from common import runner
from solutions.paper4_dreamerv3.agent import DreamerV3Agent
from solutions.paper4_dreamerv3.config import PAPER, PRESETS, RUNS


def main(argv: list[str] | None = None) -> None:
    runner.main(DreamerV3Agent, PRESETS, PAPER, RUNS, argv)


if __name__ == "__main__":
    main()
