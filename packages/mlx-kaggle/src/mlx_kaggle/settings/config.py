"""The configuration of a run: preset, then file, then flags, then `--set`; later ones win.

An unknown key or a value out of range is an error. The result is saved as `config.yaml` in the run
folder; a resumed run reads only this file.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlx_kaggle.presets import NAMES, read_preset
from mlx_kaggle.runs.tracking import NAMES as TRACKERS
from mlx_kaggle.runs.tracking import check_tracker_names, tracker_names
from mlx_kaggle.settings.model_settings import (
    EncoderSettings,
    HeadSettings,
    LoraSettings,
    LossSettings,
)
from mlx_kaggle.settings.sections import (
    BlendSettings,
    CvSettings,
    DataSettings,
    DecisionSettings,
    ForecastSettings,
    TextSettings,
    TrainingSettings,
)
from mlx_kaggle.settings.variant_settings import VariantSettings
from mlx_trainer import ConfigError, setting

FOLDS = 5
# Of a run that names none. Those whose library is missing, or that cannot learn the task, are left
# out with a note.
MEMBERS = ("linear", "trees", "lightgbm", "xgboost", "catboost", "forest", "neighbours",
        "kernel", "embeddings", "tabular", "text")  # fmt: skip

# scikit-learn requires seeds below 2**32; members and folds count up from the configured seed.
MAX_SEED = 2**31 - 1


def _check_members(names: tuple[str, ...]) -> None:
    from mlx_kaggle.members.catalog import check_member_names  # it imports this module

    check_member_names(names)


def _check_options(options: Mapping[str, Mapping[str, object]]) -> None:
    from mlx_kaggle.members.catalog import check_options

    if options:
        check_options(options)


@dataclass(frozen=True)
class RunConfig:
    """Everything that determines a run."""

    preset: str = setting("quick", "Base of the other settings.")
    folds: int | None = setting(
        None,
        "Folds of the cross-validation; 0 holds out 20 %.",
        flag="--folds",
        at_least=2,
        or_zero=True,
        default_text="5, none with --val",
    )
    members: tuple[str, ...] = setting(
        (),
        "Members to train, such as text,tabular,trees; see below.",
        flag="--members",
        metavar="NAME,NAME",
        parse=lambda text: tuple(name.strip() for name in text.split(",")),
        default_text="of the preset",
        check=_check_members,
        complete=lambda: MEMBERS,
    )
    val_fraction: float = setting(
        0.2, "Share of the rows to hold out without folds.", above=0, below=1
    )
    seed: int = setting(
        0, "Seed of folds, weights and order.", flag="--seed", at_least=0, at_most=MAX_SEED
    )
    report_to: tuple[str, ...] = setting(
        (),
        "Trackers that mirror the run folder: mlflow, wandb, trackio.",
        flag="--report-to",
        metavar="NAME,NAME",
        parse=tracker_names,
        check=check_tracker_names,
        complete=lambda: TRACKERS,
    )
    options: dict[str, dict[str, int | float | str]] = setting(
        {}, "Options of members, such as options.trees.learning_rate: 0.05.", check=_check_options
    )
    data: DataSettings = field(default_factory=DataSettings)
    cv: CvSettings = field(default_factory=CvSettings)
    forecast: ForecastSettings = field(default_factory=ForecastSettings)
    text: TextSettings = field(default_factory=TextSettings)
    encoder: EncoderSettings = field(default_factory=EncoderSettings)
    lora: LoraSettings = field(default_factory=LoraSettings)
    head: HeadSettings = field(default_factory=HeadSettings)
    loss: LossSettings = field(default_factory=LossSettings)
    training: TrainingSettings = field(default_factory=TrainingSettings)
    decision: DecisionSettings = field(default_factory=DecisionSettings)
    blend: BlendSettings = field(default_factory=BlendSettings)
    variants: VariantSettings = field(default_factory=VariantSettings)

    @property
    def fold_count(self) -> int:
        """Folds of the cross-validation, 0 for one validation set."""
        if self.folds is None:
            return 0 if self.data.val else FOLDS
        return self.folds

    def __post_init__(self) -> None:
        self._check_training()
        self._check_lora()
        if self.cv.scheme != "auto" and (self.data.val or self.data.task == "forecast"):
            other = "the task is forecast" if self.data.task == "forecast" else "--val is given"
            raise ValueError(f"cv {self.cv.scheme} divides the training table, but {other}")
        if self.data.task == "forecast":
            for name in ("time", "horizon"):
                if getattr(self.forecast, name) is None:
                    raise ValueError(f"forecast {name} is missing: --task forecast needs --{name}")
            return
        given = [name for name, value in vars(self.forecast).items() if value is not None]
        if given:
            raise ValueError(
                f"forecast {given[0]} is given, but the task is not forecast; add --task forecast"
            )

    def _check_training(self) -> None:
        training = self.training
        method, start, epochs = training.adversarial, training.adversarial_start, training.epochs
        if training.soup != "none" and training.patience:
            raise ValueError(
                f"training soup={training.soup} and patience={training.patience} exclude each "
                f"other: one mixes epochs, the other keeps the best"
            )
        if method == "none" and training.adversarial_epsilon is not None:
            raise ValueError(
                "training adversarial_epsilon is given, but adversarial is none; choose fgm or awp"
            )
        if method != "none" and start >= epochs:
            raise ValueError(
                f"training adversarial_start must be below epochs ({epochs}), or {method} never "
                f"starts, got {start}"
            )
        if method == "awp" and self.encoder.freeze == "all":
            raise ValueError(
                "training adversarial=awp perturbs the trained matrices of the encoder, and "
                "encoder.freeze=all trains none; use fgm, or freeze less"
            )

    def _check_lora(self) -> None:
        lora, encoder, training = self.lora, self.encoder, self.training
        if lora.preset == "none":
            default = LoraSettings()
            for name, value in vars(lora).items():
                if value != getattr(default, name):
                    raise ValueError(f"lora {name} is given without adapters; add --lora balanced")
            if encoder.quantize is not None:
                raise ValueError(
                    "encoder quantize is given without adapters, and quantized weights are not "
                    "trained; add --lora balanced"
                )
            return
        if not encoder.path:
            raise ValueError(
                f"lora preset is {lora.preset}, which adapts a pretrained encoder, and this one is "
                f"made from scratch; name a folder or hub id with --encoder"
            )
        if encoder.freeze == "all":
            raise ValueError(
                "encoder freeze=all leaves no layer for adapters; use half (upper layers) or none"
            )
        if training.adversarial == "awp":
            raise ValueError(
                "training adversarial=awp perturbs the encoder's matrices, which are frozen with "
                "--lora; use fgm"
            )


def resolve_config(
    preset: str | None = None,
    file: str | Path | None = None,
    flags: Mapping[str, object] | None = None,
    overrides: Sequence[str] = (),
) -> RunConfig:
    """Merge the four layers into one `RunConfig`.

    `flags` maps dotted keys to values (`{"data.train": "train.csv"}`). Raises `ConfigError` for an
    unknown key or a wrong value, with the key and its source.
    """
    from mlx_trainer import load_config
    from mlx_trainer.threads import check_thread_count

    name = preset or preset_of(file) or "quick"
    flags = {"preset": name, **(flags or {})}
    base = read_preset(name).resolved(given_encoder(flags, overrides))
    try:
        config = load_config(RunConfig, base, file, overrides, flags)
    except ConfigError as error:
        # A wrong key of a user's preset is named with its file and line.
        if str(error).startswith("base: ") and name not in NAMES:
            from mlx_kaggle.settings.config_origins import preset_problems

            for problem in preset_problems(name):
                raise ConfigError(problem) from None
        raise
    try:
        check_thread_count(config.training.threads, "training.threads")
    except ValueError as error:
        raise ConfigError(str(error)) from None
    return config


def given_encoder(flags: Mapping[str, object], overrides: Sequence[str]) -> str:
    """Return the encoder that the command line gives, or ""."""
    named = [each for each in overrides if each.startswith("encoder.path=")]
    return named[-1].partition("=")[2] if named else str(flags.get("encoder.path", ""))


def preset_of(file: str | Path | None) -> str | None:
    """Return the preset that a file names; `load_config` reports any other mistake in the file."""
    import yaml

    try:
        values: Any = yaml.safe_load(Path(file).read_text("utf-8")) if file else None
    except (OSError, ValueError, yaml.YAMLError):
        return None
    return str(values["preset"]) if isinstance(values, dict) and "preset" in values else None
