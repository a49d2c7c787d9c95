"""Submit to Kaggle: check the file here, upload it, wait for its score, and note it in the run."""

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlx_kaggle import DataError, RunError
from mlx_kaggle.kaggle_site.api import Kaggle, KaggleError
from mlx_kaggle.kaggle_site.competition_files import find_sample
from mlx_kaggle.runs.tracking import SUBMISSIONS
from mlx_kaggle.tables.competition import Format
from mlx_kaggle.tables.files import find_companion_files
from mlx_kaggle.tables.submission_check import check_submission
from mlx_tabtext import read_table
from mlx_trainer import ConfigError, write_atomic

if TYPE_CHECKING:
    from mlx_kaggle.prediction.finished import FinishedRun

Say = Callable[[str], None]


@dataclass(frozen=True)
class Checked:
    """A file that may be submitted."""

    file: Path
    line: str
    """What was checked."""
    message: str
    run: "FinishedRun | None" = None
    metric: str | None = None
    score: float | None = None
    """The cross-validated score of the run."""


def check_file(file: Path, sample: str, form: Format | None = None) -> str:
    """Check a file against a sample submission; return what was checked.

    Raises `SubmissionError` with all faults.
    """
    if Path(sample).samefile(file):
        raise DataError(f"{file}: is the sample submission itself")
    ids = form.ids if form else None
    tables = read_table(file), read_table(sample)
    return check_submission(*tables, str(file), sample, ids, form)


def check_before(
    competition: str,
    file: Path,
    message: str | None,
    folder: Path | None = None,
    sample: str | None = None,
    unchecked: bool = False,
) -> Checked:
    """Check a file before it is submitted, without Kaggle.

    The sample is the given one, that of the run, or one beside the file or in the folder that
    `download` made. Raises `ConfigError` if there is none, unless `unchecked`.
    """
    run = metric = score = None
    if folder:
        from mlx_kaggle.prediction.ensemble import open_run

        run = open_run(folder)
        summary = json.loads((run.folder / "summary.json").read_text("utf-8"))
        metric, score = summary["metric"], summary["score"]
    if not message:
        if run is None:
            raise ConfigError("Missing option '--message', which a run (--run) would also give.")
        message = f"{run.folder.resolve().name}: {metric} {score:.5g}, cross-validated"
    if unchecked:
        return Checked(file, "not checked (--unchecked)", message, run, metric, score)
    sample = sample or _sample_of(run) or find_sample(file.parent, file)
    sample = sample or find_sample(Path(competition))
    if sample is None:
        raise ConfigError(
            f"{file} cannot be checked, as no sample submission is known: give "
            f"--sample-submission FILE, or --unchecked to submit it as it is"
        )
    form = run.competition.submission if run else None
    form = form if form and list(form.columns) == list(read_table(sample)) else None
    line = f"checked: {check_file(file, sample, form)}"
    return Checked(file, line, message, run, metric, score)


def _sample_of(run: "FinishedRun | None") -> str | None:
    found = find_companion_files(run.config.data)["sample_submission"] if run else None
    return found if found and Path(found).is_file() else None


def submit(
    kaggle: Kaggle, competition: str, checked: Checked, wait: float, say: Say
) -> dict[str, Any]:
    """Upload a checked file, wait up to `wait` seconds for its score, and return the entry.

    With a run the entry is appended to its `submissions.jsonl`: at once, and again with the score.
    Raises `KaggleError` if Kaggle cannot score the file.
    """
    digest = hashlib.sha256(checked.file.read_bytes()).hexdigest()
    say(describe_limits(_limits(kaggle, competition)))
    ref = kaggle.submit(competition, checked.file, checked.message)
    entry = {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "competition": competition,
        "file": str(checked.file),
        "sha256": digest,
        "message": checked.message,
        "ref": ref,
        "status": "pending",
        "public_score": None,
        "metric": checked.metric,
        "cross_validated": checked.score,
    }
    _note(checked.run, entry)
    say(f"submitted {checked.file}" + (f" as {ref}" if ref else ""))
    found = _wait_for(kaggle, competition, ref, wait, say) if ref else None
    if found is None:
        return entry
    entry |= {"status": found["status"], "public_score": found["public_score"]}
    _note(checked.run, entry)
    if found["status"] == "error":
        raise KaggleError(
            f"Kaggle could not score {checked.file}: {found['error'] or 'it does not say why'}"
        )
    return entry


def _limits(kaggle: Kaggle, competition: str) -> dict[str, Any]:
    found = kaggle.limits(competition)
    # Before the first submission there is no team, and Kaggle says 0 for everything.
    if found["left"] == 0 and found["total"]:
        when = "ever" if found["limited_by_total"] else "today; the count starts again at 0:00 UTC"
        raise KaggleError(f"no submission to {competition} is left {when}")
    return found


def describe_limits(found: dict[str, Any]) -> str:
    """Say how many submissions are left."""
    if not found["total"] and not found["left"]:
        return "no submissions yet; Kaggle names the limit after the first one"
    cap = ", limited by the number of all" if found["limited_by_total"] else ""
    return f"submissions today: {found['today']}, left: {found['left']}{cap}"


def _wait_for(
    kaggle: Kaggle, competition: str, ref: int, wait: float, say: Say
) -> dict[str, Any] | None:
    """Ask until the submission is scored or refused; `None` if that takes longer."""
    started, pause = time.monotonic(), 1.0
    while True:
        found = kaggle.submission(competition, ref)
        if found and found["status"] != "pending":
            return found
        waited = time.monotonic() - started
        if waited + pause > wait:
            say(f"no score in {waited:.0f} s; later: mlx-kaggle kaggle submissions {competition}")
            return None
        say(f"waiting for the score, {waited:.0f} s")
        time.sleep(pause)
        pause = min(pause * 1.5, 15)


def _note(run: "FinishedRun | None", entry: dict[str, Any]) -> None:
    """Append the entry to the run, in place of an earlier one of the same submission."""
    if run is None:
        return
    path = run.folder / SUBMISSIONS
    lines = path.read_text("utf-8").splitlines() if path.is_file() else []
    try:
        entries = [json.loads(line) for line in lines]
    except ValueError as error:
        raise RunError(f"{path}: is damaged ({error}); move it away") from error
    same = [each for each in entries if each["ref"] == entry["ref"] != 0]
    entries = [entry if each in same else each for each in entries] + ([] if same else [entry])
    text = "".join(json.dumps(each) + "\n" for each in entries)
    write_atomic(path, lambda temporary: temporary.write_text(text, "utf-8"))
