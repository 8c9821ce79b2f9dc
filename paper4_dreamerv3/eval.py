"""Evaluate a trained agent: python eval.py --checkpoint model.pt --episodes 10 --render"""

from common import evaluate
from paper4_dreamerv3.agent import DreamerV3Agent
from paper4_dreamerv3.config import PAPER, RUNS, Config

AGENT = DreamerV3Agent, Config, PAPER, RUNS

if __name__ == "__main__":
    evaluate.main(*AGENT)
