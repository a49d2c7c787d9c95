"""Options that several commands share."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import wraps
from pathlib import Path
from typing import Any

import click

from mlx_trainer.command_line import Finite

INPUT_FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)
OUTPUT_FOLDER = click.Path(file_okay=False, path_type=Path)
AT_LEAST_1 = click.IntRange(1)

overwrite_option = click.option(
    "--overwrite", is_flag=True, help="Replace --output, if it is a folder that mlx-gpt wrote."
)


api_key_option = click.option(
    "--api-key-env", metavar="NAME", help="Environment variable with the server's key."
)


def api_key(name: str | None) -> str | None:
    """Return the key in an environment variable, None without a name."""
    if name is None:
        return None
    if not (key := os.environ.get(name, "").strip()):
        raise click.UsageError(f"--api-key-env: the environment variable {name} is not set")
    return key


def numbers(text: str) -> list[int]:
    """Return the numbers in an option such as 32,256."""
    try:
        found = [int(each) for each in text.split(",")]
    except ValueError:
        found = [0]
    if min(found) < 1:
        raise click.UsageError(f"expected numbers of 1 or more with commas between, got {text!r}")
    return found


def _use_device(context: click.Context, parameter: click.Parameter, value: str) -> None:
    if value == "auto":
        return
    from mlx_gpt.machine import use_device

    try:
        use_device(value)
    except ValueError as error:
        raise click.BadParameter(str(error), context, parameter) from None


device_option = click.option(
    "--device", type=click.Choice(["auto", "cpu", "gpu"]), default="auto", show_default=True,
    expose_value=False, callback=_use_device,
    help="auto: Metal, else CUDA, else the CPU.",
)  # fmt: skip

SETTINGS_EPILOG = """\
Settings: --config FILE, then flags, then --set; later ones win. A wrong key is an error.
"""


@dataclass(frozen=True)
class RunOptions:
    """The options of a training command besides its settings."""

    config: str | None
    overrides: tuple[str, ...]
    resume: bool
    overwrite: bool

    def check(
        self, flags: Mapping[str, object], required: Mapping[str, str], changeable: str = ""
    ) -> None:
        """Raise a usage error for a missing flag, and for settings given with `--resume`.

        `required` maps keys to flags; only the setting `changeable` is allowed with `--resume`.
        """
        others = self.config or self.overrides or self.overwrite
        if self.resume and (others or flags.keys() - {changeable}):
            but = f" but --{changeable.rpartition('.')[2]}" if changeable else ""
            raise click.UsageError(
                f"--resume takes everything{but} from --output; leave the rest out"
            )
        for key, flag in required.items():
            if not (key in flags or self.resume or self.config):
                raise click.UsageError(f"Missing option '{flag}'.")


def run_options(function: Callable) -> Callable:
    """Add the options of `RunOptions`, which the command gets as `run`, and `--device`."""
    names = [each.name for each in fields(RunOptions)]

    @wraps(function)
    def command(**values: Any) -> Any:
        run = RunOptions(**{name: values.pop(name) for name in names})
        return function(run=run, **values)

    for option in (
        click.option("--overwrite", is_flag=True, help="Replace the run in --output."),
        click.option("--resume", is_flag=True, help="Continue the run in --output."),
        click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE",
                     help="Any setting of config.yaml; repeatable."),
        click.option("--config", type=click.Path(exists=True, dir_okay=False),
                     help="YAML file of settings."),
    ):  # fmt: skip
        command = option(command)
    return device_option(command)


SAMPLING = ("temperature", "top_k", "top_p", "min_p", "seed", "repetition_penalty",
            "presence_penalty", "frequency_penalty")  # fmt: skip
SAMPLING_DEFAULTS = {"top_k": 50, "top_p": 1.0, "min_p": 0.0, "repetition_penalty": 1.0}


def sampling_options(max_tokens: int, temperature: float) -> Callable[[Callable], Callable]:
    """Return a decorator that adds the options of sampling, with these defaults.

    The command gets `max_tokens`, and `sampling` with the arguments of `Sampling`, None where the
    user gives none.
    """
    shown = SAMPLING_DEFAULTS | {"temperature": temperature}

    def text(name: str, help: str) -> str:
        return f"{help}  [default: the model's generation_config.json, else {shown[name]}]"

    def decorate(function: Callable) -> Callable:
        @wraps(function)
        def command(**values: Any) -> Any:
            return function(sampling={name: values.pop(name) for name in SAMPLING}, **values)

        for option in (
            click.option("--frequency-penalty", type=Finite(),
                         help="Taken from a token's logit for each time it was generated."),
            click.option("--presence-penalty", type=Finite(),
                         help="Taken from the logits of tokens that were generated."),
            click.option("--repetition-penalty", type=Finite(0, min_open=True),
                         help=text("repetition_penalty", "Makes tokens of the text less likely.")),
            click.option("--seed", type=click.IntRange(0), help="Makes the sampling repeatable."),
            click.option("--min-p", type=Finite(0, 1), help=text(
                         "min_p", "Sample from tokens with this fraction of the top probability.")),
            click.option("--top-p", type=Finite(0, 1, min_open=True), help=text(
                         "top_p", "Sample from the fewest tokens with this share of the "
                         "probability.")),
            click.option("--top-k", type=click.IntRange(0), help=text(
                         "top_k", "Sample from this many of the likeliest tokens; 0: all.")),
            click.option("--temperature", type=Finite(0),
                         help=text("temperature", "0 takes the likeliest token.")),
            click.option("--max-tokens", default=max_tokens, show_default=True, type=AT_LEAST_1,
                         help="Maximum tokens to generate."),
        ):  # fmt: skip
            command = option(command)
        return command

    return decorate


def engine_options(function: Callable) -> Callable:
    """Add the options of `EngineOptions`; the command gets their values as the dict `engine`."""
    names = ("adapter", "kv_bits", "kv_group_size", "draft_model", "num_draft_tokens", "ngram")

    @wraps(function)
    def command(**values: Any) -> Any:
        chosen = {name: values.pop(name) for name in names}
        if chosen["draft_model"] and chosen["ngram"]:
            raise click.UsageError("--draft-model and --ngram exclude each other")
        return function(engine={**chosen, "kv_bits": int(chosen["kv_bits"] or 0) or None}, **values)

    for option in (
        click.option("--ngram", default=0, type=click.IntRange(0, 8), metavar="N",
                     help="Guess tokens from places with the same last N tokens (3 is good)."),
        click.option("--num-draft-tokens", default=4, show_default=True, type=click.IntRange(1, 32),
                     help="Tokens to guess at a time."),
        click.option("--draft-model", type=INPUT_FOLDER,
                     help="Guess tokens with this smaller model of the same tokenizer."),
        click.option("--kv-group-size", type=int, default=64, show_default=True,
                     help="Numbers that share a scale: 32, 64 or 128."),
        click.option("--kv-bits", type=click.Choice(["4", "8"]),
                     help="Quantize keys and values.  [default: not]"),
        click.option("--adapter", type=INPUT_FOLDER,
                     help="Adapter of PEFT, mlx-lm or a finetune run."),
    ):  # fmt: skip
        command = option(command)
    return command
