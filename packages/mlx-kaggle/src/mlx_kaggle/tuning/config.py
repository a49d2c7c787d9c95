"""What determines a study."""

from dataclasses import dataclass, field

from mlx_kaggle.settings.config import RunConfig
from mlx_trainer import setting


@dataclass(frozen=True)
class TuneConfig:
    """Everything that determines a study; `config.yaml` of its folder."""

    run: RunConfig
    trials: int = setting(30, "Finished trials of the study.", at_least=1)
    holdout: float = setting(0.2, "Share of the rows not used.", at_least=0, below=1)
    study: str = setting("tune", "Name in the storage.")
    own_storage: bool = setting(True, "Whether the storage is study.db in the folder.")
    worker: str = setting("", "The folder, among others of the study.")
    space: dict[str, object] = field(default_factory=dict)
