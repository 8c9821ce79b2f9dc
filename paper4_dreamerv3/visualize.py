"""Look into a trained agent's world model: python visualize.py --checkpoint model.pt --num-dreams 5"""

from common import visualize
from paper4_dreamerv3.agent import DreamerV3Agent
from paper4_dreamerv3.config import PAPER, RUNS, Config

if __name__ == "__main__":
    visualize.main(DreamerV3Agent, Config, PAPER, RUNS)
