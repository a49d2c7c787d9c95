"""One implementation in this process: `python -m gpt.worker CASE VARIANT THREADS`.

A case is `training-SEED`, `decode-SIZE` or `update`. Steps and tokens are timed here, one by one;
what was found is in the file `CASE-VARIANT.json` of the shared folder after every call.
"""

import importlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from types import ModuleType

import numpy as np
from turns.serve import serve
from turns.timing import SHORTEST, Calls

from gpt.implementation import Generate, Training
from gpt.settings import CACHED, DECODED, GENERATED, Settings

MODULES = {"ours": "gpt.ours", "nanochat": "gpt.peer_nanochat", "mlxchat": "gpt.peer_mlxchat"}
# Of what is too slow for more: steps of a turn, and turns after the first.
FEW = {"mlxchat": (1, 1)}


@dataclass
class Progress:
    """What a run of training has found so far."""

    losses: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    held_out: float | None = None


def prepare(case: str, variant: str, threads: int, tiny: bool) -> Calls:
    """Return the calls of a case; the rest is up to the module of the variant."""
    settings = Settings.load()
    module = importlib.import_module(MODULES[variant.split("-")[0]])
    part, _, detail = case.partition("-")
    module.start(settings, part, variant, threads)
    report = settings.path(f"{case}-{variant}.json").write_text
    if part == "training":
        return training(module, settings, variant, int(detail), report)
    if part == "decode":
        generate = module.generation(settings, DECODED[detail])
        return decoding(generate, report)
    calls = module.update()
    return Calls(calls, list(calls))


def training(
    module: ModuleType, settings: Settings, variant: str, seed: int, report: Callable[[str], object]
) -> Calls:
    """Return a call that does the steps of a turn; the one that does the last also validates."""
    run: Training = module.training(settings, variant, seed)
    batches = np.load(settings.path(f"train-{seed}.npy"))
    held_out = np.load(settings.path("held-out.npy"))
    found, coming = Progress(), iter(batches)
    # The first turn, in which everything is compiled, is not measured.
    chunk, turns = FEW.get(variant, (settings.chunk, settings.steps // settings.chunk - 1))
    chunk = min(chunk, settings.chunk)

    def steps() -> None:
        for rows in islice(coming, chunk):
            began = time.perf_counter()
            found.losses.append(round(run.step(rows), 6))
            found.seconds.append(round(time.perf_counter() - began, 4))
        if len(found.losses) == len(batches) and found.held_out is None:
            found.held_out = float(np.mean([run.held_out_loss(rows) for rows in held_out]))
        report(json.dumps(vars(found)))

    facts = {"parameters": run.parameters, "turns": turns, "chunk": chunk}
    return Calls({"steps": steps}, ["steps"], facts)


def decoding(generate: Generate, report: Callable[[str], object]) -> Calls:
    """Return a call for each length of the cache; generations are repeated as long as is needed."""
    found: dict[str, list[float]] = {str(length): [] for length in CACHED}

    def call(length: int) -> None:
        began = time.perf_counter()
        while time.perf_counter() - began < 1.2 * SHORTEST:
            found[str(length)].append(seconds_per_token(generate, length))
        report(json.dumps(found))

    calls: dict[str, Callable[[], object]] = {
        str(length): partial(call, length) for length in CACHED
    }
    return Calls(calls, list(calls))


def seconds_per_token(generate: Generate, length: int) -> float:
    """Return the seconds of a token after about so many others, which it does not include."""
    prompt = np.random.default_rng(0).integers(1000, 2000, length - GENERATED // 2).tolist()
    tokens = generate(prompt, GENERATED + 2)
    next(iter(tokens))
    began = time.perf_counter()
    count = sum(1 for _ in islice(tokens, GENERATED))
    seconds = time.perf_counter() - began
    if count < GENERATED:
        raise RuntimeError(f"the model stopped after {count + 1} tokens, so no speed is known")
    return seconds / count


if __name__ == "__main__":
    serve(prepare)
