"""What a fine-tuning run will do, from its settings and rows; the weights are not read."""

from mlx_gpt.data.batching import EpochBatches, padding_ratio
from mlx_gpt.data.inspection import find_overlap
from mlx_gpt.models.files import find_model_folder, read_model_config
from mlx_gpt.tokenizer.loading import load_tokenizer
from mlx_gpt.training.estimate import describe, estimate
from mlx_gpt.training.finetune_data import Dataset, read_dataset
from mlx_gpt.training.finetune_model import prepare_tokenizer
from mlx_gpt.training.finetune_settings import FinetuneConfig


def plan_run(config: FinetuneConfig) -> list[str]:
    """Return the lines of `--dry-run`: rows, updates and memory."""
    config.check()
    folder = find_model_folder(config.model)
    tokenizer = load_tokenizer(folder)
    prepare_tokenizer(tokenizer, config.data)
    longest = read_model_config(folder).sequence_len
    train = read_dataset(config, config.data.train, tokenizer, longest)
    valid = None
    if config.data.valid:
        valid = read_dataset(config, config.data.valid, tokenizer, longest)
    batches = epoch_batches(train, config, longest)
    found = estimate(config, batches.plan)
    return [*describe_rows(train, valid, batches, config), *describe(found, config)]


def epoch_batches(data: Dataset, config: FinetuneConfig, sequence_len: int) -> EpochBatches:
    """Return the batches to train on; `sequence_len` is the model's longest context."""
    capacity = min(config.data.max_tokens, sequence_len) if config.data.pack else None
    return data.epochs(config.training.batch_size, capacity, config.training.seed)


def count_updates(batches: EpochBatches, config: FinetuneConfig) -> int:
    """Return the updates of the whole run."""
    return config.training.steps or config.training.epochs * batches.per_epoch


def describe_rows(
    train: Dataset, valid: Dataset | None, batches: EpochBatches, config: FinetuneConfig
) -> list[str]:
    """Return lines about the rows, what happened to some of them, and the updates."""
    lengths, updates = train.lengths, count_updates(batches, config)
    sizes = [sum(len(each.rows) for each in update) for update in batches.plan]
    rows = f"{max(sizes)} rows" if min(sizes) == max(sizes) else f"up to {max(sizes)} rows"
    return [
        *train.notes,
        *(_describe_held_out(train, valid) if valid else []),
        f"{len(lengths):,} rows of {train.tokens:,} tokens, {train.targets:,} of them learned; "
        f"{padding_ratio(batches.plan, lengths):.2f} computed for each",
        f"{updates:,} updates of {rows}, {updates / batches.per_epoch:.3g} epochs",
    ]


def _describe_held_out(train: Dataset, valid: Dataset) -> list[str]:
    """Return what happened to held-out rows, and how many of them are trained on."""
    overlap, rows = find_overlap(train.rows, valid.rows), len(valid.rows)
    lines = list(valid.notes)
    if overlap["rows"] or overlap["questions"]:
        lines.append(
            f"{overlap['rows']:,} of {rows:,} held-out rows are trained on too, and of "
            f"{overlap['questions']:,} the question: their loss does not tell how the model does "
            "on new rows"
        )
    return lines
