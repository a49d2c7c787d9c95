"""References of mlx-heads' losses: PyTorch, coral-pytorch, or a paper's formula in torch.

Used by tools/make_fixtures_heads.py and benchmarks/heads.py. All is float64 of float32 inputs, so
that a reference is exact to float32. Gradients are torch's.
"""

import json

import numpy as np

from heads_losses.cases import Cases
from heads_losses.classification import classification, focal, reductions
from heads_losses.embeddings import embeddings, ranking
from heads_losses.ordinal import ordinal
from heads_losses.regression import intervals, regression


def loss_cases(seed: int) -> dict[str, np.ndarray]:
    """Return inputs, losses and gradients by case, and as JSON in `cases` what each case is."""
    random, cases = np.random.default_rng(seed), Cases()
    for add in (
        classification,
        focal,
        reductions,
        regression,
        intervals,
        ordinal,
        embeddings,
        ranking,
    ):
        add(cases, random)
    return {"cases": np.array(json.dumps(cases.descriptions)), **cases.arrays}
