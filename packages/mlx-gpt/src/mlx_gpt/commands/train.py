"""`mlx-gpt train`."""

from functools import partial
from pathlib import Path
from typing import Any

import click

from mlx_gpt.commands.options import Finite, check_resume

FOLDER = click.Path(file_okay=False, path_type=Path)
POSITIVE = click.IntRange(1)

EPILOG = """\b
Everything follows from --depth: width, tokens, batch, steps, learning rates and weight
decay, by nanochat's rules. --dry-run prints the plan and stops. What you give counts.

\b
On a laptop or a few CPU cores:
  mlx-gpt train --data shards/ --tokenizer tokenizer/ --output runs/d4 --depth 4 \\
    --sequence-len 512 --batch-tokens 16384 --device-batch-size 8 --steps 500

\b
Two processes that share each batch:
  mlx.launch -n 2 -- mlx-gpt train ...

\b
More steps for a run, finished or not; other text for a model, with its tokenizer:
  mlx-gpt train --resume --output runs/d4 --steps 1000
  mlx-gpt train --init-from runs/d4 --data other/ --output runs/d4-other --steps 500

Settings: --config FILE, then flags, then --set; later ones win. A wrong key is an error.
"""

# Where the settings of the flags are in the configuration.
_KEYS = {
    "data": "data.train",
    "init_from": "model.init_from",
    "numbers": "data.numbers",
    "valid": "data.valid",
    "oversize": "data.oversize",
    "tokenizer": "data.tokenizer",
    "depth": "model.depth",
    "sequence_len": "model.sequence_len",
    "window_pattern": "model.window_pattern",
    "dtype": "model.dtype",
    "checkpoint_blocks": "model.checkpoint_blocks",
    "batch_tokens": "training.batch_tokens",
    "device_batch_size": "training.device_batch_size",
    "steps": "training.steps",
    "schedule": "training.schedule",
    "tokens_per_parameter": "training.tokens_per_parameter",
    "seed": "training.seed",
    "threads": "training.threads",
    "evaluate_every": "report.evaluate_every",
    "sample_every": "report.sample_every",
    "core": "report.core",
    "core_every": "report.core_every",
    "checkpoint_every": "report.checkpoint_every",
}


class Numbers(click.ParamType):
    """`0-199` or `0,3,6542` as a list of integers."""

    name = "numbers"

    def convert(
        self, value: str, param: click.Parameter | None, ctx: click.Context | None
    ) -> list[int]:
        """Return the numbers; fail with a usage error."""
        found: list[int] = []
        for part in value.split(","):
            first, _, last = part.partition("-")
            if not (first.isdigit() and (last or first).isdigit()):
                self.fail(f"{value!r} is not like 0-199 or 0,3,6542", param, ctx)
            found += range(int(first), int(last or first) + 1)
        return found


@click.command(epilog=EPILOG)
@click.option("--data", help="Shards of text, .parquet, .jsonl, .txt or .md: folder, pattern, "
              "manifest, URL template, hf:owner/name[:pattern].")  # fmt: skip
@click.option("--numbers", type=Numbers(), help="Shards of a URL template, such as 0-199,6542.")
@click.option("--valid", help="Shards to validate on.  [default: the last of --data]")
@click.option("--oversize", type=click.Choice(["split", "crop", "drop"]),
              help="Documents longer than a row: go on in other rows, drop their rest as nanochat, "
              "drop them.  [default: split]")  # fmt: skip
@click.option("--tokenizer", type=click.Path(exists=True), help="Folder of `mlx-gpt tokenizer`.")
@click.option("--output", type=FOLDER, help="Run folder to write.")
@click.option("--init-from", metavar="MODEL", help="Model or run folder to begin with: its "
              "weights, shape and tokenizer.  [default: fresh weights]")  # fmt: skip
@click.option("--depth", type=POSITIVE, help="Layers; sets everything else.  [default: 12]")
@click.option("--sequence-len", type=POSITIVE, help="Tokens a row.  [default: 2048]")
@click.option("--window-pattern", help="S and L for each layer, repeated.  [default: SSSL]")
@click.option("--batch-tokens", type=POSITIVE, help="Tokens an update.  [default: by depth]")
@click.option("--device-batch-size", type=POSITIVE,
              help="Rows at once; less needs less memory.  "
                   "[default: what fits, up to 32]")  # fmt: skip
@click.option("--steps", type=POSITIVE, help="Updates; with --resume more of them.  "
              "[default: by --tokens-per-parameter]")  # fmt: skip
@click.option("--tokens-per-parameter", type=Finite(0, min_open=True),
              help="[default: 12]")  # fmt: skip
@click.option("--schedule", type=click.Choice(["nanochat", "constant"]), help="Whether rates and "
              "decay fall towards the end; constant ones let a run go on for more steps as if it "
              "had been meant to.  [default: nanochat]")  # fmt: skip
@click.option("--dtype", type=click.Choice(["auto", "float32", "bfloat16"]),
              help="[default: float32 on a CPU, bfloat16 elsewhere]")  # fmt: skip
@click.option("--checkpoint-blocks", is_flag=True, default=None,
              help="Gradient checkpointing: less memory, a third more work.")  # fmt: skip
@click.option("--evaluate-every", type=click.IntRange(0), help="Steps.  [default: 250]")
@click.option("--sample-every", type=click.IntRange(0), help="Steps.  [default: 2000]")
@click.option("--core", type=click.Path(exists=True, file_okay=False),
              help="Folder of CORE's tasks, as for `mlx-gpt eval`.")  # fmt: skip
@click.option("--core-every", type=click.IntRange(0), help="Steps.  [default: 2000]")
@click.option("--checkpoint-every", type=click.IntRange(0),
              help="Steps.  [default: every 10 minutes]")  # fmt: skip
@click.option("--seed", type=click.IntRange(0), help="Of weights and order.  [default: 0]")
@click.option("--threads", type=click.IntRange(0), help="On a CPU.  [default: its cores]")
@click.option("--config", type=click.Path(exists=True, dir_okay=False), help="YAML of settings.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="One setting.")
@click.option("--resume", is_flag=True, help="Continue the run in --output where it stopped.")
@click.option("--overwrite", is_flag=True, help="Replace the run in --output.")
@click.option("--dry-run", is_flag=True, help="Print the plan, and stop.")
def train(output: Path | None, config: str | None, overrides: tuple[str, ...], resume: bool,
          overwrite: bool, dry_run: bool, **options: Any) -> None:  # fmt: skip
    """Pretrain a GPT on shards of text, with nanochat's model, optimizer and rules."""
    flags = {_KEYS[name]: value for name, value in options.items() if value is not None}
    if output is None and not dry_run:
        raise click.UsageError("Missing option '--output'.")
    check_resume(resume, flags, config or overrides or overwrite, ("training.steps",))
    for name in ("data", "tokenizer"):
        given = options[name] or (name == "tokenizer" and options["init_from"])
        if not (given or resume or config):
            raise click.UsageError(f"Missing option '--{name}'.")
    from mlx_gpt.training.batch_sizes import plan_of
    from mlx_gpt.training.pretrain_config import PretrainConfig
    from mlx_gpt.training.runs import resolve, run_pretraining
    from mlx_gpt.training.starting import check_shape, settings_of

    chosen_by = partial(resolve, PretrainConfig, flags, config, overrides, output, resume)
    chosen = chosen_by(base={"data": {"tokenizer": ""}})
    if not resume:
        decided = settings_of(chosen.model.init_from) if chosen.model.init_from else None
        chosen = chosen_by(base=decided)
        if decided:
            check_shape(chosen, decided)
    if dry_run:
        from mlx_gpt.tokenizer import Tokenizer

        click.echo(plan_of(chosen, Tokenizer.load(chosen.data.tokenizer).vocab_size).table())
        return
    assert output is not None
    run_pretraining(chosen, output, resume, overwrite, options["steps"] if resume else None)
