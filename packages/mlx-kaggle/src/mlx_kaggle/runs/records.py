"""What a run folder says about itself, for the list, the page and the comparison of runs."""

import math
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np

State = Literal["finished", "training", "unfinished", "damaged", "of another tool"]
PLAIN = "HistGradientBoosting"
_CONSTANTS = ("majority", "training mean", "seasonal naive")
FOLDERS = {PLAIN: "histgb", **dict.fromkeys(_CONSTANTS, "constant")}


@dataclass
class RunRecord:
    """One run folder: its state, and the scores and settings if they can be read."""

    path: Path
    name: str
    """Relative to the folder that was searched."""
    state: State = "damaged"
    problem: str = ""
    """Why it is not finished."""
    ensemble: bool = False
    config: dict[str, Any] = field(default_factory=dict)
    """Settings by dotted key."""
    when: float = 0.0
    """When it finished, or started; Unix seconds of the file."""
    competition: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    """As of `summary.json`: metric, score, fold_scores, scores, answer, members, notes, seconds."""
    blend: dict[str, Any] = field(default_factory=dict)
    """As of `blend.json`: method and weights."""
    table: str = ""
    """Checksum of the training table, and of the validation table if there is one."""
    folds: str = ""
    """Checksum of the scored rows and their folds: equal if the scores are of the same rows."""
    rows: int = 0
    """Scored rows."""
    histories: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    """By network, an entry for each epoch."""

    @property
    def finished(self) -> bool:
        """Whether it has scores that can be trusted."""
        return self.state == "finished"

    @property
    def metric(self) -> str:
        """Metric of the score."""
        return self.summary["metric"]

    @property
    def greater_is_better(self) -> bool:
        """Whether a greater score is better."""
        return self.summary["greater_is_better"]

    @property
    def score(self) -> float:
        """Score of the run, NaN if it is not defined."""
        return _number(self.summary["score"])

    @property
    def fold_scores(self) -> list[float]:
        """Scores of the folds."""
        return [_number(each) for each in self.summary["fold_scores"]]

    @property
    def standard_error(self) -> float:
        """Standard error of the mean over the folds, NaN without folds."""
        return standard_error(self.fold_scores)

    @property
    def plain_score(self) -> float:
        """Score of HistGradientBoosting as it is, on the same folds; NaN if it was not trained."""
        return _number(self.summary["scores"].get(PLAIN, {}).get(self.metric))

    @property
    def member_scores(self) -> dict[str, float]:
        """Scores of the members without the baselines, the best first."""
        sign = -1 if self.greater_is_better else 1
        members = {
            name: _number(each["score"])
            for name, each in self.summary["members"].items()
            if name.rpartition("/")[2] not in FOLDERS
        }
        return dict(sorted(members.items(), key=lambda each: _sort_key(sign * each[1])))

    @property
    def answer(self) -> str:
        """The method of the blend with the number of members, or the member that predicts."""
        weights = {name: each for name, each in self.blend["weights"].items() if each}
        if len(weights) == 1:
            return next(iter(weights))
        return f"{self.blend['method']} of {len(weights)}"

    @property
    def data(self) -> str:
        """The target and the training table in a few words."""
        path = Path(self.config.get("data.train") or "?")
        table = f"{path.parent.name}/{path.name}" if path.parent.name else path.name
        targets = self.competition.get("targets") or [self.config.get("data.target") or "?"]
        if forecast := self.competition.get("forecast"):
            return f"{self.config['data.target']} of {table}, next {forecast['horizon']} steps"
        more = f" and {len(targets) - 2} more" if len(targets) > 3 else ""
        return f"{', '.join(targets[: 2 if more else 3])}{more} of {table}"

    @property
    def question(self) -> tuple[object, ...]:
        """What was asked: only runs with the same question are ranked together."""
        asked = self.competition
        horizon = (asked.get("forecast") or {}).get("horizon")
        return (self.table, tuple(asked["targets"]), asked["task"], horizon, self.metric)

    def rank(self) -> tuple[bool, float, str]:
        """A sort key among runs of the same question: the best score first, NaN last."""
        sign = -1 if self.greater_is_better else 1
        return (*_sort_key(sign * self.score), self.name)

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON form for `runs list`."""
        found: dict[str, Any] = {
            "name": self.name,
            "path": str(self.path),
            "state": self.state,
            "ensemble": self.ensemble,
            "when": datetime.fromtimestamp(self.when).astimezone().isoformat(timespec="seconds"),
        }
        if self.problem:
            found["problem"] = self.problem
        if not self.finished:
            return found
        best, score = next(iter(self.member_scores.items()), (None, math.nan))
        return found | {
            "data": self.data,
            "metric": self.metric,
            "greater_is_better": self.greater_is_better,
            "score": _json_number(self.score),
            "standard_error": _json_number(self.standard_error),
            "fold_scores": [_json_number(each) for each in self.fold_scores],
            "rows": self.rows,
            "best_member": {"name": best, "score": _json_number(score)},
            "hist_gradient_boosting": _json_number(self.plain_score),
            "answer": self.answer,
            "seconds": self.summary["seconds"],
        }


def standard_error(values: list[float]) -> float:
    """Return the standard error of the mean, NaN for fewer than two values."""
    return float(np.std(values, ddof=1) / len(values) ** 0.5) if len(values) > 1 else math.nan


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)


def _json_number(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _sort_key(value: float) -> tuple[bool, float]:
    return (math.isnan(value), value)
