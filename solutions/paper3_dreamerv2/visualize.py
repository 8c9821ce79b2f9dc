"""Look into a trained agent's world model: python visualize.py --checkpoint model.pt --num-dreams 5"""

from common import visualize
from solutions.paper3_dreamerv2.agent import DreamerV2Agent
from solutions.paper3_dreamerv2.config import PAPER, RUNS, Config

if __name__ == "__main__":
    visualize.main(DreamerV2Agent, Config, PAPER, RUNS)
