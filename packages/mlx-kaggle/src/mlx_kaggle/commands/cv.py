"""`mlx-kaggle cv` and `mlx-kaggle baseline`: scores on held-out folds, without a run to keep."""

import json
import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import click

from mlx_kaggle.commands.options import AS_JSON, DRY_RUN, setting_sources
from mlx_kaggle.commands.train import has_target
from mlx_kaggle.settings.config import RunConfig, resolve_config
from mlx_trainer.command_line import SettingsCommand, settings_options

# What a table gives without a network and in seconds; the constant and scikit-learn's
# HistGradientBoosting as it is are in every run.
SIMPLE = ("linear", "trees")


REPEATS = click.option("--repeats", type=click.IntRange(1), default=1, show_default=True,
                       help="Cross-validations with other folds, --seed and up.")  # fmt: skip


@click.command(cls=SettingsCommand)
@setting_sources
@REPEATS
@DRY_RUN
@AS_JSON
@settings_options(RunConfig)
def cv(
    flags: dict[str, object],
    preset: str | None,
    config: str | None,
    overrides: tuple[str, ...],
    repeats: int,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Cross-validate as train does, and keep nothing but the printed scores."""
    if "data.train" not in flags:
        raise click.UsageError("Missing option '--train'.")
    from mlx_kaggle.settings.default_preset import choose_preset

    preset, flags = choose_preset(preset, config, flags, overrides)
    _score(resolve_config(preset, config, flags, overrides), repeats, dry_run, as_json)


@click.command(cls=SettingsCommand)
@setting_sources
@REPEATS
@DRY_RUN
@AS_JSON
@settings_options(RunConfig)
def baseline(
    flags: dict[str, object],
    preset: str | None,
    config: str | None,
    overrides: tuple[str, ...],
    repeats: int,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Score simple models in seconds: a constant, a linear model and gradient boosting.

    On the folds of train, from the columns as they are. --members and --set add to it.
    """
    if "data.train" not in flags:
        raise click.UsageError("Missing option '--train'.")
    flags = {"members": SIMPLE, "blend.generate": "none", **flags}
    _score(resolve_config(preset, config, flags, overrides), repeats, dry_run, as_json)


def _score(settings: RunConfig, repeats: int, dry_run: bool, as_json: bool) -> None:
    if not has_target(settings.data):
        raise click.UsageError("Missing option '--target'.")
    if dry_run:
        from mlx_kaggle.dry_run import plan_run, show_plan

        would, values = plan_run(settings, None, False, as_json, repeats)
        show_plan(would, as_json, **values)
        return
    from mlx_kaggle.prediction.blended import Results, summary
    from mlx_kaggle.runs.folder import create_run, train_run

    found: list[Results] = []
    for number in range(repeats):
        seeded = replace(settings, seed=settings.seed + number)
        with tempfile.TemporaryDirectory() as folder:
            make_run = partial(create_run, Path(folder) / "run", seeded, False)
            quiet = as_json and repeats > 1  # one document, at the end
            results = train_run(seeded, make_run, as_json=as_json, is_kept=False, is_quiet=quiet)
            found.append(results)
    if repeats == 1:
        return
    scores = _repeated(found)
    if as_json:
        summaries = [summary(each) for each in found]
        click.echo(json.dumps({"repeats": repeats, "scores": scores, "runs": summaries}))
        return
    click.echo(f"\n{found[0].job.competition.metric}, {repeats} cross-validations:")
    for name, values in scores.items():
        click.echo(f"{name:<24} {values['mean']:.4f} +- {values['standard_error']:.4f}")


def _repeated(found: list[Any]) -> dict[str, dict[str, float]]:
    """Return mean and standard error over the cross-validations, of every line of scores."""
    import numpy as np

    metric, scores = found[0].job.competition.metric, {}
    for name in found[0].scores:
        values = [each.scores[name][metric] for each in found if name in each.scores]
        error = np.std(values, ddof=1) / len(values) ** 0.5 if len(values) > 1 else 0.0
        scores[name] = {"mean": float(np.mean(values)), "standard_error": float(error)}
    return scores
