"""Presets: YAML files of settings with a name, of this package or of a user.

A file has settings as of `config.yaml`, a `description`, and may name the preset it stands on as
`base`. A competition's preset without one stands on `standard` if a pretrained encoder is given,
else on `quick`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from mlx_trainer import ConfigError, did_you_mean

GENERIC = ("quick", "standard", "thorough")
COMPETITIONS = ("titanic", "house-prices", "nlp-disaster", "jigsaw", "wine", "store-sales")
NAMES = (*GENERIC, *COMPETITIONS)


@dataclass(frozen=True)
class Preset:
    """One file of settings."""

    name: str
    """Of the package, or the path of a file."""
    description: str
    base: str | None
    values: dict[str, Any]
    """Its own settings, nested by section."""
    text: str
    """The file, with its comments."""

    def on(self, encoder: str) -> "Preset | None":
        """Return the preset it stands on, with this encoder; `None` if it stands alone."""
        if self.name in GENERIC:
            return None
        return read_preset(self.base or ("standard" if encoder not in ("", "scratch") else "quick"))

    def resolved(self, encoder: str = "") -> dict[str, Any]:
        """Return its settings over those of the presets it stands on."""
        base = self.on(encoder)
        return merged(base.resolved(encoder), self.values) if base else dict(self.values)


def read_preset(name: str) -> Preset:
    """Read a preset of the package by name, or a YAML file by its path.

    Raises `ConfigError`, naming file and key, for what is neither, and for bases in a circle.
    """
    return _read(name, ())


def _read(name: str, above: tuple[str, ...]) -> Preset:
    import yaml  # not at the top: `--help` does not need it

    if name in NAMES:
        file: Any = resources.files("mlx_kaggle").joinpath("presets", f"{name}.yaml")
    elif (file := Path(name)).suffix not in (".yaml", ".yml"):
        known = did_you_mean(name, NAMES)
        raise ConfigError(f"unknown preset {name!r}{known}; or give the path of a .yaml file")
    try:
        text = file.read_text("utf-8")
        values = yaml.safe_load(text) or {}
    except (OSError, ValueError, yaml.YAMLError) as error:
        problem = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise ConfigError(f"{name}: cannot be read: {problem}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{name}: must contain keys and values, got {type(values).__name__}")
    values.pop("preset", None)  # of a run's config.yaml
    description, base = (str(values.pop(key, "") or "") for key in ("description", "base"))
    if base:
        if base in (*above, name):
            raise ConfigError(f"{name}: base: the presets {' and '.join((*above, name))} stand on "
                              f"each other")  # fmt: skip
        _read(base, (*above, name))
    return Preset(name, description, base or None, values, text)


def merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Return nested settings with those of `above` winning key by key."""
    result = dict(below)
    for key, value in above.items():
        nested = isinstance(value, dict) and isinstance(below.get(key), dict)
        result[key] = merged(below[key], value) if nested else value
    return result


def flattened(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested settings by dotted key."""
    result: dict[str, Any] = {}
    for key, value in values.items():
        nested = isinstance(value, dict) and value  # an empty one is a value
        result |= flattened(value, f"{prefix}{key}.") if nested else {f"{prefix}{key}": value}
    return result
