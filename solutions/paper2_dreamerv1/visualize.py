"""Look into a trained agent's world model: python visualize.py --checkpoint model.pt --num-dreams 5"""

from common import visualize
from solutions.paper2_dreamerv1.agent import DreamerV1Agent
from solutions.paper2_dreamerv1.config import PAPER, RUNS, Config

if __name__ == "__main__":
    visualize.main(DreamerV1Agent, Config, PAPER, RUNS)
