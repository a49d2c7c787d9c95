"""Make the fixtures of mlx-heads' tests with PyTorch, coral-pytorch, scikit-learn and SciPy.

Run: python tools/make_fixtures_heads.py   (needs torch, coral-pytorch, scikit-learn, scipy)
"""

import json
import math
import warnings
from pathlib import Path

import numpy as np
import scipy.stats
import sklearn.calibration
import sklearn.metrics as sk

from heads_losses import loss_cases

FOLDER = Path(__file__).parents[1] / "packages/mlx-heads/tests/fixtures"


LABEL_METRICS = {
    "accuracy": sk.accuracy_score,
    "balanced_accuracy": sk.balanced_accuracy_score,
    "f1_macro": lambda y, p, sample_weight: sk.f1_score(
        y, p, average="macro", sample_weight=sample_weight
    ),
    "f1_micro": lambda y, p, sample_weight: sk.f1_score(
        y, p, average="micro", sample_weight=sample_weight
    ),
    "mcc": sk.matthews_corrcoef,
}
BINARY_LABEL_METRICS = {
    "f1": sk.f1_score,
    "precision": sk.precision_score,
    "recall": sk.recall_score,
}


def quadratic_kappa(y, p, sample_weight):
    labels = list(range(max([*y, *p]) + 1))
    if len(labels) == 1:
        labels = [0, 1]
    return sk.cohen_kappa_score(
        y, p, labels=labels, weights="quadratic", sample_weight=sample_weight
    )


def roc_auc(y, p, sample_weight):
    if np.ndim(p) == 1:
        return sk.roc_auc_score(y, p, sample_weight=sample_weight)
    labels = list(range(np.shape(p)[1]))
    return sk.roc_auc_score(
        y, p, multi_class="ovr", average="macro", labels=labels, sample_weight=sample_weight
    )


def log_loss(y, p, sample_weight):
    labels = list(range(2 if np.ndim(p) == 1 else np.shape(p)[1]))
    return sk.log_loss(y, y_proba=p, labels=labels, sample_weight=sample_weight)


def brier(y, p, sample_weight):
    labels = list(range(2 if np.ndim(p) == 1 else np.shape(p)[1]))
    return sk.brier_score_loss(y, p, labels=labels, sample_weight=sample_weight)


def pearson(y, p, sample_weight):
    if sample_weight is None:
        return scipy.stats.pearsonr(y, p).statistic
    covariance = np.cov(y, p, aweights=sample_weight)
    return covariance[0, 1] / math.sqrt(covariance[0, 0] * covariance[1, 1])


def spearman(y, p, sample_weight):
    if sample_weight is not None:  # whole weights: rows repeated
        if any(weight != int(weight) for weight in sample_weight):
            return None
        repeats = np.asarray(sample_weight, int)
        y, p = np.repeat(y, repeats), np.repeat(p, repeats)
    return scipy.stats.spearmanr(y, p).statistic


def smape(y, p, sample_weight):
    weights = [1.0] * len(y) if sample_weight is None else sample_weight
    terms = [
        2 * abs(a - b) / (abs(a) + abs(b)) if a or b else 0.0 for a, b in zip(y, p, strict=True)
    ]
    return math.fsum(t * w for t, w in zip(terms, weights, strict=True)) / math.fsum(weights)


VALUE_METRICS = {
    "rmse": sk.root_mean_squared_error,
    "mse": sk.mean_squared_error,
    "mae": sk.mean_absolute_error,
    "median_ae": sk.median_absolute_error,
    "r2": sk.r2_score,
    "mape": sk.mean_absolute_percentage_error,
    "smape": smape,
}
CORRELATIONS = {"spearman": spearman, "pearson": pearson}
LOG_METRICS = {
    "rmsle": sk.root_mean_squared_log_error,
    "rmse_log": lambda y, p, sample_weight: sk.root_mean_squared_error(
        np.log(y), np.log(p), sample_weight=sample_weight
    ),
}


def score(name, functions, y, p, weights=None):
    y, p = np.asarray(y), np.asarray(p)
    weights = None if weights is None else np.asarray(weights).tolist()
    scores = {key: f(y, p, sample_weight=weights) for key, f in functions.items()}
    scores = {key: float(value) for key, value in scores.items() if value is not None}
    case = {"y_true": y.tolist(), "y_pred": p.tolist(), "sample_weight": weights, "scores": scores}
    return {name: case}


def label_cases(random) -> dict:
    binary = LABEL_METRICS | BINARY_LABEL_METRICS | {"quadratic_kappa": quadratic_kappa}
    multiclass = LABEL_METRICS | {"quadratic_kappa": quadratic_kappa}
    y, p = random.integers(0, 2, 31), random.integers(0, 2, 31)
    weights = random.uniform(0, 2, 31) * random.integers(0, 2, 31)
    cases = score("binary", binary, y, p) | score("binary weighted", binary, y, p, weights)
    cases |= score("binary perfect", binary, y, y) | score("binary reversed", binary, y, 1 - y)
    cases |= score("binary one class predicted", binary, y, 0 * y)
    cases |= score("binary one class true", binary, 0 * y, p)
    cases |= score("binary nothing positive", binary, [0, 0, 0], [0, 0, 0])
    cases |= score("one row", LABEL_METRICS, [1], [0])
    y, p = random.integers(0, 5, 60), random.integers(0, 4, 60)
    p = np.where(random.uniform(size=60) < 0.5, y, p)
    weights = random.uniform(0.1, 2, 60)
    cases |= score("multiclass", multiclass, y, p)
    cases |= score("multiclass weighted", multiclass, y, p, weights)
    cases |= score("multiclass with a gap", multiclass, y[y != 2], p[y != 2])
    cases |= score("multiclass without class 2", multiclass, [0, 1, 3, 3, 1], [0, 3, 3, 1, 1])
    words = np.array(["red", "green", "blue", "grey", "white"])
    return cases | score("strings", LABEL_METRICS, words[y], words[p], weights)


def probability_cases(random) -> dict:
    both = {"roc_auc": roc_auc, "log_loss": log_loss, "brier": brier}
    binary = both | {"average_precision": sk.average_precision_score}
    y = random.integers(0, 2, 50)
    p = np.clip(random.normal(0.3 + 0.4 * y, 0.25), 0, 1)  # some exactly 0 and 1
    weights = random.uniform(0, 2, 50) * random.integers(0, 2, 50)
    cases = score("binary", binary, y, p) | score("binary weighted", binary, y, p, weights)
    cases |= score("binary ties", binary, y, p.round(1))
    cases |= score("binary ties weighted", binary, y, p.round(1), weights)
    cases |= score("binary all tied", binary, y, 0 * p + 0.5)
    cases |= score("binary perfect", binary, y, y.astype(float))
    cases |= score("binary reversed", binary, y, 1.0 - y)
    cases |= score("binary only positives", binary, 0 * y + 1, p)
    cases |= score("binary only negatives", binary, 0 * y, p)
    y = random.integers(0, 4, 50)
    p = random.dirichlet(np.ones(4), 50) * 0.6 + 0.4 * np.eye(4)[y]
    cases |= score("multiclass", both, y, p)
    cases |= score("multiclass weighted", both, y, p, random.uniform(0.1, 2, 50))
    p = random.integers(1, 4, (50, 4)) / 1.0
    p /= p.sum(1, keepdims=True)
    cases |= score("multiclass ties", both, y, p)
    return cases | score("multiclass without a class", both, y[y != 3], p[y != 3])


def value_cases(random) -> dict:
    everything = VALUE_METRICS | CORRELATIONS
    y = random.normal(size=41)
    p = y + 0.7 * random.normal(size=41)
    cases = score("random", everything, y, p)
    cases |= score("even count", everything, y[1:], p[1:])
    cases |= score("weighted", everything, y, p, random.uniform(0.1, 2, 41))
    cases |= score("whole weights", everything, y.round(), p.round(), random.integers(0, 4, 41))
    cases |= score("ties", everything, y.round(), p.round())
    cases |= score("exact", VALUE_METRICS, y, y)
    cases |= score("constant truth", VALUE_METRICS, 0 * y + 3, p)
    cases |= score("constant truth, exact", VALUE_METRICS, 0 * y + 3, 0 * y + 3)
    cases |= score("zeros", VALUE_METRICS, [0.0, 0.0, 1.0], [0.0, 2.0, -1.0])
    cases |= score("one row", VALUE_METRICS, [2.0], [3.0])
    cases |= score("offset of a million", everything, y + 1e6, p + 1e6)
    y, p = random.lognormal(3, 1, 41), random.lognormal(3, 1, 41)
    positive = everything | LOG_METRICS
    cases |= score("positive", positive, y, p)
    cases |= score("positive weighted", positive, y, p, random.uniform(0, 2, 41))
    return cases | score("positive halves", positive, y, p, np.full(41, 0.5))


def calibration(random) -> dict:
    said = np.concatenate([random.uniform(0.3, 1, 80), [0.0, 0.2, 0.4, 1.0]])
    right = (random.uniform(size=84) < said**2).astype(int)
    accuracy, confidence = sklearn.calibration.calibration_curve(right, said, n_bins=10)
    return {
        "probability": said.tolist(),
        "correct": right.tolist(),
        "confidence": confidence.tolist(),
        "accuracy": accuracy.tolist(),
    }


if __name__ == "__main__":
    warnings.simplefilter("ignore")  # undefined scores are part of the fixtures
    FOLDER.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(FOLDER / "losses.npz", **loss_cases(seed=0))
    generator = np.random.default_rng(1)
    metrics = {
        "label": label_cases(generator),
        "probability": probability_cases(generator),
        "value": value_cases(generator),
    }
    (FOLDER / "metrics.json").write_text(json.dumps(metrics) + "\n")
    (FOLDER / "calibration.json").write_text(json.dumps(calibration(generator)) + "\n")
