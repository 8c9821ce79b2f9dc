"""Evaluate a trained agent: python eval.py --checkpoint model.pt --episodes 10 --render"""

from common import evaluate
from solutions.paper5_iris.agent import IRISAgent
from solutions.paper5_iris.config import PAPER, RUNS, Config

AGENT = IRISAgent, Config, PAPER, RUNS

if __name__ == "__main__":
    evaluate.main(*AGENT)
