"""Data parallel training of the text network, under `mlx.launch`.

Process 0 does everything of a run but the training of networks, alone. The others read the same
tables, wait, and train their share of the rows of every update.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from mlx_trainer import ConfigError

if TYPE_CHECKING:  # it imports the models
    from mlx_kaggle.settings.config import RunConfig

# What `mlx.launch` and MPI give each process.
VARIABLES = ("MLX_RANK", "OMPI_COMM_WORLD_RANK", "PMI_RANK")


def processes() -> tuple[int, int]:
    """Return the rank of this process and the number of those started together: (0, 1) for one."""
    if not any(name in os.environ for name in VARIABLES):
        return 0, 1
    from mlx_trainer import rank, world_size

    return rank(), world_size()


def check_settings(config: "RunConfig") -> None:
    """Refuse settings whose networks several processes would train otherwise than one."""
    training = config.training
    for name, value, why in (
        ("adversarial", training.adversarial == "awp", "moves weights by the rows of one process"),
        ("soup", training.soup != "none", "keeps the weights of epochs in files of one process"),
    ):
        if value:
            setting = f"training.{name}={getattr(training, name)}"
            raise ConfigError(f"{setting} {why}; train without mlx.launch, or without it")
    for name in ("pseudo_labels", "augment"):
        if getattr(config.variants, name) != "off":
            raise ConfigError(
                f"variants.{name}=auto trains networks that several processes cannot share; train "
                f"without mlx.launch, or without it"
            )


@contextmanager
def leading() -> Iterator[None]:
    """Work as process 0: alone but in `sharing`; at the end the others are told to end."""
    from mlx_trainer import alone

    with alone():
        yield
    if processes()[1] > 1:
        _tell(0, 0, 0, 0)


@contextmanager
def sharing(fold: int, number: int, resume: bool) -> Iterator[None]:
    """Train network `number` of a fold with the other processes, if there are any."""
    from mlx_trainer import alone

    with alone(False):
        if processes()[1] > 1:
            _tell(1, fold, number, int(resume))
        yield


def assist(config: "RunConfig", folder: Path) -> None:
    """Train the share of this process of every network, until process 0 has no more.

    It reads checkpoints in the run folder, and writes nothing.
    """
    from mlx_kaggle.machine import prepare_machine
    from mlx_kaggle.training.job import prepare_job, text_models
    from mlx_kaggle.training.network import train_network
    from mlx_trainer import RunFolder

    prepare_machine()
    job, run = prepare_job(config), RunFolder(folder)
    while True:
        goes_on, fold, number, resume = _listen()
        if not goes_on:
            return
        name, seed = text_models(config, fold)[number]
        place = folder / "members" / name
        train_network(job, job.splits[fold], seed, place, run, lambda event: None, bool(resume))


def _tell(*numbers: int) -> None:
    import mlx.core as mx

    mx.eval(mx.distributed.all_sum(mx.array(numbers, mx.int32), stream=mx.cpu))


def _listen() -> list[int]:
    import mlx.core as mx

    told = mx.distributed.all_sum(mx.zeros(4, mx.int32), stream=mx.cpu)
    return told.tolist()  # type: ignore[return-value]
