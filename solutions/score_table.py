"""The table of the README that holds the papers' own scores against this code's.

What a paper reported stands here, with its budget in environment frames and its source; what this code reached is read
from solutions/results.
"""

import json
from pathlib import Path

import numpy as np

RESULTS = Path(__file__).parent / "results"
PAPERS = {
    "paper1_world_models": "World Models",
    "paper2_dreamerv1": "DreamerV1",
    "paper3_dreamerv2": "DreamerV2",
    "paper4_dreamerv3": "DreamerV3",
    "paper5_iris": "IRIS",
}
ENVIRONMENTS = {  # as results name them -> as the table does
    "CarRacing-v3": "CarRacing",
    "dmc_walker_walk": "DMC walker_walk, pixels",
    "atari_pong": "Atari Pong",
    "atari_breakout": "Atari Breakout",
}
NOT_REPORTED = "not reported"
REPORTED = {
    "CarRacing-v3": {
        "paper1_world_models": "906 ± 21 over 100 episodes of CarRacing-v0 (table 1); "
        "the official log reached 900 after 1.84 billion frames",
        "paper5_iris": "has no continuous actions",
    },
    "dmc_walker_walk": {
        "paper1_world_models": NOT_REPORTED,
        "paper2_dreamerv1": "956 (940 to 971) at 1M, 886 at 500k (score files, 5 seeds)",
        "paper3_dreamerv2": "956 at 1M, 934 at 500k (score files, 5 seeds)",
        "paper4_dreamerv3": "960 (954 to 966) at 1M, 639 at 100k (score files)",
        "paper5_iris": "has no continuous actions",
    },
    "atari_pong": {
        "paper3_dreamerv2": "19.8 at 199M, 16.3 at 8M, -9.3 at 2M (score files, 11 runs)",
        "paper4_dreamerv3": "20.5 at 200M (6 seeds), -4 at 400k (score files)",
        "paper5_iris": "14.6 ± 4.8 at 400k (5 seeds x 100 episodes)",
    },
    "atari_breakout": {
        "paper3_dreamerv2": "484 at 199M, of the 5 of 11 runs that got there, 8 at 8M (score files)",
        "paper4_dreamerv3": "384 at 200M, 9.7 at 400k (score files)",
        "paper5_iris": "83.7 ± 12.9 at 400k (5 seeds x 100 episodes)",
    },
}  # fmt: skip


def reached(paper: str, env_id: str) -> str:
    """What this code reached, on how many frames."""
    path = RESULTS / paper / env_id / "result.json"
    if not path.exists():
        return "not run"
    seeds = json.loads(path.read_text())["seeds"]
    returns = np.concatenate([seed["evaluation_returns"] for seed in seeds])
    frames = np.mean([seed["frames"] for seed in seeds])
    link = f"solutions/results/{paper}/{env_id}"
    count = f"{len(seeds)} seed{'s' * (len(seeds) > 1)} x {len(returns) // len(seeds)} episodes"
    return f"[{returns.mean():.0f} ± {returns.std(ddof=1):.0f}]({link}) at {frames / 1e6:.1f}M ({count})"


def score_table() -> str:
    """Markdown: a row for each environment, a column for each paper; what it reported, and below it this code."""
    lines = ["| | " + " | ".join(PAPERS.values()) + " |", "|---" * (len(PAPERS) + 1) + "|"]
    for env_id, name in ENVIRONMENTS.items():
        cells = []
        for paper in PAPERS:
            told = REPORTED[env_id].get(paper, NOT_REPORTED)
            cells.append(told if told.startswith("has no") else f"{told}<br>here: {reached(paper, env_id)}")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)
