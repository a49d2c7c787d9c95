"""Start or continue a run folder of fine-tuning, as `mlx-gpt sft` and `mlx-gpt rl` do."""

from pathlib import Path

from mlx_gpt.machine import prepare_machine
from mlx_gpt.report.display import Display
from mlx_gpt.training import rl, sft
from mlx_gpt.training.going_on import divergence_explained
from mlx_gpt.training.runs import opened, paths_explained


class ConversationBar(Display):
    """A bar of conversations: how many updates they make is not known beforehand."""

    def _start(self, event: dict) -> None:
        super()._start(event | {"updates": event["used"]})

    def _update(self, event: dict) -> None:
        if self._bar:
            shown = {"loss": event["smooth_loss"], "tokens/s": event["tokens_per_second"]}
            self._bar.advance(event["used"] - self._bar.completed, **shown)

    def _end(self, event: dict) -> None:
        super()._end(event)
        for name, text in _LEFT_OUT.items():
            if event[name]:
                self.say(f"{event[name]:,} conversations {text}")


_LEFT_OUT = {
    "truncated": "longer than a row were cut",
    "dropped": "longer than a row were left out",
    "without_target": "had no answer within a row and were left out",
}


class RewardBar(Display):
    """A bar that shows the mean reward."""

    def _update(self, event: dict) -> None:
        if self._bar:
            shown = {"reward": event["reward"], "tokens/s": event["tokens_per_second"]}
            self._bar.advance(1, **shown)

    def _tally(self, event: dict) -> None:
        self.say(
            f"round {event['updates']:,}: {event['rewarded']:,} of {event['answers']:,} answers so "
            f"far rewarded, {event['learned']:,} of {event['questions']:,} questions learned from"
        )


def run_finetuning(
    config: sft.SftConfig, output: Path, resume: bool = False, overwrite: bool = False
) -> None:
    """Make the machine fast, build, make or open the run folder, and fine-tune."""
    machine = prepare_machine()
    with paths_explained(output, resume):
        job = sft.build(config)
    prepare_machine(job.step.threads)
    with (
        opened(output, job.config, resume, overwrite) as run,
        ConversationBar(run, "sft") as display,
    ):
        display.say(f"mlx-fastcpu: {machine}")
        training = job.config.training
        display.say(
            f"{len(job.train.conversations):,} conversations x {training.epochs}, rows of "
            f"{training.sequence_len:,} tokens, {training.batch_tokens:,} tokens an update, "
            f"momentum {'of the base run' if job.kept_momentum else 'from 0'}"
        )
        with divergence_explained(output, "training.initial_rate", training.initial_rate):
            sft.finetune(job, output, display, resume)
        _say_what_next(display, output)


def run_reinforcement(
    config: rl.RlConfig, output: Path, resume: bool = False, overwrite: bool = False
) -> None:
    """Make the machine fast, build, make or open the run folder, and reinforce on GSM8K."""
    machine = prepare_machine()
    with paths_explained(output, resume):
        job = rl.build(config)
    prepare_machine(job.step.threads)
    with opened(output, job.config, resume, overwrite) as run, RewardBar(run, "rl") as display:
        display.say(f"mlx-fastcpu: {machine}")
        answers, training = job.config.answers, job.config.training
        unasked = len(job.train) * training.epochs - job.rounds * answers.questions
        display.say(
            f"{len(job.train):,} questions, {job.rounds:,} rounds of {answers.questions} with "
            f"{answers.samples} answers each, learned from {job.rows} at once"
            + (f"; {unasked:,} that make no whole round are left out" if unasked else "")
        )
        with divergence_explained(output, "training.initial_rate", training.initial_rate):
            rl.reinforce(job, output, display, resume)
        _say_what_next(display, output)


def _say_what_next(display: Display, output: Path) -> None:
    display.say(f"model: {output / 'model'}")
    display.say(f"next: mlx-gpt chat --model {output}")
