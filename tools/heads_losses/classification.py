"""Cross-entropies, focal and asymmetric losses, R-Drop, and weighted means of some."""

import numpy as np
import torch
import torch.nn.functional as F

from heads_losses.cases import Cases, floats, rows


def classification(cases: Cases, random) -> None:
    z, y = binary_inputs(random)
    name, torch_bce = "binary_cross_entropy", "torch binary_cross_entropy_with_logits"
    cases.add("bce", name, torch_bce, bce(), [z, y])
    cases.add("bce_soft", name, torch_bce, bce(), [z, floats(random.uniform(size=50))])
    cases.add("bce_weight", name, torch_bce, bce(2.5), [z, y], pos_weight=2.5)
    cases.add(
        "bce_smooth_weight",
        name,
        torch_bce,
        bce(2.5, 0.1),
        [z, y],
        pos_weight=2.5,
        label_smoothing=0.1,
    )
    each = [0.5, 2.0, 1.0, 3.5, 1.25]
    wide = [z.reshape(10, 5), y.reshape(10, 5)]
    cases.add("bce_labels", name, torch_bce, bce(each), wide, pos_weight=each)
    z, y = multiclass_inputs(random)
    weights = floats(random.uniform(0.2, 3, 5)).tolist()
    for suffix, options in (
        ("", {}),
        ("_weight", {"class_weights": weights}),
        ("_smooth", {"label_smoothing": 0.2}),
        ("_smooth_weight", {"class_weights": weights, "label_smoothing": 0.2}),
    ):
        function = ce(options.get("class_weights"), options.get("label_smoothing", 0.0))
        cases.add(
            "ce" + suffix, "cross_entropy", "torch cross_entropy", function, [z, y], **options
        )

    def r_drop(one, other):
        log_p, log_q = F.log_softmax(one, 1), F.log_softmax(other, 1)
        both = (
            F.kl_div(log_q, log_p, reduction="none", log_target=True),
            F.kl_div(log_p, log_q, reduction="none", log_target=True),
        )
        return (both[0] + both[1]).sum(1) / 2

    def binary_r_drop(one, other):
        return r_drop(*(torch.stack([each, torch.zeros_like(each)], 1) for each in (one, other)))

    other = floats(z + random.normal(size=z.shape))
    cases.add("r_drop", "r_drop_loss", "torch kl_div", r_drop, [z, other], (0, 1))
    one, other = z[:, 0], other[:, 1]
    cases.add("r_drop_binary", "r_drop_loss", "torch kl_div", binary_r_drop, [one, other], (0, 1))


def focal(cases: Cases, random) -> None:
    """Focal and asymmetric loss: torch has neither."""

    def binary(gamma, alpha=0.5):
        def function(logits, targets):
            log_p_t = F.logsigmoid(torch.where(targets == 1, logits, -logits))
            alpha_t = torch.where(targets == 1, alpha, 1 - alpha)
            return rows(-alpha_t * (1 - log_p_t.exp()) ** gamma * log_p_t)

        return function

    def multiclass(gamma, alpha):
        def function(logits, targets):
            log_p_t = -F.cross_entropy(logits, targets, reduction="none")
            return -torch.tensor(alpha)[targets] * (1 - log_p_t.exp()) ** gamma * log_p_t

        return function

    def asymmetric(negative, positive, margin, stop):
        def function(logits, targets):
            p = logits.sigmoid()
            shifted = (p - margin).clamp(min=0)
            up, down = (1 - p) ** positive, shifted**negative
            up, down = (up.detach(), down.detach()) if stop else (up, down)
            log_rest = (1 - shifted).log() if margin else F.logsigmoid(-logits)
            return rows(-targets * up * F.logsigmoid(logits) - (1 - targets) * down * log_rest)

        return function

    z, y = binary_inputs(random)
    wide, paper = [z.reshape(10, 5), y.reshape(10, 5)], "Lin et al. 2017, eq. 5"
    add = cases.add
    add("focal", "focal_loss", paper, lambda z, y: 2 * binary(2)(z, y), [z, y])
    add("focal_alpha", "focal_loss", paper, binary(1.5, 0.25), [z, y], gamma=1.5, alpha=0.25)
    add("focal_labels", "focal_loss", paper, binary(2, 0.25), wide, alpha=0.25)
    classes = multiclass_inputs(random)
    alpha = floats(random.uniform(0.2, 3, 5)).astype(float).tolist()
    add("focal_classes", "focal_loss", paper, multiclass(2, [1.0] * 5), classes)
    add(
        "focal_classes_alpha",
        "focal_loss",
        paper,
        multiclass(3, alpha),
        classes,
        gamma=3,
        alpha=alpha,
    )
    paper = "Ridnik et al. 2021, eq. 7"
    add("asymmetric", "asymmetric_loss", paper, asymmetric(4, 1, 0.05, False), wide)
    add(
        "asymmetric_stop",
        "asymmetric_loss",
        paper,
        asymmetric(4, 1, 0.05, True),
        [z, y],
        stop_focus_gradient=True,
    )
    add(
        "asymmetric_no_margin",
        "asymmetric_loss",
        paper,
        asymmetric(2, 0, 0.0, False),
        [z, y],
        gamma_negative=2,
        gamma_positive=0,
        margin=0.0,
    )


def reductions(cases: Cases, random) -> None:
    """Means and sums with weights; the reference leaves out the ignored rows and elements."""
    z, y = multiclass_inputs(random)
    z, y = z[2:], y[2:].copy()
    y[::4] = -100
    weight = [0.5, 2.0, 1.0, 3.0, 1.5]
    for reduction in ("mean", "sum"):
        function = ce(weight, 0.1, ignore_index=-100, reduction=reduction)
        cases.add(
            f"ce_{reduction}",
            "cross_entropy",
            "torch cross_entropy",
            function,
            [z, y],
            class_weights=weight,
            label_smoothing=0.1,
            ignore_index=-100,
            reduction=reduction,
        )
    rows_weight = floats(random.uniform(0.2, 2, len(z))).tolist()

    def weighted(function, mean):
        def reduced(outputs, targets):
            sums = []
            for row, target, factor in zip(outputs, targets, rows_weight, strict=True):
                kept = target != -1
                if kept.any():
                    row, target = (row[kept], target[kept]) if target.ndim else (row, target)
                    sums.append((factor * function(row[None], target[None])[0], factor))
            total = sum(value for value, _ in sums)
            return total / sum(factor for _, factor in sums) if mean else total

        return reduced

    labels = floats(random.integers(-1, 2, z.shape))
    labels[3] = -1
    options = {"sample_weight": rows_weight, "ignore_index": -1}
    for reduction in ("mean", "sum"):
        for short, name, function, reference in (
            ("bce", "binary_cross_entropy", bce(), "torch binary_cross_entropy_with_logits"),
            (
                "mse",
                "mean_squared_error",
                lambda a, b: rows(F.mse_loss(a, b, reduction="none")),
                "torch mse_loss",
            ),
        ):
            cases.add(
                f"{short}_weighted_{reduction}",
                name,
                reference,
                weighted(function, reduction == "mean"),
                [z, labels],
                reduction=reduction,
                **options,
            )


def bce(pos_weight=None, smoothing=0.0):
    weight = None if pos_weight is None else torch.tensor(pos_weight, dtype=torch.float64)

    def function(logits, targets):
        targets = targets * (1 - smoothing) + smoothing / 2
        return rows(
            F.binary_cross_entropy_with_logits(logits, targets, reduction="none", pos_weight=weight)
        )

    return function


def ce(class_weights=None, smoothing=0.0, **options):
    weight = None if class_weights is None else torch.tensor(class_weights, dtype=torch.float64)
    options = {"reduction": "none"} | options
    return lambda logits, targets: F.cross_entropy(
        logits, targets, weight=weight, label_smoothing=smoothing, **options
    )


def binary_inputs(random) -> tuple[np.ndarray, np.ndarray]:
    extreme = [0, 0, 30, 30, -30, -30, 1e4, 1e4, -1e4, -1e4]
    logits = np.concatenate([3 * random.normal(size=40), extreme])
    return logits.astype(np.float32), floats([*random.integers(0, 2, 40), *[0, 1] * 5])


def multiclass_inputs(random) -> tuple[np.ndarray, np.ndarray]:
    logits = 3 * random.normal(size=(30, 5))
    logits[:3] = [[1e4, -1e4, 0, 0, 0], [1e4, 1e4, -1e4, 1e4, 0], [0, 0, 0, 0, 0]]
    return floats(logits), random.integers(0, 5, 30)
