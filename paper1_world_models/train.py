"""Train World Models: python train.py --env CarRacing-v3 --epochs 10"""

from common.config import parse_config
from common.errors import one_line_errors
from common.run_folder import open_run
from paper1_world_models.config import PRESETS, RUNS
from paper1_world_models.stages import train


@one_line_errors
def main(argv: list[str] | None = None) -> None:
    config = parse_config(PRESETS, RUNS, argv)
    train(config, open_run(config, RUNS))


if __name__ == "__main__":
    main()
