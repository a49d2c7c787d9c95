"""The linear model on the scale of each ordinal loss."""

import mlx.core as mx
import numpy as np
import pytest

from mlx_heads import get_objective
from mlx_kaggle.members.objective import link_logits

LOSSES = ["corn", "coral", "cumulative_logit", "cumulative_probit", "cumulative_cloglog"]


@pytest.mark.parametrize("loss", LOSSES)
def test_the_head_of_every_loss_reads_the_same_chances(loss):
    logits = np.array([[1.5, 0.2, -1.0], [-0.5, -0.7, -3.0]], np.float32)  # of y > k
    above = 1 / (1 + np.exp(-logits))
    expected = -np.diff(np.pad(above, ((0, 0), (1, 1)), constant_values=((0, 0), (1, 0))), axis=1)
    head = get_objective("ordinal", loss).build_head(4, 4)
    found = np.array(head.predict(mx.array(link_logits(logits, loss))))
    np.testing.assert_allclose(found, expected, atol=1e-5)
