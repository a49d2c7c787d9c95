"""Events of a training loop, as a bar and lines on stderr and as lines of `metrics.jsonl`."""

from mlx_gpt.printable import printable
from mlx_trainer import Display, RunFolder

# The weight of the old mean in the smoothed loss, as in nanochat.
_SMOOTHING = 0.9


class TrainingDisplay(Display):
    """Logs events in the run folder and shows them on rank 0; use it in a `with` block."""

    description = "train"

    def __init__(self, run: RunFolder | None):
        super().__init__()
        self._run = run
        self._smooth, self._share = 0.0, 0.0

    def __call__(self, event: dict) -> None:
        """Log and show an event."""
        kind = event["event"]
        if kind == "update":
            event = event | {"smooth_loss": self._smoothed(event["loss"])}
        if self._run and kind != "start":
            self._run.log(event)
        if show := getattr(self, f"_show_{kind}", None):
            show(event)

    def _smoothed(self, loss: float) -> float:
        self._smooth = _SMOOTHING * self._smooth + (1 - _SMOOTHING) * loss
        self._share = _SMOOTHING * self._share + 1 - _SMOOTHING
        return self._smooth / self._share  # without the bias towards the initial 0

    def _show_start(self, event: dict) -> None:
        self.start(event["steps"], self.description, event["updates"])

    def _show_update(self, event: dict) -> None:
        self.advance(loss=event["smooth_loss"], **{"tokens/s": event["tokens_per_second"]})

    def _show_evaluate(self, event: dict) -> None:
        numbers = "  ".join(
            f"{name.replace('_', ' ')} {value:.4f}"
            for name, value in event.items()
            if isinstance(value, float) and name != "evaluation_seconds"
        )
        if "held_out_tokens" in event:
            numbers += f" over {event['tokens']:,} of {event['held_out_tokens']} held-out tokens"
        self.say(f"step {event['updates']}: {numbers} ({event['evaluation_seconds']:.1f} s)")

    _show_core = _show_evaluate

    def _show_sample(self, event: dict) -> None:
        for prompt, text in event["samples"]:
            self.say(f"  {prompt} | {printable(' '.join(text.split()))}")

    def _show_extended(self, event: dict) -> None:
        self.say(describe_extension(event))

    def _show_end(self, event: dict) -> None:
        self.close()
        self.say(f"{event['updates']} steps in {duration(event['seconds'])} of training")


class SftDisplay(TrainingDisplay):
    """The bar counts conversations, as the number of updates is not known beforehand."""

    description = "sft"

    def _show_start(self, event: dict) -> None:
        self.start(event["steps"], self.description, event["used"])

    def _show_update(self, event: dict) -> None:
        speed = {"tokens/s": event["tokens_per_second"]}
        self.advance(event["used"] - self.completed, loss=event["smooth_loss"], **speed)

    def _show_end(self, event: dict) -> None:
        super()._show_end(event)
        for name, text in (
            ("truncated", "longer than a row were truncated"),
            ("dropped", "longer than a row were dropped"),
            ("without_target", "had no answer within a row and were dropped"),
        ):
            if event[name]:
                self.say(f"{event[name]:,} conversations {text}")


class FinetuneDisplay(TrainingDisplay):
    """Says which weights are kept at the end."""

    description = "finetune"

    def _show_end(self, event: dict) -> None:
        super()._show_end(event)
        if event["stopped_early"]:
            self.say(
                f"stopped early: {event['without_improvement']} evaluations without a lower loss"
            )
        if event["restored"]:
            self.say(
                f"restored the weights of update {event['best_update']}, which had the lowest "
                f"loss: {event['best']:.4f}"
            )


class RlDisplay(TrainingDisplay):
    """The bar counts rounds and shows the mean reward."""

    description = "rl"

    def _show_update(self, event: dict) -> None:
        self.advance(reward=event["reward"], **{"tokens/s": event["tokens_per_second"]})

    def _show_tally(self, event: dict) -> None:
        self.say(
            f"round {event['updates']:,}: {event['rewarded']:,} of {event['answers']:,} answers so "
            f"far rewarded, {event['learned']:,} of {event['questions']:,} questions learned from"
        )


def describe_extension(event: dict) -> str:
    """Return how a run that is extended by more steps differs from one long run."""
    text = "after update {updates:,} the run continues to {steps:,} steps instead of {from_steps:,}"
    if event["decay_differs_from"] is None:
        text += ": equal to one run of {steps:,} steps, bit for bit"
    else:
        text += (
            "; rates and decay are from now on those of a run of {steps:,} steps. One such run "
            "would have had another weight decay from update {decay_differs_from} on, and "
        )
        differs = event["rates_differ_from"]
        text += "other rates from update {rates_differ_from:,} on" if differs else "the same rates"
        text += "; only runs with --schedule constant equal one long run when extended"
    return text.format_map(event)


def duration(seconds: float) -> str:
    """Return seconds, minutes or hours as text."""
    if seconds < 90:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 5400 else f"{seconds / 3600:.2f} h"
