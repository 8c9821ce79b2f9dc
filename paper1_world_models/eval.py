"""Evaluate a trained agent: python eval.py --checkpoint model.pt --episodes 10 --render"""

from common import evaluate
from paper1_world_models.agent import WorldModelsAgent
from paper1_world_models.config import PAPER, RUNS, Config

AGENT = WorldModelsAgent, Config, PAPER, RUNS

if __name__ == "__main__":
    evaluate.main(*AGENT)
