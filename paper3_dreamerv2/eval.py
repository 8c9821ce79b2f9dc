"""Evaluate a trained agent: python eval.py --checkpoint model.pt --episodes 10 --render"""

from common import evaluate
from paper3_dreamerv2.agent import DreamerV2Agent
from paper3_dreamerv2.config import PAPER, RUNS, Config

AGENT = DreamerV2Agent, Config, PAPER, RUNS

if __name__ == "__main__":
    evaluate.main(*AGENT)
