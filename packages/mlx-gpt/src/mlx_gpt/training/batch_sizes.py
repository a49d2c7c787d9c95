"""How many tokens an update has, and how many rows a process computes at once."""

from mlx_gpt.training.limits import SettingsError
from mlx_gpt.training.plan import Plan, make_plan
from mlx_gpt.training.pretrain_config import PretrainConfig
from mlx_trainer import world_size

MOST_ROWS = 32  # nanochat's device batch size


def plan_of(config: PretrainConfig, vocab_size: int) -> Plan:
    """Return the plan that a configuration asks for; its batch is one that rows make exactly."""
    model, training = config.model, config.training

    def plan(batch_tokens: int | None) -> Plan:
        return make_plan(
            model.depth,
            vocab_size,
            model.sequence_len,
            model.window_pattern,
            model.width_per_layer,
            model.head_dim,
            model.n_kv_head,
            training.tokens_per_parameter,
            batch_tokens,
            training.steps,
        )

    given = training.batch_tokens
    try:
        usual = plan(given).batch_tokens
    except ValueError as error:
        raise SettingsError(str(error)) from None
    return plan(fit_batch(given, training.device_batch_size, model.sequence_len, usual)[0])


def fit_batch(
    batch_tokens: int | None,
    rows: int | None,
    sequence_len: int,
    usual_tokens: int,
    most_rows: int = MOST_ROWS,
) -> tuple[int, int]:
    """Return tokens an update and rows of a micro-batch, so that micro-batches make the update.

    What is None is chosen: tokens as near to `usual_tokens` as fits, and the largest number of rows
    up to `most_rows` that fits. Raises `SettingsError` where what is given does not fit together.
    """
    row = sequence_len * world_size()
    if batch_tokens is None:
        at_once = row * (rows or (most_rows if usual_tokens >= most_rows * row else 1))
        batch_tokens = max(1, round(usual_tokens / at_once)) * at_once
    if rows is None:
        count = micro_batches(batch_tokens, 1, sequence_len)
        rows = largest_divisor(count, most_rows)
    micro_batches(batch_tokens, rows, sequence_len)
    return batch_tokens, rows


def micro_batches(batch_tokens: int, rows: int, sequence_len: int) -> int:
    """Return how many micro-batches make an update; `SettingsError` unless they fit exactly."""
    at_once = rows * sequence_len * world_size()
    if batch_tokens % at_once:
        below = max(1, batch_tokens // at_once) * at_once
        of_rows = f"device_batch_size {rows} x " if rows > 1 else ""
        another = "device_batch_size" if rows > 1 else "sequence_len"
        raise SettingsError(
            f"batch_tokens {batch_tokens:,} is not a multiple of {at_once:,} = {of_rows}"
            f"sequence_len {sequence_len} x {world_size()} processes; take {below:,} or another "
            f"{another}"
        )
    return batch_tokens // at_once


def largest_divisor(number: int, most: int) -> int:
    """Return the largest divisor of a number that is no larger than `most`."""
    return next(each for each in range(min(number, most), 0, -1) if number % each == 0)
