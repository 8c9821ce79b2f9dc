"""Evaluate a trained agent: python eval.py --checkpoint model.pt --episodes 10 --render"""

from common import evaluate
from paper2_dreamerv1.agent import DreamerV1Agent
from paper2_dreamerv1.config import PAPER, RUNS, Config

AGENT = DreamerV1Agent, Config, PAPER, RUNS

if __name__ == "__main__":
    evaluate.main(*AGENT)
