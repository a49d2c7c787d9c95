"""Adversarial training and R-Drop of mlx-kaggle beside training without them, on the same rows.

    python benchmarks/kaggle_adversarial.py TRAIN.csv TARGET [--seeds 3] [--set KEY=VALUE ...]

Prints a table of scores of the held-out rows (20 %), means over the seeds of the weights; all
variants of a seed start from the same weights. Only the network is scored, with the linear model
that it starts from, before calibration. `--set` changes the quick preset.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np

from mlx_kaggle.machine import prepare_machine
from mlx_kaggle.members.text import Experiment, predict_member
from mlx_kaggle.settings.config import resolve_config
from mlx_kaggle.tables.files import take
from mlx_kaggle.tables.targets import Target
from mlx_kaggle.training.job import prepare_job

VARIANTS = {
    "none": [],
    "FGM": ["training.adversarial=fgm"],
    "AWP": ["training.adversarial=awp"],
    "R-Drop": ["loss.r_drop=0.5"],
}
METRICS = ("accuracy", "f1_macro", "log_loss")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("train")
    parser.add_argument("target")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--set", dest="overrides", action="append", default=[])
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=list(VARIANTS))
    options = parser.parse_args()
    print(prepare_machine())
    flags = {"data.train": options.train, "data.target": options.target}
    job = prepare_job(
        resolve_config("quick", flags=flags, overrides=["folds=0", *options.overrides])
    )
    train_rows, val_rows = job.splits[0]
    train, val = take(job.table, train_rows), take(job.table, val_rows)
    target, scores = Target(job.competition), {}
    for seed in range(options.seeds):
        for name in options.variants:
            overrides = [*options.overrides, *VARIANTS[name]]
            config = resolve_config("quick", flags=flags, overrides=overrides)
            experiment = Experiment.prepare(config, job.competition, train, seed)
            started = time.perf_counter()
            with tempfile.TemporaryDirectory() as folder:
                experiment.train_model(None, Path(folder) / "checkpoints", lambda _: None, False)
            seconds = time.perf_counter() - started
            prediction = predict_member(
                experiment.member, job.competition, val, config, tta=config.text.tta
            )
            found = [target.score(job.encoded[val_rows], prediction, metric) for metric in METRICS]
            scores.setdefault(name, []).append([*found, seconds])
            print(
                f"seed {seed} {name}: {[round(each, 4) for each in scores[name][-1]]}", flush=True
            )
    print(f"\n{len(train_rows)} rows trained, {len(val_rows)} scored, {options.seeds} seeds\n")
    print(f"| | {' | '.join(METRICS)} | seconds |\n|---|{'---:|' * (len(METRICS) + 1)}")
    for name, rows in scores.items():
        *means, seconds = np.mean(rows, 0)
        print(f"| {name} | {' | '.join(f'{mean:.4f}' for mean in means)} | {seconds:.0f} |")


if __name__ == "__main__":
    main()
