"""Train DreamerV1: python train.py --env dmc_walker_walk --steps 1000000"""

from common import runner
from paper2_dreamerv1.agent import DreamerV1Agent
from paper2_dreamerv1.config import PAPER, PRESETS, RUNS


def main(argv: list[str] | None = None) -> None:
    runner.main(DreamerV1Agent, PRESETS, PAPER, RUNS, argv)


if __name__ == "__main__":
    main()
