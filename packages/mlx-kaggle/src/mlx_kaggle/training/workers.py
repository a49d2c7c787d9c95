"""Train the members of a run side by side, in processes of this machine or of a dask cluster.

A task is the columns of a fold, one member of it, or one network. It reads the tables and the run
folder, which all processes see under the same path, and writes a folder that is complete once it
has a manifest: a task whose process was killed is simply done again. The main process then reads
what they wrote as a resumed run does, so the answer is that of one process, bit for bit.
"""

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, Executor, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from mlx_kaggle import RunError
from mlx_kaggle.machine import prepare_machine
from mlx_kaggle.members.catalog import TEXT, is_text, label_of, without_columns
from mlx_kaggle.members.saved import load_json
from mlx_kaggle.members.variants import PSEUDO, variant_of
from mlx_kaggle.settings.config import RunConfig
from mlx_kaggle.training.crossval import EMBEDDINGS, begin, save_trial
from mlx_kaggle.training.fold import Fold
from mlx_kaggle.training.job import Job, prepare_job, text_models
from mlx_kaggle.training.network import TIME, VALIDATION, Report
from mlx_kaggle.training.pseudo_labels import Facts
from mlx_kaggle.training.text_trial import WORTH, needs_trial
from mlx_kaggle.training.variant_choice import variants_left
from mlx_trainer import MANIFEST, RunFolder, load_config

COLUMNS, TRIAL = "columns", "trial"
# Libraries read these when a process begins.
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")

Task = Future[dict[str, Any]]


def train_side_by_side(job: Job, run: RunFolder, report: Report, executor: Executor) -> None:
    """Run the tasks of all unfinished members; raise the error of the first task that fails."""
    begin(job, run, report)
    folds, tried = range(len(job.splits)), needs_trial(job)
    networks = [each for fold in folds for each in _tasks(job, fold, TEXT)]
    networks = networks if TEXT in job.members else []
    others = [name for name in job.members if name != TEXT]
    count = len(folds) * (1 + len(others)) + (0 if tried else len(networks))
    report({"event": "tasks", "name": "training members", "count": count})
    lock, tasks = threading.Lock(), list[Task]()

    def submit(fold: int, name: str) -> Task:
        task = executor.submit(run_task, str(run.path.resolve()), fold, name)
        task.add_done_callback(partial(_show, report, lock))
        tasks.append(task)
        return task

    try:
        columns = [submit(fold, COLUMNS) for fold in folds]
        if not tried:
            for each in networks:
                submit(*each)
        names = [name for name in others if name not in columns[0].result()["useless"]]
        first = list[Task]()
        for fold in folds:
            columns[fold].result()
            members = [submit(fold, name) for name in names]
            first = first or members
        if tried:
            _raise_first_error(first)
            if submit(0, TRIAL).result()["gain"] > WORTH:
                report({"event": "tasks", "name": "training networks", "count": len(networks)})
                for each in networks:
                    submit(*each)
            else:
                networks = []
        _raise_first_error(tasks)
        trained = [*names, *([TEXT] if networks else [])]
        variants = variants_left(job, trained)
        if any(variant_of(name) == PSEUDO for name in variants):
            report({"event": "tasks", "name": "labelling test rows", "count": len(folds)})
            labels = Facts(**submit(0, PSEUDO).result()["labels"])
            variants = variants_left(job, trained, [labels])
            if labels.accepted:
                _raise_first_error([submit(fold, PSEUDO) for fold in folds[1:]])
        more = [each for fold in folds for name in variants for each in _tasks(job, fold, name)]
        if more:
            report({"event": "tasks", "name": "training variants", "count": len(more)})
            _raise_first_error([submit(*each) for each in more])
    except BrokenProcessPool:
        raise RunError(
            f"{run.path}: a worker process ended unexpectedly (out of memory?); --resume with "
            f"fewer --workers continues the run"
        ) from None
    finally:
        for task in tasks:
            task.cancel()


def _tasks(job: Job, fold: int, name: str) -> list[tuple[int, str]]:
    """Return the tasks of a member of a fold: itself, or its networks."""
    if not is_text(name):
        return [(fold, name)]
    return [(fold, network) for network, _ in text_models(job.config, fold, name)]


def _raise_first_error(tasks: Sequence[Task]) -> None:
    for task in wait(tasks, return_when=FIRST_EXCEPTION).done:
        task.result()


def _show(report: Report, lock: threading.Lock, task: Task) -> None:
    """Report the events of a task; called by threads of the executor."""
    if task.cancelled() or task.exception():
        return
    with lock:
        for event in [*task.result()["events"], {"event": "task_end"}]:
            report(event)


def run_task(folder: str, number: int, name: str) -> dict[str, Any]:
    """Do a task of the run in `folder`, unless it is done, and return what the main process needs.

    `name` is a member, a network such as fold-0-seed-0, "columns", "trial" or "pseudo".
    """
    job, path = _job(folder, (Path(folder) / "run.json").read_text("utf-8")), Path(folder)
    events: list[dict[str, Any]] = []
    # The metrics of a network go to its own folder: many processes cannot append to one file.
    run = RunFolder(path / "members" / name if name.startswith("fold-") else path)
    file = path / EMBEDDINGS
    embeddings = np.load(file) if name == COLUMNS and file.is_file() else None
    fold = Fold(job, number, RunFolder(path), events.append, embeddings)
    if name == COLUMNS:
        return {"events": events, "useless": _columns(fold, job)}
    if name == TRIAL:
        others = [each for each in job.members if each != TEXT and fold.is_finished(each)]
        found = {each: np.load(fold.folder(each) / VALIDATION) for each in others}
        return {"events": events, "gain": save_trial(job, path, found)}
    if name.startswith("fold-"):
        member = _network(fold, job, name, run)
        return {"events": [_ended(fold, member, run.path)]}
    if not fold.is_finished(name):
        columns = fold.kept_columns()
        assert columns is not None, "a member is submitted after its columns are kept"
        if name == PSEUDO:
            fold.label_test(*columns[:2])
        else:
            fold.train_member(name, *columns)
    if name == PSEUDO:
        return {"events": events, "labels": asdict(fold.labels().facts)}
    return {"events": [_ended(fold, name, fold.folder(name))]}


def _columns(fold: Fold, job: Job) -> list[str]:
    """Fit and keep the columns if a member needs them; return who learns nothing from them."""
    names = [name for name in job.members if name != TEXT]
    others = [name for name in job.variants if not is_text(name)]
    if all(fold.is_finished(name) for name in (*names, *others)):
        return []
    columns = fold.kept_columns()
    if columns is None:
        columns = fold.fit_columns()
        fold.keep_columns(*columns[1:])
    if fold.number:
        return []
    return without_columns(names, columns[1], columns[0].as_they_are(columns[1]))


def _network(fold: Fold, job: Job, name: str, run: RunFolder) -> str:
    """Train a network unless it is trained; return the member that it belongs to."""
    member = f"{TEXT}+{variant_of(name)}" if variant_of(name) else TEXT
    seed = dict(text_models(job.config, fold.number, member))[name]
    if not (run.path / MANIFEST).is_file():
        run.path.mkdir(parents=True, exist_ok=True)
        fold.train_network(name, seed, resume=True, log=run)
    return member


def _ended(fold: Fold, name: str, folder: Path) -> dict[str, Any]:
    score = fold.job.score_rows(fold.val_rows, np.load(folder / VALIDATION, allow_pickle=False))
    return {
        "event": "member_end",
        "name": label_of(fold.job.competition, name),
        "fold": fold.number,
        "score": score,
        "seconds": load_json(folder / TIME)["seconds"],
    }


@lru_cache(maxsize=1)
def _job(folder: str, marker: str) -> Job:
    """Read the job of a run once in a process; `marker` has the fingerprints of its inputs."""
    prepare_machine()
    return prepare_job(load_config(RunConfig, file=Path(folder) / "config.yaml"))


@contextmanager
def processes(count: int) -> Iterator[Executor]:
    """Start `count` fresh processes, each with its share of the cores; stop them at the end."""
    share = str(max(1, (os.cpu_count() or 1) // count))
    before = {name: os.environ.get(name) for name in THREADS}
    os.environ.update(dict.fromkeys(THREADS, share))
    context = multiprocessing.get_context("spawn")
    executor = ProcessPoolExecutor(count, context, _begin_process)
    try:
        yield executor
    except BaseException:
        executor.shutdown(wait=False, cancel_futures=True)
        for child in multiprocessing.active_children():
            child.terminate()
        raise
    finally:
        executor.shutdown(cancel_futures=True)
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def _begin_process() -> None:
    """Leave Ctrl-C to the main process, and end when it ends, even if it was killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def cluster(address: str) -> AbstractContextManager[Executor]:
    """Connect to a dask scheduler; a task of a worker that dies is done again by another.

    Raises `RunError` if dask is not installed, or no scheduler with a worker answers.
    """
    try:
        from distributed import Client  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise RunError(
            "--scheduler needs dask.distributed: pip install 'mlx-kaggle[dask]'"
        ) from None
    try:
        client = Client(address, timeout="10s")
    except (OSError, ValueError) as error:
        raise RunError(f"no dask scheduler answers at {address}: {error}") from None
    if not client.scheduler_info()["workers"]:
        client.close()
        raise RunError(f"the scheduler at {address} has no workers; start: dask worker {address}")
    return _executor_of(client)


@contextmanager
def _executor_of(client: Any) -> Iterator[Executor]:
    with client:
        yield client.get_executor(pure=False)
