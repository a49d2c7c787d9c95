"""Losses of values, quantiles and Gaussians."""

import math

import numpy as np
import torch
import torch.nn.functional as F

from heads_losses.cases import Cases, floats, rows


def regression(cases: Cases, random) -> None:
    values = floats([*2 * random.normal(size=40), 0, 1, -1, 0.7, 1e4, -1e4])
    targets = floats([*random.normal(size=40), *[0.0] * 6])
    wide = floats(random.normal(size=(12, 3)))
    inputs, wide_inputs = [values, targets], [wide, wide[::-1].copy()]

    def log_cosh(values, targets):
        return rows(torch.logaddexp(values - targets, targets - values) - math.log(2))

    def msle(values, targets):
        return rows((torch.log1p(values) - torch.log1p(targets)) ** 2)

    def of(function, **options):
        return lambda values, targets: rows(function(values, targets, reduction="none", **options))

    for short, name, function in (
        ("mse", "mean_squared_error", F.mse_loss),
        ("mae", "mean_absolute_error", F.l1_loss),
    ):
        for suffix, arrays in (("", inputs), ("_wide", wide_inputs)):
            cases.add(short + suffix, name, f"torch {function.__name__}", of(function), arrays)
    for delta in (1.0, 0.7):
        cases.add(
            f"huber_{delta}",
            "huber",
            "torch huber_loss",
            of(F.huber_loss, delta=delta),
            inputs,
            delta=delta,
        )
        cases.add(
            f"smooth_l1_{delta}",
            "smooth_l1",
            "torch smooth_l1_loss",
            of(F.smooth_l1_loss, beta=delta),
            inputs,
            beta=delta,
        )
    tiny = floats([*values, 1e-3, -1e-4, 1e-20])
    cases.add("log_cosh", "log_cosh", "log cosh e", log_cosh, [tiny, floats([*targets, 0, 0, 0])])
    positive = [floats(np.exp(each)) for each in (values[:40], targets[:40])]
    positive = [floats([*positive[0], 0, 1e4, -0.9]), floats([*positive[1], 1e4, 0, 0])]
    cases.add("msle", "mean_squared_log_error", "(log1p a - log1p b)^2", msle, positive)


def intervals(cases: Cases, random) -> None:
    """Quantiles and Gaussians."""
    levels = [0.05, 0.5, 0.95]

    def pinball(outputs, targets):
        errors = targets.reshape(outputs.shape[:-1])[..., None] - outputs
        q = torch.tensor(np.float32(levels).astype(float))
        return rows(torch.maximum(q * errors, (q - 1) * errors).mean(-1))

    def gaussian(beta=0.0, full=False):
        def function(outputs, targets):
            mean, variance = outputs[..., 0], outputs[..., 1].exp()
            targets = targets.reshape(mean.shape)
            losses = F.gaussian_nll_loss(mean, targets, variance, full, 1e-6, "none")
            return rows(losses * variance.detach().clamp(min=1e-6) ** beta)

        return function

    outputs, targets = (
        floats(2 * random.normal(size=(20, 4, 3))),
        floats(random.normal(size=(20, 4))),
    )
    outputs[0, 0], outputs[1, 1] = [1e4, -1e4, 1e4], [-1e4, -1e4, -1e4]
    paper = "Koenker and Bassett 1978"
    cases.add("quantile", "quantile_loss", paper, pinball, [outputs, targets], levels=levels)
    cases.add(
        "quantile_one",
        "quantile_loss",
        paper,
        pinball,
        [outputs[:, 0], targets[:, 0]],
        levels=levels,
    )
    outputs = outputs[:, :, :2].copy()
    outputs[:3, 0] = [[1e4, 50], [3, -50], [0.5, -14.5]]  # two below the floor of log 1e-6
    outputs[0, 0], outputs[1, 1] = [1e4, 50], [-1e4, 10]
    inputs, name = [outputs, targets], "torch gaussian_nll_loss"
    cases.add("gaussian", "gaussian_nll", name, gaussian(), inputs)
    cases.add("gaussian_full", "gaussian_nll", name, gaussian(full=True), inputs, full=True)
    one = [outputs[3:, :1], targets[3:, 0]]
    cases.add(
        "gaussian_beta", "gaussian_nll", "Seitzer et al. 2022, eq. 5", gaussian(0.5), one, beta=0.5
    )
