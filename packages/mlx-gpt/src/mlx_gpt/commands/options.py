"""What options of several commands have in common."""

import math
from collections.abc import Mapping
from typing import Any

import click


class Finite(click.FloatRange):
    """A number in a range that is neither NaN, which every range lets through, nor infinite."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Return the number; fail with a usage error."""
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is no finite number.", param, ctx)
        return number


def check_resume(
    resume: bool, given: Mapping[str, object], others: object, may: tuple[str, ...] = ()
) -> None:
    """Fail with a usage error where `--resume` comes with settings that it takes from the run."""
    if resume and (others or given.keys() - set(may)):
        but = f" but --{may[0].rpartition('.')[2]}" if may else ""
        raise click.UsageError(f"--resume takes everything{but} from --output; leave the rest out")
