"""What an export of a run contains, and what it leaves out: nothing is left out in silence."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mlx_kaggle import RunError
from mlx_kaggle.blend import describe
from mlx_kaggle.members.catalog import CONSTANT, KINDS, PLAIN, TEXT, label_of
from mlx_kaggle.prediction.decision import Decision
from mlx_kaggle.prediction.ensemble import open_run
from mlx_kaggle.prediction.finished import FinishedRun
from mlx_kaggle.training.job import text_models
from mlx_trainer import did_you_mean

ALL = "all"


@dataclass(frozen=True)
class Plan:
    """The networks to export, and the decision that belongs to them."""

    run: FinishedRun
    networks: tuple[str, ...]
    """Names of member folders."""
    decision: Decision
    weight: float
    """Of the member `text` in the answer of the run."""
    others: tuple[str, ...]
    """The other members of the answer."""
    total: int
    """Networks of the run."""

    def lines(self) -> list[str]:
        """Return what is exported and what is not, one line each."""
        chosen = f"{len(self.networks)} of {self.total} networks"
        if len(self.networks) < self.total:
            chosen += f" ({', '.join(self.networks)}); the member text is the mean of all"
        lines = [f"exported: text, {chosen}"]
        if not self.others:
            return [*lines, "the answer of the run is text alone, as exported"]
        answer = describe(self.run.blend)
        lines.append(
            f"not exported: {', '.join(self.others)}; only text can be. The answer of the run is "
            f"{answer}: the exported member has {self.weight:.0%} of the weight, and its answers "
            f"are not those of predict"
        )
        return [*lines, "calibration and thresholds: fitted to the member text alone, out of fold"]


def plan_export(folder: Path, member: str | None) -> Plan:
    """Open a run and choose its networks; raise `RunError` for what cannot be exported."""
    run = open_run(folder)
    if type(run) is not FinishedRun:
        raise RunError(
            f"{folder} is an ensemble, whose members are in other runs; export one of them"
        )
    if run.competition.forecast:
        raise RunError(
            f"{folder} is a forecast: its networks read windows that mlx-kaggle makes of the "
            f"history, and no format has that step; use mlx-kaggle predict"
        )
    summary = json.loads((folder / "summary.json").read_text("utf-8"))
    if TEXT not in summary["members"]:
        plain = {label_of(run.competition, name) for name in (CONSTANT, PLAIN)}
        trained = [name for name in summary["members"] if name not in plain]
        raise RunError(
            f"{folder} has no member text, the only one that can be exported; it has "
            f"{', '.join(trained) or 'none but baselines'}. Train it: --members text"
        )
    run.check_members([TEXT])
    names = [name for fold in run.folds for name, _ in text_models(run.config, fold)]
    weight = run.blend.weights.get(TEXT, 0.0)
    others = tuple(name for name in run.blend.members if name != TEXT)
    decision = run.decision if not others else _own_decision(run)
    return Plan(run, _chosen(names, member), decision, weight, others, len(names))


def _chosen(names: list[str], member: str | None) -> tuple[str, ...]:
    if member in (None, ALL):
        return tuple(names)
    if member in KINDS and member != TEXT:
        raise RunError(f"--member: {member} cannot be exported, only networks of text: all, or "
                       f"{', '.join(names)}")  # fmt: skip
    if member == TEXT:
        return tuple(names)
    if member not in names:
        raise RunError(f"--member: no network {member!r}{did_you_mean(str(member), names)}; there "
                       f"are: all, {', '.join(names)}")  # fmt: skip
    return (str(member),)


def _own_decision(run: FinishedRun) -> Decision:
    """Fit calibration and thresholds to the text's predictions of rows that it did not train on."""
    with np.load(run.folder / "out_of_fold.npz", allow_pickle=False) as arrays:
        truth, prediction = arrays["truth"], arrays[f"member {TEXT}"]
    coverage, settings = run.config.loss.coverage, run.config.decision
    return Decision.fit(run.competition, settings, truth, prediction, coverage)
