"""Where settings come from: every error of a file with its line, and the source of each value."""

import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from mlx_kaggle.presets import NAMES, Preset, read_preset
from mlx_kaggle.settings.config import RunConfig, given_encoder, preset_of
from mlx_trainer import ConfigError, config_problems, config_sources


def preset_problems(path: str) -> list[str]:
    """Return every error of a user's preset, with its line."""
    try:
        preset = read_preset(path)
        base = preset.on("")
        below = base.resolved() if base else {}
    except ConfigError as error:
        return [str(error)]
    with _settings_alone(preset) as file:
        problems = config_problems(RunConfig, below, file)
        return [each.replace(str(file), path) for each in problems]


def setting_origins(
    preset: str | None,
    file: str | Path | None,
    flags: Mapping[str, object],
    overrides: Sequence[str],
    keys: Iterable[str],
) -> dict[str, str]:
    """Return where `resolve_config` took the value of each dotted key from, in words.

    "default", "preset titanic", "mine.yaml line 3", "command line" or "--set training.epochs=3".
    """
    name = preset or preset_of(file) or "quick"
    found: dict[str, str] = {}
    below: Preset | None = read_preset(name)
    while below is not None:
        with _settings_alone(below) as lines:
            sources = config_sources(None, lines)
        for key, source in _values_alone(sources):
            at = "" if below.name in NAMES else f" line {source.rpartition(':')[2]}"
            found.setdefault(key, f"preset {below.name}{at}")
        below = below.on(given_encoder(flags, overrides))
    for key, source in _values_alone(config_sources(None, file, overrides, flags)):
        words = source.removeprefix(f"{file}:")
        found[key] = f"{file} line {words}" if words != source else words
    if preset or preset_of(file):
        found["preset"] = "command line" if preset else found.get("preset", "default")

    def origin(key: str) -> str:
        """Return the source of a key, or of the value that it is a part of."""
        while key and key not in found:
            key = key.rpartition(".")[0]
        return found.get(key, "default").replace("override ", "--set ")

    return {key: origin(key) for key in keys}


def _values_alone(sources: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Yield the keys that are no sections of others, and their sources."""
    sections = {key[:at] for key in sources for at, letter in enumerate(key) if letter == "."}
    yield from ((key, source) for key, source in sources.items() if key not in sections)


@contextmanager
def _settings_alone(preset: Preset) -> Iterator[Path]:
    """Write a preset without its keys that are no settings to a file with the same lines."""
    own = ("description:", "base:", "preset:")
    lines = ["" if line.startswith(own) else line for line in preset.text.splitlines()]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "preset.yaml"
        file.write_text("\n".join(lines), "utf-8")
        yield file
