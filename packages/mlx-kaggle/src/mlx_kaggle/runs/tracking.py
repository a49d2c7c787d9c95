"""Mirror a run to MLflow, Weights & Biases or trackio; the run folder stays the source.

A mirror reads the events of a training, or the same events in `metrics.jsonl` afterwards, and at
the end the files of the run. `tracking.json` in the run folder has what was sent where, so that a
resumed run, or a second `runs mirror`, sends nothing twice. A tracker that fails does not end a
run: it is switched off, with one line on what is missing there.
"""

import contextlib
import json
import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlx_trainer import ConfigError, did_you_mean, write_atomic

if TYPE_CHECKING:  # `--help` needs the names only
    from mlx_kaggle.runs.records import RunRecord
    from mlx_kaggle.runs.trackers import Tracker

NAMES = ("mlflow", "wandb", "trackio")
TRACKING = "tracking.json"
# What `submit` adds to a run.
SUBMISSIONS = "submissions.jsonl"
# In an event beside the values of an epoch.
_ABOUT = ("event", "member", "updates", "epoch", "time")


def tracker_names(text: str) -> tuple[str, ...]:
    """Parse "mlflow,wandb"."""
    return tuple(dict.fromkeys(name.strip() for name in text.split(",")))


def check_tracker_names(names: Sequence[str]) -> None:
    """Refuse an unknown name of a tracker with `ValueError`."""
    for name in names:
        if name not in NAMES:
            raise ValueError(f"report_to unknown name {name!r}{did_you_mean(name, NAMES)}")


def check_installed(names: Sequence[str]) -> None:
    """Raise `ConfigError` for a tracker whose library is not installed."""
    for name in names:
        if find_spec(name) is None:
            raise ConfigError(
                f"report_to: {name} is not installed: pip install 'mlx-kaggle[{name}]'"
            )


class Mirror:
    """Sends the events and the outcome of a run to trackers, and closes them at the end."""

    def __init__(self, path: Path, names: Sequence[str], warn: Callable[[str], None]):
        self.path, self._warn = path, warn
        self._waiting = list(names)
        self._trackers: dict[str, Tracker] = {}
        self.failed: list[str] = []
        """The trackers that failed."""
        self._sent: dict[str, dict[str, Any]] = {}
        if names and (path / TRACKING).is_file():
            self._sent = json.loads((path / TRACKING).read_text("utf-8"))

    def __enter__(self) -> "Mirror":
        return self

    def __exit__(self, *error: object) -> None:
        for name in [*self._trackers]:
            self._guard(name, "the end", self._trackers.pop(name).close)

    def report(self, event: Mapping[str, Any]) -> None:
        """Send the values of an epoch of a network; all other events send nothing.

        The first event starts the trackers: the competition is known by then.
        """
        self._start()
        if event["event"] != "evaluation":
            return
        network, epoch = event["member"], event["epoch"]
        values = {
            f"{network}/{key}": value for key, value in event.items()
            if key not in _ABOUT and value is not None and math.isfinite(value)
        }  # fmt: skip
        for name in [*self._trackers]:
            if epoch > self._sent[name]["epochs"].get(network, -1):
                when = event.get("time") or time.time()
                send = _call(self._trackers[name].log, values, epoch, when)
                self._guard(name, f"epoch {epoch} of {network}", send)
                if name in self._trackers:
                    self._sent[name]["epochs"][network] = epoch
                    self._save()

    def finish(self) -> None:
        """Send the outcome of the finished run, once."""
        from mlx_kaggle.runs.reading import finished_run
        from mlx_kaggle.runs.trackers import final_metrics

        self._start()
        if not self._trackers:
            return
        record = finished_run(self.path)
        for name in [*self._trackers]:
            send = _call(self._trackers[name].finish, record, final_metrics(record))
            self._guard(name, "the outcome", send)
            if self._trackers.pop(name, None):
                self._sent[name]["finished"] = True
                self._save()

    def _start(self) -> None:
        from mlx_kaggle.runs.reading import read_record

        if self._waiting:
            record = read_record(self.path)
            for name in self._waiting:
                self._guard(name, "everything", _call(self._open, name, record))
            self._waiting = []

    def _open(self, name: str, record: "RunRecord") -> None:
        from mlx_kaggle.runs.trackers import TRACKERS

        tracker, known = TRACKERS[name], self._sent.get(name, {})
        to = tracker.destination(record)
        if known.get("to") != to or not tracker.knows(record, known["id"]):
            known = {}
        if known.get("finished"):
            return
        self._trackers[name] = tracker(record, known.get("id"))
        id = self._trackers[name].id
        self._sent[name] = {"to": to, "epochs": {}, "finished": False, **known, "id": id}
        self._save()

    def _guard(self, name: str, what: str, action: Callable[[], None]) -> None:
        """Call a tracker, whose lines belong to standard error; a failure ends its mirror."""
        try:
            with contextlib.redirect_stdout(sys.stderr):
                action()
        except Exception as error:  # a tracker must not end a run after hours of training
            self._trackers.pop(name, None)
            self.failed.append(name)
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
            self._warn(
                f"{name} failed ({reason}): {what} and the rest is not mirrored; the run folder "
                f"has it, to send later: mlx-kaggle runs mirror {self.path} --to {name}"
            )

    def _save(self) -> None:
        text = json.dumps(self._sent, indent=1) + "\n"
        write_atomic(self.path / TRACKING, lambda path: path.write_text(text, "utf-8"))

    def sent_to(self, name: str) -> str:
        """Return where a tracker keeps the run, and its id there."""
        return f"{self._sent[name]['to']}, run {self._sent[name]['id']}"


def mirror_run(record: "RunRecord", names: Sequence[str], warn: Callable[[str], None]) -> Mirror:
    """Send a finished run to trackers, what was not sent yet; lock it meanwhile."""
    from mlx_trainer import FolderLock, RunFolder

    with FolderLock(record.path), Mirror(record.path, names, warn) as mirror:
        for entry in RunFolder(record.path).metrics():
            mirror.report(entry)
        mirror.finish()
    return mirror


def plan_mirror(path: Path, names: Sequence[str]) -> list[str]:
    """Say what `mirror_run` would send of a run; the trackers are not asked what they have."""
    from mlx_trainer import RunFolder

    file = path / TRACKING
    sent = json.loads(file.read_text("utf-8")) if file.is_file() else {}
    epochs = [each for each in RunFolder(path).metrics() if each.get("event") == "evaluation"]
    lines = []
    for name in names:
        known = sent.get(name, {"epochs": {}, "finished": False})
        new = [each for each in epochs if each["epoch"] > known["epochs"].get(each["member"], -1)]
        what = f"{len(new)} epochs of networks, scores and files of {path} to {name}"
        lines.append(f"send {path} to {name} only if it is not at {known['to']} any more"
                     if known["finished"] else f"send {what}")  # fmt: skip
    return lines


def _call(function: Callable[..., Any], *arguments: Any) -> Callable[[], None]:
    return lambda: function(*arguments)
