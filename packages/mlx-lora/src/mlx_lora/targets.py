"""Which modules get an adapter: PEFT's rules, and errors that name what is near."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from mlx_lora._suggest import did_you_mean
from mlx_lora.config import TASK_HEADS, AdapterConfig, Ia3Config, LoraConfig, matches_end
from mlx_lora.layers import AdaptedLayer

EMBEDDINGS = (nn.Embedding, nn.QuantizedEmbedding)
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d)
_PREFIX = re.compile(r"(^|\.)\d+(?=\.|$)")


@dataclass(frozen=True)
class Target:
    """A module that gets an adapter."""

    path: str
    module: Any
    reason: str
    """Why: the pattern that it matches."""


def find_targets(model: nn.Module, config: AdapterConfig, strict: bool = True) -> list[Target]:
    """Return the modules that `config` names, in the order of the model.

    Raises `ValueError` for a pattern that matches nothing, with the nearest names, and for modules
    of a type that no adapter is made for. Without `strict` only finding no module is an error.
    """
    modules = dict(named_layers(model))
    if config.target_modules is None:
        raise ValueError(
            f"target_modules is not set; name the modules to adapt, such as "
            f"{_examples(modules)}, or 'all-linear'"
        )
    saved = saved_modules(model, config, strict)
    found: list[Target] = []
    for path, module in modules.items():
        reason = _reason(path, module, config, modules, saved)
        if reason and not _is_excluded(path, config):
            found.append(Target(path, module, reason))
    if strict or not found:
        _check_patterns(config, found, modules)
    for target in found:
        _check_supported(target, config)
    return found


def saved_modules(model: nn.Module, config: AdapterConfig, strict: bool = True) -> list[str]:
    """Return the paths of the modules that are trained whole: those named, and a task's head."""
    paths = [path for path, _ in named_layers(model, inner=True)]
    found = []
    for name in config.modules_to_save or ():
        matching = [path for path in paths if path.endswith(name)]  # as in PEFT, without a dot
        if not matching and strict:
            raise ValueError(
                f"modules_to_save has {name!r}, which is no module{_near(name, paths)}"
            )
        found += matching
    for name in TASK_HEADS.get(config.task_type or "", ()):
        found += [path for path in paths if path.endswith(name)]
    by_path = dict(named_layers(model, inner=True))
    for path in found:
        _check_float(path, by_path[path])
    # A module inside of another one is trained with it.
    return [path for path in dict.fromkeys(found) if not any(
        path.startswith(f"{other}.") for other in found)]  # fmt: skip


def named_layers(model: nn.Module, inner: bool = False) -> Iterator[tuple[str, Any]]:
    """Yield modules by path in the order of the model; adapted ones once, as what they adapt.

    Only modules without modules inside, unless `inner`.
    """
    yield from _walk("", model, inner)


def _walk(path: str, value: Any, inner: bool) -> Iterator[tuple[str, Any]]:
    if isinstance(value, AdaptedLayer):
        yield path, value.base_layer
        return
    if isinstance(value, nn.Module):
        parts = value.children()
        if path and (inner or not _has_modules(parts)):
            yield path, value
    else:
        parts = value
    items = enumerate(parts) if isinstance(parts, list | tuple) else parts.items()
    for key, part in items:
        if isinstance(part, nn.Module | dict | list | tuple):
            yield from _walk(f"{path}.{key}" if path else str(key), part, inner)


def _has_modules(parts: Any) -> bool:
    if isinstance(parts, nn.Module):
        return True
    values = parts.values() if isinstance(parts, dict) else parts
    return any(isinstance(each, nn.Module) or
               (isinstance(each, dict | list | tuple) and _has_modules(each))
               for each in values)  # fmt: skip


def is_linear(module: Any) -> bool:
    """Whether it multiplies by a matrix: MLX's layers, and others named so with its weights."""
    if isinstance(module, nn.Linear | nn.QuantizedLinear):
        return True
    weight = module.get("weight") if isinstance(module, nn.Module) else None
    return (
        type(module).__name__.endswith("Linear")
        and isinstance(weight, mx.array)
        and weight.ndim == 2
        and set(module) <= {"weight", "bias"}
    )


def _reason(
    path: str, module: Any, config: AdapterConfig, modules: dict[str, Any], saved: Sequence[str]
) -> str | None:
    targets = config.target_modules
    if any(path == each or path.startswith(f"{each}.") for each in saved):
        return None
    if targets == "all-linear":
        if not is_linear(module) or _is_output(module, modules):
            return None
        reason = "all-linear"
    elif isinstance(targets, str):
        if not re.fullmatch(targets, path):
            return None
        reason = f"matches {targets!r}"
    else:
        name = next((each for each in targets or () if _ends_with(path, each)), None)
        if name is None:
            return None
        reason = f"ends with {name!r}"
    if isinstance(config, LoraConfig) and _indices(config):
        index = _layer_of(path, config)
        if index not in _indices(config):
            return None
        reason += f", layer {index}"
    return reason


def _is_output(module: Any, modules: dict[str, Any]) -> bool:
    """Whether a linear layer has one output for each token of an embedding."""
    rows = module.weight.shape[0]
    sizes = {each.weight.shape[0] for each in modules.values() if isinstance(each, EMBEDDINGS)}
    width = module.weight.shape[-1] * (32 // module.bits if hasattr(module, "bits") else 1)
    return rows in sizes and rows != width


def _layer_of(path: str, config: LoraConfig) -> int | None:
    """Return the index of the layer that a module is in."""
    patterns = config.layers_pattern
    if not patterns:
        # The last number after a name; PEFT's needs one more name before.
        found = re.match(r"(?:.*\.)?[^.]+\.(\d+)\.", f"{path}.")
        return int(found[1]) if found else None
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        if found := re.match(rf"(?:.*\.)?{pattern}\.(\d+)\.", f"{path}."):
            return int(found[1])
    return None


def _indices(config: LoraConfig) -> set[int]:
    chosen = config.layers_to_transform
    return {chosen} if isinstance(chosen, int) else set(chosen or ())


def _is_excluded(path: str, config: AdapterConfig) -> bool:
    excluded = config.exclude_modules
    if isinstance(excluded, str):
        return re.fullmatch(excluded, path) is not None
    return any(_ends_with(path, name) for name in excluded or ())


def _ends_with(path: str, name: str) -> bool:
    return path == name or path.endswith(f".{name}")


def _check_patterns(config: AdapterConfig, found: list[Target], modules: dict[str, Any]) -> None:
    """Raise `ValueError` for each pattern that has no effect."""
    paths = list(modules)
    targets = config.target_modules
    adapted = [target.path for target in found]
    if not isinstance(targets, str):
        for name in targets or ():
            if not any(_ends_with(path, name) for path in paths):
                raise ValueError(
                    f"target_modules has {name!r}, which is no module{_near(name, paths)}"
                )
    if not found:
        raise ValueError(_nothing_found(config, modules))
    excluded = config.exclude_modules
    for name in [excluded] if isinstance(excluded, str) else excluded or ():
        test = re.fullmatch if isinstance(excluded, str) else lambda n, p: _ends_with(p, n)
        if not any(test(name, path) for path in paths):
            raise ValueError(
                f"exclude_modules has {name!r}, which is no module{_near(name, paths)}"
            )
    if isinstance(config, Ia3Config):
        return
    for label in ("rank_pattern", "alpha_pattern"):
        for pattern in getattr(config, label):
            if not any(matches_end(pattern, path) for path in adapted):
                raise ValueError(
                    f"{label} has {pattern!r}, which matches no adapted "
                    f"module{_near(pattern, adapted)}"
                )
    if _indices(config):
        layers = {_layer_of(path, config) for path in adapted}
        if absent := sorted(_indices(config) - layers):
            raise ValueError(f"layers_to_transform has {absent}, where no module is adapted")


def _nothing_found(config: AdapterConfig, modules: dict[str, Any]) -> str:
    if isinstance(config, LoraConfig) and _indices(config):
        return (
            f"no module of layers_to_transform={config.layers_to_transform} with "
            f"layers_pattern={config.layers_pattern!r} matches target_modules="
            f"{config.target_modules!r}"
        )
    if config.exclude_modules:
        return f"exclude_modules={config.exclude_modules!r} leaves no module to adapt"
    return (
        f"target_modules={config.target_modules!r} matches no module; the model has "
        f"{_examples(modules)}"
    )


def _check_supported(target: Target, config: AdapterConfig) -> None:
    module = target.module
    if is_linear(module):
        return
    if isinstance(config, LoraConfig) and isinstance(module, EMBEDDINGS + CONVOLUTIONS):
        if getattr(module, "groups", 1) != 1:
            raise ValueError(
                f"{target.path} is a convolution of {module.groups} groups; only one is supported"
            )
        return
    kinds = "linear layers" if isinstance(config, Ia3Config) else (
        "linear layers, embeddings, Conv1d and Conv2d")  # fmt: skip
    raise ValueError(
        f"{target.path} ({target.reason}) is of type {type(module).__name__}; adapters are made "
        f"for {kinds}"
    )


def _check_float(path: str, module: Any) -> None:
    """Refuse a quantized module, of which MLX would train the bias alone."""
    if any(hasattr(part, "bits") and "scales" in part for part in module.modules()):
        raise ValueError(
            f"{path} is to be trained whole, but it is quantized; leave it out of the "
            f"quantization: nn.quantize(model, class_predicate=...)"
        )


def _near(name: str, paths: Sequence[str]) -> str:
    """Return the nearest suffixes of paths, without the numbers of layers."""
    suffixes = dict.fromkeys(
        suffix for path in paths for suffix in _suffixes(path) if not suffix[0].isdigit()
    )
    return did_you_mean(name, suffixes if len(suffixes) <= 30 else _last_names(paths))


def _suffixes(path: str) -> list[str]:
    parts = path.split(".")
    return [".".join(parts[i:]) for i in range(len(parts) - 1, max(-1, len(parts) - 3), -1)]


def _last_names(paths: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(path.rpartition(".")[2] for path in paths))


def _examples(modules: dict[str, Any]) -> str:
    names = _last_names([path for path, module in modules.items() if is_linear(module)])
    return ", ".join(map(repr, names[:8])) or "no linear layers"
