"""Find, name and read the runs of a report."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

Stage = Literal["pretrain", "sft", "rl"]
Json = dict[str, Any]

STAGES: tuple[Stage, ...] = ("pretrain", "sft", "rl")

# The plan of a run needs these settings, which `mlx-gpt train` writes.
_PRETRAINING = {
    "model": ("depth", "sequence_len", "window_pattern", "width_per_layer", "head_dim"),
    "training": ("steps", "batch_tokens", "tokens_per_parameter"),
}


@dataclass(frozen=True)
class Run:
    """The content of a run folder; `events` are the complete lines of its log, in order."""

    path: Path
    name: str
    stage: Stage
    config: Json
    environment: Json
    events: list[Json]
    evaluation: Json | None  # of `mlx-gpt evaluate`

    @property
    def state(self) -> str:
        """Whether the run ended, from its last log line."""
        if not self.of("update"):
            return "not started"
        return "finished" if self.events[-1]["event"] == "end" else "unfinished"

    def of(self, kind: str) -> list[Json]:
        """Return the events of a kind."""
        return [event for event in self.events if event["event"] == kind]

    def setting(self, key: str) -> Any:
        """Return a setting by its dotted key, None if the configuration does not have it."""
        value: Any = self.config
        for part in key.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        return value


def read_runs(paths: Sequence[Path]) -> list[Run]:
    """Read run folders, or the runs in a folder of runs; sorted by stage, then name.

    Raises `ValueError` for a folder without a run, and with the path of a damaged file.
    """
    folders = list(dict.fromkeys(folder.resolve() for path in paths for folder in _folders(path)))
    runs = [read_run(*each) for each in zip(folders, _names(folders), strict=True)]
    return sorted(runs, key=lambda run: (STAGES.index(run.stage), run.name))


def read_run(folder: Path, name: str) -> Run:
    """Read one run folder; `name` is its name in the report."""
    config = _read_config(folder / "config.yaml")
    environment = folder / "env.json"
    evaluations = [folder / "evaluation.json", folder / "model" / "evaluation.json"]
    evaluation = next((path for path in evaluations if path.is_file()), None)
    return Run(
        folder,
        name,
        _stage(folder, config),
        config,
        read_object(environment) if environment.is_file() else {},
        read_events(folder / "metrics.jsonl"),
        read_object(evaluation) if evaluation else None,
    )


def read_events(path: Path) -> list[Json]:
    """Return the events of a log; an incomplete last line is dropped.

    Raises `ValueError` with file and line for any other line that is not an event.
    """
    if not path.is_file():
        return []
    lines = path.read_bytes().rstrip().split(b"\n")
    events = []
    for number, line in enumerate(lines, 1):
        try:
            event = json.loads(line)
        except ValueError as error:
            if number == len(lines):
                break
            raise ValueError(f"{path}:{number}: not JSON: {error}") from error
        if not isinstance(event, dict) or not {"event", "updates", "time"} <= event.keys():
            raise ValueError(f"{path}:{number}: not an event of a run of mlx-gpt: {event!r:.80}")
        events.append(event)
    return events


def read_object(path: Path) -> Json:
    """Return the JSON object in a file, NaN as None; raises `ValueError` for other content."""
    try:
        value = json.loads(path.read_text("utf-8"), parse_constant=lambda name: None)
    except ValueError as error:
        raise ValueError(f"{path}: not JSON: {error}") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path}: expected a JSON object, got {type(value).__name__}")
    return value


def _folders(path: Path) -> list[Path]:
    if not path.is_dir():
        raise ValueError(f"{path}: no such folder")
    if _is_run(path):
        return [path]
    found = [folder for folder in sorted(path.iterdir()) if _is_run(folder)]
    if not found:
        raise ValueError(f"{path}: neither a run (it has no config.yaml) nor a folder of runs")
    return found


def _is_run(folder: Path) -> bool:
    return (folder / "config.yaml").is_file()


def _names(folders: Sequence[Path]) -> list[str]:
    """Return the shortest ends of the paths that differ."""
    count = 1
    while True:
        names = ["/".join(folder.parts[-count:]) for folder in folders]
        if len(set(names)) == len(names):
            return names
        count += 1


def _read_config(path: Path) -> Json:
    try:
        config = yaml.safe_load(path.read_text("utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not YAML: {error}") from error
    return config if isinstance(config, dict) else {}


def _stage(folder: Path, config: Json) -> Stage:
    """Infer the stage from the settings: only RL has answers, only pretraining has a depth."""
    model, data = config.get("model"), config.get("data")
    if isinstance(model, dict) and "depth" in model:
        for section, names in _PRETRAINING.items():
            for name in names:
                if (config.get(section) or {}).get(name) is None:
                    raise ValueError(f"{folder}: its config.yaml has no {section}.{name}")
        return "pretrain"
    if isinstance(model, str) and "answers" in config:
        return "rl"
    if isinstance(model, str) and isinstance(data, dict) and isinstance(data.get("train"), list):
        return "sft"
    raise ValueError(f"{folder}: its config.yaml is not that of mlx-gpt train, sft or rl")
