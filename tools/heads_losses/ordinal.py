"""CORAL, CORN and cumulative links."""

import numpy as np
import torch
import torch.nn.functional as F
from coral_pytorch.losses import coral_loss, corn_loss

from heads_losses.cases import Cases, floats


def ordinal(cases: Cases, random) -> None:
    z = floats(np.sort(3 * random.normal(size=(30, 4)) - 0.1, axis=1)[:, ::-1])
    z -= floats(0.2 * np.arange(4))
    y = random.integers(0, 5, 30)
    z[:5], y[:5] = [1e4, 30, -30, -1e4], range(5)
    weights = [1.0, 2.0, 0.5, 1.5]

    def coral(weights=None, reduction=None):
        each = None if weights is None else torch.tensor(weights, dtype=torch.float64)

        def function(logits, targets):
            levels = (targets[:, None] > torch.arange(4)).double()
            return coral_loss(logits, levels, each, reduction)

        return function

    def corn_rows(logits, targets):
        """Return each row's loss by itself, times its number of tasks."""
        return torch.stack(
            [
                corn_loss(row[None], target[None], 5) * min(int(target) + 1, 4)
                for row, target in zip(logits, targets, strict=True)
            ]
        )

    name = "coral-pytorch"
    cases.add("coral", "coral_loss", name, coral(), [z, y])
    cases.add("coral_mean", "coral_loss", name, coral(reduction="mean"), [z, y], reduction="mean")
    cases.add(
        "coral_weight", "coral_loss", name, coral(weights), [z, y], importance_weights=weights
    )
    cases.add("corn", "corn_loss", name, corn_rows, [z, y])
    mean = lambda logits, targets: corn_loss(logits, targets, 5)  # noqa: E731
    cases.add("corn_mean", "corn_loss", name, mean, [z, y], reduction="mean")

    far = floats([[1e4, 9999, 9998.5, -1e4], [-9998, -9999, -9999.5, -1e4], [8, 7, 6, -9]])
    far, classes = np.concatenate([far, far, z[5:]]), np.concatenate([[2, 2, 2, 3, 3, 1], y[5:]])
    for link, log_cdf in (("logit", F.logsigmoid), ("probit", torch.special.log_ndtr)):
        cases.add(
            f"cumulative_{link}",
            "cumulative_link_loss",
            "McCullagh 1980, float64",
            symmetric_link(log_cdf),
            [far, classes],
            link=link,
        )
    low = z[5:].copy()
    low[:3], low[3:5] = [4, -1, -60, -300], [20, 3, -9, -10]
    cases.add(
        "cumulative_cloglog",
        "cumulative_link_loss",
        "McCullagh 1980, float64",
        cloglog,
        [low, y[5:]],
        link="cloglog",
    )


def symmetric_link(log_cdf):
    """Return the loss for G(-z) = 1 - G(z): differences are taken in the lower tail."""

    def log_probability(logits, k):
        if k == 0:
            return log_cdf(-logits[0])
        if k == len(logits):
            return log_cdf(logits[-1])
        upper, lower = logits[k - 1], logits[k]
        if upper + lower > 0:
            upper, lower = -lower, -upper
        high, low = log_cdf(upper), log_cdf(lower)
        return high + torch.log(-torch.expm1(low - high))

    return lambda logits, targets: (
        -torch.stack([log_probability(row, int(k)) for row, k in zip(logits, targets, strict=True)])
    )


def cloglog(logits, targets):
    """Return -log(exp(-e^b) - exp(-e^a)), where P(y > k) = 1 - exp(-exp(z_k))."""

    def log_probability(logits, k):
        upper = logits[k - 1].exp() if k else None
        lower = logits[k].exp() if k < len(logits) else torch.zeros(())
        rest = torch.log(-torch.expm1(lower - upper)) if upper is not None else 0.0
        return rest - lower

    return -torch.stack(
        [log_probability(row, int(k)) for row, k in zip(logits, targets, strict=True)]
    )
