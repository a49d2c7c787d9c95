"""What a run shows: events as lines and a bar on stderr, and as lines of metrics.jsonl."""

import re
import sys

from mlx_gpt.training.going_on import in_words
from mlx_trainer import Progress, RunFolder, rank

# The newest loss counts a tenth, as in nanochat.
_SMOOTHING = 0.9
# A model may say anything, also what would move the cursor or rename the window.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


class Display:
    """Shows the events of a training loop and logs them; use it in a `with` block."""

    def __init__(self, run: RunFolder | None, description: str = "train"):
        self._run = run
        self._description = description
        self._quiet = rank() != 0
        self._bar: Progress | None = None
        self._smooth, self._share = 0.0, 0.0

    def __enter__(self) -> "Display":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """End the bar."""
        if self._bar:
            self._bar.__exit__(None, None, None)
            self._bar = None

    def __call__(self, event: dict) -> None:
        """Take an event of the loop."""
        kind = event["event"]
        if kind == "update":
            event = event | {"smooth_loss": self._smoothed(event["loss"])}
        if self._run and kind != "start":
            self._run.log(event)
        if not self._quiet:
            getattr(self, f"_{kind}", self._other)(event)

    def say(self, line: str) -> None:
        """Print a line to stderr, on rank 0 only."""
        if not self._quiet:
            # Not `click.echo`, which goes past the stderr of rich and so writes into the bar.
            print(line, file=sys.stderr, flush=True)

    def _smoothed(self, loss: float) -> float:
        self._smooth = _SMOOTHING * self._smooth + (1 - _SMOOTHING) * loss
        self._share = _SMOOTHING * self._share + 1 - _SMOOTHING
        return self._smooth / self._share  # without the pull of the first 0

    def _start(self, event: dict) -> None:
        self.close()
        self._bar = Progress(event["steps"], self._description, completed=event["updates"])
        self._bar.__enter__()

    def _update(self, event: dict) -> None:
        if self._bar:
            shown = {"loss": event["smooth_loss"], "tokens/s": event["tokens_per_second"]}
            self._bar.advance(1, **shown)

    def _evaluate(self, event: dict) -> None:
        numbers = "  ".join(
            f"{name.replace('_', ' ')} {value:.4f}"
            for name, value in event.items()
            if isinstance(value, float) and name != "evaluation_seconds"
        )
        if "held_out_tokens" in event:
            numbers += f" over {event['tokens']:,} of {event['held_out_tokens']} held-out tokens"
        self.say(f"step {event['updates']}: {numbers} ({event['evaluation_seconds']:.1f} s)")

    _core = _evaluate

    def _sample(self, event: dict) -> None:
        for prompt, text in event["samples"]:
            self.say(f"  {prompt} | {printable(' '.join(text.split()))}")

    def _extended(self, event: dict) -> None:
        self.say(in_words(event))

    def _end(self, event: dict) -> None:
        self.close()
        self.say(f"{event['updates']} steps in {duration(event['seconds'])} of training")

    def _other(self, event: dict) -> None:
        """Show nothing of events that only the log wants."""


def printable(text: str) -> str:
    """Return text without what controls a terminal, but for tabs and ends of lines."""
    return _CONTROL.sub("\ufffd", text)


def duration(seconds: float) -> str:
    """Return seconds in the unit that suits them."""
    if seconds < 90:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 5400 else f"{seconds / 3600:.2f} h"
