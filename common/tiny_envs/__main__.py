"""`python -m common.tiny_envs`: measure the scores of the random and the scripted policy."""

from common.tiny_envs import SCORES, measure_scores

if __name__ == "__main__":
    print(f"{'mean of 1000 episodes':22}{'random':>10}{'optimal':>10}")
    for env_id in SCORES:
        score = measure_scores(env_id)
        print(f"{env_id:22}{score.random:10.3f}{score.optimal:10.3f}", flush=True)
