"""Collect the report, and write `report.json`, `report.md` and `curves.png`.

Keys of `report.json`; a number that was not measured is null, or its key is missing:

    format          1
    date_utc        of the report; everything else depends on the folders alone
    environments    for runs with the same: runs, platform, python, device, cores, memory_bytes,
                    git_commit, packages {name: version}
    tokenizers      for runs with the same: runs, vocabulary_tokens, special_tokens, compression
                    [{source, tokenizer, bytes, tokens, bytes_per_token, more_tokens}]
    runs            pretraining first, then fine-tuning, then reinforcement learning:
        name, stage ("pretrain", "sft", "rl"), state ("finished", "unfinished", "not started")
        asked       settings; of pretraining also tokens, parameters, operations_per_token, ...
        training    steps, first_loss_nats_per_token, last_..., median_tokens_per_second,
                    training_seconds, validation_seconds, wall_clock_seconds (with pauses between
                    resumes), peak_memory_bytes, operations_per_second, ...
        validation  [{step, bits_per_byte, loss_nats_per_token, pass@k, seconds}]
        evaluation  evaluation.json of `mlx-gpt evaluate`; its "seconds" are evaluation_seconds here
        samples     {step, texts [{prompt, text}]}
    summary         [{metric, BASE, SFT, RL}]; a stage with several runs has a column for each
    total           wall_clock_seconds: training, and evaluation of all runs
"""

import json
import logging
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mlx_gpt.report import curves, numbers
from mlx_gpt.report.markdown import one_line
from mlx_gpt.report.page import page
from mlx_gpt.report.runs import STAGES, Json, Run, read_runs
from mlx_gpt.tokenizer import Tokenizer
from mlx_trainer import write_atomic

FORMAT = 1
LABELS = {"pretrain": "BASE", "sft": "SFT", "rl": "RL"}
# Packages that a result may depend on.
_PACKAGES = ("mlx", "mlx-cpu", "mlx-cuda-12", "mlx-cuda-13", "mlx-metal", "mlx-gpt",
             "mlx-fastcpu", "mlx-muon", "mlx-shards", "mlx-trainer")  # fmt: skip

_log = logging.getLogger(__name__)


def write_report_card(paths: Sequence[Path], output: Path, now: datetime | None = None) -> Json:
    """Report on runs, and on the runs in folders; write it into `output`, and return it.

    Raises `ValueError` for a folder without runs, and for unreadable files.
    """
    runs = read_runs(paths)
    report = make_report(runs, now or datetime.now(UTC))
    text = json.dumps(report, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    output.mkdir(parents=True, exist_ok=True)
    _write(output / "report.json", text)
    _write(output / "report.md", page(report, _draw_curves(runs, output / "curves.png")))
    return report


def _draw_curves(runs: Sequence[Run], path: Path) -> str | None:
    """Write the figure; return its line for the page, or an error instead."""
    try:
        figure = curves.draw(runs)
        if figure is None:
            return None
        write_atomic(path, lambda temporary: curves.save(figure, temporary))
    except Exception as error:  # the report is useful without its figure
        reason = one_line(f"{type(error).__name__}: {error}")[:200]
        line = f"the figure {path.name} could not be drawn ({reason})"
        _log.warning("%s", line)
        return line
    return f"![curves]({path.name})"


def make_report(runs: Sequence[Run], now: datetime) -> Json:
    """Return the content of `report.json`."""
    found = [_describe(run) for run in runs]
    return {
        "format": FORMAT,
        "date_utc": now.astimezone(UTC).isoformat(timespec="seconds"),
        "environments": _grouped(runs, _environment),
        "tokenizers": _grouped(runs, _tokenizer),
        "runs": found,
        "summary": _summary(found),
        "total": {"wall_clock_seconds": _total_seconds(found)},
    }


def _describe(run: Run) -> Json:
    tokenizer = _tokenizer(run) or {}
    asked = numbers.settings(run, tokenizer.get("vocabulary_tokens"))
    return {
        "name": run.name,
        "stage": run.stage,
        "state": run.state,
        "asked": asked,
        "training": numbers.training(run, asked),
        "validation": numbers.validations(run),
        "evaluation": _evaluation(run),
        "samples": numbers.samples(run),
    }


def _grouped(runs: Sequence[Run], describe: Callable[[Run], Json | None]) -> list[Json]:
    """Return each distinct description with the names of its runs."""
    groups: list[tuple[Json, list[str]]] = []
    for run in runs:
        described = describe(run)
        if described is None:
            continue
        names = next((names for other, names in groups if other == described), None)
        if names is None:
            groups.append((described, [run.name]))
        else:
            names.append(run.name)
    return [{"runs": names, **described} for described, names in groups]


def _environment(run: Run) -> Json:
    found, packages = run.environment, run.environment.get("packages", {})
    return {
        "platform": found.get("platform"),
        "python": found.get("python"),
        "device": found.get("device"),
        "cores": found.get("cpu_count"),
        "memory_bytes": found.get("memory_bytes"),
        "git_commit": found.get("git_commit"),
        "packages": {name: packages[name] for name in _PACKAGES if name in packages},
    }


def _tokenizer(run: Run) -> Json | None:
    """Return a description of a run's tokenizer, None if it cannot be found.

    Its compression comes from a `tokenizer_report.json`, the output of `mlx-gpt tokenizer report
    --json`, next to the `tokenizer.json` in the model or in the original folder.
    """
    given = run.setting("data.tokenizer")
    folders = [run.path / "model", *([Path(given)] if given else [])]
    folders = [folder for folder in folders if (folder / "tokenizer.json").is_file()]
    if not folders:
        return None
    text = (folders[0] / "tokenizer.json").read_bytes()
    reports = [
        folder / "tokenizer_report.json"
        for folder in [*folders, run.path.parent / "tokenizer"]
        if (folder / "tokenizer_report.json").is_file()
        and (folder / "tokenizer.json").read_bytes() == text
    ]
    tokenizer = Tokenizer.load(folders[0])
    return {
        "vocabulary_tokens": tokenizer.vocab_size,
        "special_tokens": len(tokenizer.special_ids),
        "compression": _compression(reports[0]) if reports else None,
    }


def _compression(path: Path) -> list[Json]:
    try:
        rows = json.loads(path.read_text("utf-8"))
        return [dict(row, bytes_per_token=float(row["bytes_per_token"])) for row in rows]
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(
            f"{path}: not the output of `mlx-gpt tokenizer report --json`: {error!r}"
        ) from error


def _evaluation(run: Run) -> Json | None:
    if run.evaluation is None:
        return None
    found = {key: value for key, value in run.evaluation.items() if key not in ("model", "seconds")}
    for section in found.keys() & {"core", "chat"}:
        try:
            float(found[section]["score"])
            for task in found[section]["tasks"].values():
                float(task["accuracy"] + task["baseline"] + task["centered"])
        except (TypeError, KeyError, AttributeError) as error:
            raise ValueError(
                f"{run.path}: {section!r} of evaluation.json is not from `mlx-gpt evaluate`: "
                f"{error!r}"
            ) from error
    return found | {"evaluation_seconds": run.evaluation.get("seconds")}


def _summary(found: list[Json]) -> list[Json]:
    """Return a row per metric; a column per stage, or per run if a stage has several."""
    columns = {}
    for stage in STAGES:
        of_stage = [run for run in found if run["stage"] == stage]
        label = LABELS[stage]
        if len(of_stage) > 1:
            columns |= {f"{label} {run['name']}": _scores(run) for run in of_stage}
        else:
            columns[label] = _scores(of_stage[0]) if of_stage else {}
    always = ["bits_per_byte", "core", "gsm8k", "chatcore"]
    order = ["bits_per_byte", "validation_bits_per_byte", "core", *_chat_tasks(found), "gsm8k",
             "validation_pass@1", "chatcore"]  # fmt: skip
    measured = {metric for scores in columns.values() for metric in scores}
    return [
        {"metric": metric, **{label: scores.get(metric) for label, scores in columns.items()}}
        for metric in dict.fromkeys(order)
        if metric in measured or metric in always
    ]


def _chat_tasks(found: list[Json]) -> list[str]:
    evaluations = [run["evaluation"] or {} for run in found]
    tasks = {name for each in evaluations for name in each.get("chat", {}).get("tasks", {})}
    return sorted(tasks - {"gsm8k"})


def _scores(run: Json) -> Json:
    evaluation = run["evaluation"] or {}
    core, chat = evaluation.get("core", {}), evaluation.get("chat", {})
    last = run["validation"][-1] if run["validation"] else {}
    scores = {
        "bits_per_byte": evaluation.get("bits_per_byte"),
        "validation_bits_per_byte": last.get("bits_per_byte"),
        "core": core.get("score"),
        "chatcore": chat.get("score"),
        "validation_pass@1": last.get("pass@1"),
        **{name: task["accuracy"] for name, task in chat.get("tasks", {}).items()},
    }
    return {metric: value for metric, value in scores.items() if value is not None}


def _total_seconds(found: list[Json]) -> float:
    parts: list[Any] = [(run["training"] or {}).get("wall_clock_seconds") for run in found]
    parts += [(run["evaluation"] or {}).get("evaluation_seconds") for run in found]
    return sum(part for part in parts if part is not None)


def _write(path: Path, text: str) -> None:
    write_atomic(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
