"""Whether fine-tuning helped: the loss of the same rows before the first update and at the end.

The losses of single updates are of different rows, so that they tell it only roughly.
"""

import math
from dataclasses import replace

from mlx_gpt.training.finetune_data import Dataset

_MOST_TOKENS = 8192  # of the training rows that are compared if none are held out
# A loss that is higher by less than this, or by less than this share, is no reason to warn.
_TOLERANCE = 0.02
_COLLAPSED = 1e-4  # relative; very high rates make all logits equal, up to rounding


def rows_to_compare(train: Dataset, valid: Dataset | None) -> Dataset:
    """Return the held-out rows, else about 8,192 tokens of training rows from all of the files."""
    if valid:
        return valid
    step = max(1, math.ceil(train.tokens / _MOST_TOKENS))
    reference = None if train.reference is None else train.reference[::step]
    return replace(train, rows=train.rows[::step], reference=reference)


def judge(before: float | None, after: float, uniform: float | None, held_out: bool) -> str:
    """Return a warning if training made the model worse, else "".

    It did if the loss is clearly higher than before, or that of a model that takes all tokens for
    equally likely, `uniform`, which is None if the loss is not one of tokens. If `before` is not
    known, a loss above `uniform` is a reason too.
    """
    is_worse = before is not None and after > before + _TOLERANCE * max(1.0, before)
    if uniform is not None:
        is_worse |= abs(after - uniform) < _COLLAPSED * uniform
        is_worse |= before is None and after > uniform
    if not is_worse:
        return ""
    rows = "held-out rows" if held_out else "rows that it was trained on"
    known = "" if before is None else f" and was {before:.4g} before training"
    guess = "" if uniform is None else f"; with all tokens equally likely it would be {uniform:.4g}"
    return f"training failed: the loss on {rows} is {after:.4g}{known}{guess}"
