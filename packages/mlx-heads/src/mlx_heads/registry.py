"""Objectives by name: a head with the loss that trains it, also from other distributions.

A distribution adds its own through an entry point of the group "mlx_heads.objectives". It names a
module that registers on import, or a function without arguments that does.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache, partial
from importlib.metadata import EntryPoint, entry_points
from typing import Any, TypeVar

import mlx.core as mx

from mlx_heads._suggest import did_you_mean
from mlx_heads.competitions import get_competition
from mlx_heads.pooled_heads import PooledHead

TASKS = (
    "binary",
    "multiclass",
    "multilabel",
    "regression",
    "ordinal",
    "forecast",
    "embedding",
    "ranking",
)
ENTRY_POINTS = "mlx_heads.objectives"

HeadClass = TypeVar("HeadClass", bound=Callable[..., PooledHead])


@dataclass(frozen=True)
class Objective:
    """A head class with its loss; the options are defaults of their keyword arguments."""

    name: str
    task: str
    head: Callable[..., PooledHead]
    loss: Callable[..., mx.array]
    options: Mapping[str, Any] = field(default_factory=dict)
    priority: int = 0
    competitions: tuple[str, ...] = ()
    head_options: Mapping[str, Any] = field(default_factory=dict)

    def build_head(self, hidden_size: int, size: int, **options: Any) -> PooledHead:
        """Return a new head; `size` is its classes, labels, targets, horizon or width."""
        return self.head(hidden_size, size, **{**self.head_options, **options})

    def loss_for(self, head: PooledHead, **options: Any) -> Callable[..., mx.array]:
        """Return `loss(outputs, targets, *, sample_weight=None, ...)` for the outputs of `head`.

        What head and loss share, as the levels of quantiles, comes from the head.
        """
        return partial(self.loss, **{**self.options, **head.loss_options, **options})


_OBJECTIVES: dict[tuple[str, str], Objective] = {}  # by task and name, in order of registration
_loaded: set[EntryPoint] = set()


def register_objective(
    name: str,
    task: str,
    *,
    loss: Callable[..., mx.array],
    priority: int = 0,
    competitions: tuple[str, ...] = (),
    head_options: Mapping[str, Any] | None = None,
    **options: Any,
) -> Callable[[HeadClass], HeadClass]:
    """Decorate a head class: register it with `loss` and its `options` under a task and name.

    The objective with the highest priority is the default of its task; the built-in defaults have
    `DEFAULT_PRIORITY`, 10, the other built-in objectives 0. Of two with the same task and name the
    one with the higher priority is kept, and equal priorities raise `ValueError`. `competitions`
    are slugs of `COMPETITIONS` that prefer this objective to the default.
    """
    _check_task(task)
    for slug in competitions:
        if (wanted := get_competition(slug).task) != task:
            raise ValueError(f"competition {slug!r} has task {wanted!r}, the objective {task!r}")

    def register(head: HeadClass) -> HeadClass:
        new = Objective(
            name, task, head, loss, options, priority, tuple(competitions), head_options or {}
        )
        old = _OBJECTIVES.get((task, name))
        if old is not None and old.priority == priority:
            raise ValueError(
                f"task {task!r} already has an objective {name!r} of priority {priority}, with "
                f"{_path(old.head)}; give {_path(head)} another name, or a higher priority to "
                "replace it"
            )
        if old is None or old.priority < priority:
            _OBJECTIVES[task, name] = new
        return head

    return register


def objectives(task: str) -> list[str]:
    """Return the names of a task's objectives, the highest priority first."""
    return [each.name for each in _ranked(task)]


def get_objective(task: str, name: str | None = None) -> Objective:
    """Return an objective; without a name the one of the highest priority.

    Raises `ValueError` with the nearest valid name, `RuntimeError` for a broken entry point.
    """
    ranked = _ranked(task)
    if name is None:
        return ranked[0]
    if (task, name) not in _OBJECTIVES:
        names = [each.name for each in ranked]
        raise ValueError(f"task {task!r} has no objective {name!r}{did_you_mean(str(name), names)}")
    return _OBJECTIVES[task, name]


def objective_for_competition(slug: str) -> Objective:
    """Return the objective that names the competition, else the default of its task."""
    ranked = _ranked(get_competition(slug).task)
    return next((each for each in ranked if slug in each.competitions), ranked[0])


def _ranked(task: str) -> list[Objective]:
    _check_task(task)
    _load_entry_points()
    found = [each for each in _OBJECTIVES.values() if each.task == task]
    return sorted(found, key=lambda each: -each.priority)  # stable: equal ones as registered


@cache  # remembers success only: a broken entry point raises at every lookup
def _load_entry_points() -> None:
    """Let other distributions register, once; one that fails leaves nothing behind."""
    for point in entry_points(group=ENTRY_POINTS):
        if point in _loaded:
            continue
        before = dict(_OBJECTIVES)
        try:
            loaded = point.load()
            if callable(loaded) and not isinstance(loaded, type):
                loaded()
        except Exception as error:
            _OBJECTIVES.clear()
            _OBJECTIVES.update(before)
            owner = point.dist.name if point.dist else "unknown"
            raise RuntimeError(
                f"entry point {point.name!r} = {point.value!r} of distribution {owner!r} failed "
                f"to register its objectives: {type(error).__name__}: {error}. Fix or uninstall "
                "that distribution"
            ) from error
        _loaded.add(point)


def _check_task(task: str) -> None:
    if task not in TASKS:
        raise ValueError(f"unknown task {task!r}{did_you_mean(str(task), TASKS)}")


def _path(head: Callable[..., PooledHead]) -> str:
    return f"{head.__module__}.{getattr(head, '__qualname__', head)}"
