"""Look into a trained agent's world model: python visualize.py --checkpoint model.pt --num-dreams 5"""

from common import visualize
from paper1_world_models.agent import WorldModelsAgent
from paper1_world_models.config import PAPER, RUNS, Config

if __name__ == "__main__":
    visualize.main(WorldModelsAgent, Config, PAPER, RUNS)
