"""Logits of ordered classes on the scale of each ordinal loss."""

import numpy as np
from scipy.special import expit, logit
from scipy.stats import norm

# Chances are kept this far from 0 and 1, so that logits stay finite.
MARGIN = 1e-4


def link_logits(outputs: np.ndarray, loss: str) -> np.ndarray:
    """Turn (N, K - 1) logits of y > k, decreasing over k, into those of a loss of mlx-heads.

    CORN has logits of y > k given y > k - 1; a cumulative link has its own inverse.
    """
    above = np.clip(expit(outputs.astype(np.float64)), MARGIN, 1 - MARGIN)
    if loss == "corn":
        reached = np.concatenate([np.ones((len(above), 1)), above[:, :-1]], 1)
        found = logit(np.clip(above / reached, MARGIN, 1 - MARGIN))
    elif loss == "cumulative_probit":
        found = norm.ppf(above)
    elif loss == "cumulative_cloglog":
        found = -np.log(-np.log(above))
    else:
        found = logit(above)
    return found.astype(np.float32)
