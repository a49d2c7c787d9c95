"""The sections of the configuration, with the meaning, default and range of every setting."""

from dataclasses import dataclass
from typing import Literal

from mlx_trainer import did_you_mean, setting

Kind = Literal["numeric", "categorical", "text", "date", "boolean", "ignored"]
CV_SCHEMES = ("auto", "stratified", "group", "time", "regression-bins")
Style = Literal["list", "sentence", "great", "json", "markdown", "template"]


def _check_metric(name: str | None) -> None:
    from mlx_heads import get_metric  # not at the top: `--help` does not need it

    try:
        get_metric(name or "accuracy")
    except ValueError as error:
        problem = str(error).removeprefix("unknown metric ")
        raise ValueError(f"metric unknown name {problem}") from None


def _metrics() -> list[str]:
    from mlx_heads import METRICS

    return list(METRICS)


@dataclass(frozen=True)
class DataSettings:
    """Files, columns and metric; missing settings are inferred and shown."""

    train: str = setting("", "Training table (see below); required.", flag="--train", path="file")
    target: str = setting(
        "",
        "Column to predict, or several: toxic,insult.",
        flag="--target",
        default_text="of the sample submission",
    )
    targets: str = setting(
        "", "The same, also by range: 'first:last' of the table.", flag="--targets"
    )
    val: str | None = setting(None, "Validation table; or --folds.", flag="--val", path="file")
    test: str | None = setting(
        None,
        "Test table, for the leak check.",
        flag="--test",
        path="file",
        default_text="found next to --train",
    )
    sample_submission: str | None = setting(
        None,
        "Submission whose format to follow.",
        flag="--sample-submission",
        path="file",
        default_text="found next to --train",
    )
    id_column: str | None = setting(
        None, "Id column; '' for none.", flag="--id", default_text="inferred"
    )
    competition: str | None = setting(
        None, "Known competition, for its column texts; by default recognized by its columns."
    )
    task: (
        Literal["binary", "multiclass", "multilabel", "ordinal", "regression", "forecast"] | None
    ) = setting(None, "Kind of the target.", flag="--task", default_text="inferred")
    order: tuple[str, ...] = setting((), "Classes of an ordinal target from low to high.")
    metric: str | None = setting(
        None,
        "accuracy, f1, f1_macro, roc_auc, log_loss, quadratic_kappa, rmse, rmsle, mae, ...",
        flag="--metric",
        default_text="by competition or task",
        check=_check_metric,
        complete=_metrics,
    )
    separator: str | None = setting(
        None, "Field separator of CSV files.", flag="--separator", default_text="recognized"
    )
    kinds: dict[str, Kind] = setting(
        {},
        "Kind of a column: numeric, categorical, text, date, boolean or ignored; repeatable.",
        flag="--kind",
        metavar="COLUMN=KIND",
    )
    labels: dict[str, str] = setting({}, "Names of columns in the text, such as Pclass: class.")
    drop: tuple[str, ...] = setting((), "Columns to ignore.")
    allow_leak: bool = setting(
        False, "Train even if validation or test rows leak.", flag="--allow-leak"
    )

    def __post_init__(self) -> None:
        if self.target and self.targets:
            raise ValueError(
                f"targets {self.targets!r} and data.target {self.target!r} exclude each other; "
                f"give one"
            )
        if self.order and self.task not in (None, "ordinal"):
            raise ValueError(f"order is for the task ordinal, and the task is {self.task}")
        if self.separator is not None and len(self.separator) != 1:
            raise ValueError(f"separator must be one character, got {self.separator!r}")


@dataclass(frozen=True)
class CvSettings:
    """How rows are divided into folds; `auto` is by class or by quantile of the target."""

    scheme: str = setting(
        "auto",
        "auto, stratified, group, time, regression-bins, or a CSV file with a column fold.",
        flag="--cv",
        metavar="SCHEME",
    )
    group: str | None = setting(
        None,
        "Column whose equal cells stay in one fold, or a part of it: 'Id[0]' is 12 of 12_03.",
        flag="--group",
        metavar="COLUMN",
    )
    time: str | None = setting(
        None,
        "Column of times or numbers: a fold is later than its training rows.",
        flag="--cv-time",
        metavar="COLUMN",
    )

    def __post_init__(self) -> None:
        if self.scheme not in CV_SCHEMES and not self.scheme.endswith(".csv"):
            raise ValueError(
                f"scheme unknown name {self.scheme!r}{did_you_mean(self.scheme, CV_SCHEMES)}; or "
                f"give a .csv file with a column fold"
            )
        for name, column in (("group", self.group), ("time", self.time)):
            flag = {"group": "--group", "time": "--cv-time"}[name]
            if (self.scheme == name) != bool(column):
                raise ValueError(
                    f"scheme {name} needs {flag} COLUMN"
                    if self.scheme == name
                    else f"{name} is given, but the scheme is {self.scheme}; add --cv {name}"
                )


@dataclass(frozen=True)
class ForecastSettings:
    """Time series, for `--task forecast`: the next steps of a target from its past."""

    time: str | None = setting(None, "Column with the time of a row.", flag="--time")
    series: str | None = setting(
        None,
        "Column with the name of the series of a row, or several: store,family.",
        flag="--series",
        default_text="one series",
    )
    horizon: int | None = setting(
        None, "Steps to predict; a step is one row of a series.", flag="--horizon", at_least=1
    )
    lookback: int | None = setting(
        None,
        "Past steps that a model reads.",
        flag="--lookback",
        at_least=2,
        default_text="two seasons, the horizon or 8, at most half a series",
    )
    season: int | None = setting(
        None,
        "Steps of a season, 1 without one.",
        flag="--season",
        at_least=1,
        default_text="from the time step: 24 for hours, 7 for days, 12 for months",
    )


@dataclass(frozen=True)
class TextSettings:
    """Serialization of a row as text, and its augmentation in training."""

    style: Style = setting("list", "Form of the text: 'age: 22; sex: male' is a list.")
    template: str | None = setting(None, "Text with '{Column}' for the style template.")
    missing: Literal["omit", "unknown", "missing"] = setting(
        "unknown", "How to write a missing cell: omit it, or write this word."
    )
    numbers: Literal["value", "value+word", "word", "value+bin"] = setting(
        "value", "'22', '22 (low)', 'low' or '22 (q3 of 10)', by quantiles of the training rows."
    )
    digits: int = setting(4, "Significant digits of numbers.", at_least=1)
    order: Literal["importance", "table"] = setting("importance", "Order of the columns.")
    max_tokens: int = setting(128, "Token budget of a row, with special tokens.", at_least=8)
    tta: int = setting(
        1, "Test-time augmentation: average the predictions of this many texts per row.", at_least=1
    )
    shuffle_columns: float = setting(
        0.0, "Share of training rows with columns in random order.", at_least=0, at_most=1
    )
    drop_column: float = setting(
        0.0, "Dropout probability of a column in training.", at_least=0, at_most=1
    )
    numeric_jitter: float = setting(
        0.0, "Noise added to training numbers, in standard deviations.", at_least=0
    )
    drop_token: float = setting(
        0.0,
        "Token dropout: probability that a training token becomes unknown.",
        at_least=0,
        below=1,
    )
    styles: tuple[Style, ...] = setting((), "Draw the style of each training row from these.")


@dataclass(frozen=True)
class DecisionSettings:
    """From probabilities to answers; fitted on rows that were not trained on."""

    calibration: Literal["none", "temperature", "vector", "isotonic"] = setting(
        "temperature", "Calibration of probabilities.", flag="--calibration"
    )
    thresholds: Literal["auto", "fit", "default"] = setting(
        "auto",
        "Thresholds of labels, and cut points of ordered classes: fitted to the metric, or 0.5 and "
        "halves. auto fits them for every metric but accuracy.",
        flag="--thresholds",
    )


@dataclass(frozen=True)
class BlendSettings:
    """Members into one answer, and the columns that are generated for them."""

    method: Literal["auto", "mean", "rank_mean", "greedy", "stack", "bma"] = setting(
        "auto",
        "How the members are blended; auto takes the best by cross-validation, or one member.",
        flag="--blend",
    )
    generate: Literal["auto", "all", "none"] = setting(
        "auto",
        "Generated columns (parts of codes, group sizes, target means, ...): those that do not "
        "raise the loss of held-out training rows, all or none.",
    )


@dataclass(frozen=True)
class TrainingSettings:
    """Optimizer, schedule and loop.

    Early stopping makes the score too good: it chooses the epoch on the rows that are then scored.
    """

    optimizer: Literal["adamw", "muon"] = setting("adamw", "See below.", flag="--optimizer")
    muon_rate: float = setting(1.0, "Multiplier of the rate of Muon's matrices.", above=0)
    epochs: int = setting(10, "Passes over the training rows.", at_least=1)
    batch_size: int = setting(32, "Rows per update.", at_least=1)
    micro_batch_tokens: int = setting(
        4096, "Tokens of a micro-batch, which bounds memory.", at_least=1
    )
    learning_rate: float = setting(1e-3, "Peak learning rate.", above=0)
    head_rate: float = setting(1.0, "Multiplier of the rate of the head.", at_least=0)
    weight_decay: float = setting(0.01, "Decoupled weight decay of matrices.", at_least=0)
    layer_decay: float = setting(
        1.0, "Multiplier of the rate from each layer to the one below.", above=0, at_most=1
    )
    warmup: float = setting(0.1, "Share of the updates with a rising rate.", at_least=0, at_most=1)
    max_grad_norm: float = setting(
        1.0, "Gradients are clipped to this norm; .inf for none.", above=0, infinite=True
    )
    adversarial: Literal["none", "fgm", "awp"] = setting(
        "none",
        "Perturb the word embeddings (fgm) or the encoder's matrices (awp). Doubles the time.",
    )
    adversarial_epsilon: float | None = setting(
        None,
        "Norm of the perturbation of a row (fgm), or its share of the norm of a matrix (awp).",
        above=0,
        default_text="0.5 for fgm, 0.005 for awp",
    )
    adversarial_start: int = setting(
        1, "Epochs of ordinary training before adversarial training.", at_least=0
    )
    patience: int = setting(
        0, "Epochs without a better score before early stopping, 0 for none.", at_least=0
    )
    soup: Literal["none", "uniform", "greedy"] = setting(
        "none",
        "Mean of the weights after several epochs: the last soup_epochs (uniform), or those that "
        "help on a tenth of the training rows, held out for it (greedy).",
    )
    soup_epochs: int = setting(3, "Epochs of a uniform soup.", at_least=2)
    seeds: int = setting(1, "Networks of each fold, with different seeds.", at_least=1)
    threads: int = setting(2, "Threads that share the rows of a batch, on a CPU.", at_least=1)
    checkpoint_seconds: float = setting(30.0, "Seconds between checkpoints.", at_least=0)
