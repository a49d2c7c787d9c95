"""Reading prompts and generating, one text at a time, beside the bare model and mlx-lm.

    uv run benchmarks/gpt_decode.py --model LLAMA [--model LLAMA-4BIT] [--peer PYTHON]

`PYTHON` is the interpreter of an environment with mlx-lm; if it has MKL, mlx-lm's MLX computes with
it. One process of each side stays loaded, and they take turns of one answer, so that other programs
disturb both alike. Without --peer only mlx-gpt is measured. One BLAS thread on each side.
"""

import argparse
import ctypes
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

PAGE = Path(__file__).parent.parent / "docs" / "benchmarks" / "gpt-decode.md"
PACKAGES = ("mlx", "mlx-gpt", "mlx-fastcpu", "scipy-openblas32")
PROMPT, TOKENS = 128, 32
NANOCHAT = "nanochat d4"
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
TIMES = {
    "wall": "wall-clock times",
    "cpu": "CPU times of all threads, because other programs ran",
}
KINDS = ("bare", "greedy", "sampled")
NAMES = {
    "bare": "model and argmax in a loop",
    "greedy": "greedy",
    "sampled": "sampled, top-p 0.95, temperature 0.8",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", action="append", default=[], help="model folder; repeatable")
    parser.add_argument("--peer", help="python of an environment with mlx-lm")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument(
        "--clock", choices=CLOCKS, default="wall", help="cpu: of all threads, for a busy machine"
    )
    parser.add_argument("--worker", choices=["ours", "peer"], help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker:
        serve(ours if given.worker == "ours" else peer, given.clock)
        return
    from turns.processes import describe_machine

    lines = [
        "# Generation beside the bare model and mlx-lm", "",
        f"Written by `benchmarks/gpt_decode.py`; float32 activations, one BLAS thread, a prompt of "
        f"{PROMPT} tokens and {TOKENS} generated. The sides take turns of one answer, "
        f"{given.rounds} rounds; times are {TIMES[given.clock]}, medians, in parentheses the best "
        "round; ratios are medians over the rounds.", "",
    ]  # fmt: skip
    for folder in (NANOCHAT, *given.model):
        sides = {"mlx-gpt": sys.executable}
        if given.peer and folder != NANOCHAT:
            sides["mlx-lm"] = given.peer
        lines += table(folder, measure(folder, sides, given.rounds, given.clock))
    versions = f"mlx-lm {peer_version(given.peer)}" if given.peer else ""
    lines += [*describe_machine(PACKAGES), versions, ""]
    PAGE.write_text("\n".join(lines), encoding="utf-8")
    sys.stdout.write("\n".join(lines))


Rounds = dict[tuple[str, str], list[tuple[float, float]]]


def measure(folder: str, sides: dict[str, str], rounds: int, clock: str) -> Rounds:
    """Return (seconds of the prompt, seconds a token) of each round, by side and kind."""
    environment = os.environ | {f"{name}_NUM_THREADS": "1" for name in ("OPENBLAS", "OMP", "MKL")}
    options = {
        side: ["--worker", "ours" if side == "mlx-gpt" else "peer", "--clock", clock]
        for side in sides
    }
    workers = {
        side: subprocess.Popen(
            [python, __file__, *options[side]],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment,
        )
        for side, python in sides.items()
    }  # fmt: skip
    found: Rounds = {}
    try:
        for turn in range(rounds + 1):  # the first warms up
            for kind in KINDS:
                for side, worker in workers.items():
                    assert worker.stdin
                    assert worker.stdout
                    worker.stdin.write(json.dumps([folder, kind]) + "\n")
                    worker.stdin.flush()
                    answer = json.loads(worker.stdout.readline())
                    if turn:
                        found.setdefault((side, kind), []).append(tuple(answer))
    finally:
        for worker in workers.values():
            worker.kill()
            worker.wait()
    return found


def table(folder: str, found: Rounds) -> list[str]:
    """Return a model's table; the engine is compared with its own bare loop, and with mlx-lm."""
    sides = list(dict.fromkeys(side for side, _ in found))
    rows = [f"## {Path(folder).name}", "",
            "| | " + " | ".join(f"{side}, ms a token" for side in sides)
            + " | mlx-gpt / its bare loop | mlx-lm / mlx-gpt |",
            "|---|" + "---|" * (len(sides) + 2)]  # fmt: skip
    for kind in KINDS:
        cells = [_times([each[1] for each in found[side, kind]]) for side in sides]
        own = _ratio(found["mlx-gpt", kind], found["mlx-gpt", "bare"], 1)
        other = _ratio(found["mlx-lm", kind], found["mlx-gpt", kind], 1) if sides[1:] else "-"
        rows.append(f"| {NAMES[kind]} | {' | '.join(cells)} | {own} | {other} |")
    cells = [_times([each[0] for each in found[side, "greedy"]]) for side in sides]
    other = _ratio(found["mlx-lm", "greedy"], found["mlx-gpt", "greedy"], 0) if sides[1:] else "-"
    rows.append(f"| reading the prompt, ms | {' | '.join(cells)} | - | {other} |")
    return [*rows, ""]


def _times(seconds: list[float]) -> str:
    return f"{1e3 * statistics.median(seconds):.2f} ({1e3 * min(seconds):.2f})"


def _ratio(above: list[tuple[float, float]], below: list[tuple[float, float]], at: int) -> str:
    ratios = [a[at] / b[at] for a, b in zip(above, below, strict=True)]
    return f"{statistics.median(ratios):.2f}x"


def peer_version(python: str) -> str:
    """Return the version of mlx-lm in another environment, and whether MKL is in it."""
    code = "from importlib.metadata import version as v; print(v('mlx-lm'), 'and MLX', v('mlx'))"
    done = subprocess.run([python, "-c", code], check=True, capture_output=True, text=True)
    return done.stdout.strip() + (" with MKL" if _mkl(Path(python).parent.parent) else "")


def serve(answer, clock: str) -> None:
    """Answer requests, each a line of stdin."""
    global _clock
    _clock = CLOCKS[clock]
    for line in sys.stdin:
        result = answer(*json.loads(line))
        sys.stdout.write(json.dumps(result) + "\n")
        sys.stdout.flush()


def timed(tokens: Iterator[object]) -> tuple[float, float]:
    """Return the seconds to the first token, and per token after it."""
    begin = _clock()
    next(tokens)
    first = _clock()
    count = sum(1 for _ in tokens)
    return first - begin, (_clock() - first) / count


_loaded: dict[str, object] = {}
_clock = time.perf_counter


def ours(folder: str, kind: str) -> tuple[float, float]:
    """Measure one answer of mlx-gpt."""
    from mlx_gpt.engine import Engine, Request, Sampling
    from mlx_gpt.engine.loading import load_fast
    from mlx_gpt.machine import prepare_machine

    if folder not in _loaded:
        prepare_machine()
        model, tokenizer = nanochat() if folder == NANOCHAT else load_fast(Path(folder))
        _loaded[folder] = Engine(model, tokenizer, tools=False, end_ids=())
    engine = _loaded[folder]
    assert isinstance(engine, Engine)
    if kind == "bare":
        return timed(bare(engine.model, engine.model.make_cache()))
    sampling = Sampling(0) if kind == "greedy" else Sampling(0.8, top_p=0.95, seed=1)
    return timed(engine.stream([Request(prompt(), TOKENS + 1, sampling)]))


def nanochat():
    """Return nanochat's model of depth 4 without training, and a tokenizer of one letter."""
    import mlx.core as mx

    from mlx_gpt.models.nanochat import Nanochat, NanochatConfig

    config = NanochatConfig(
        sequence_len=512, vocab_size=4096, n_layer=4, n_head=2, n_kv_head=2, n_embd=256
    )

    class Letters:
        vocab_size, end_ids = config.vocab_size, ()

        def decode_bytes(self, ids: list[int]) -> bytes:
            return b"a" * len(ids)

    model = Nanochat(config).initialize(mx.random.key(0))
    mx.eval(model.parameters())
    return model, Letters()


def peer(folder: str, kind: str) -> tuple[float, float]:
    """Measure one answer of mlx-lm."""
    if not _loaded:
        for library in _mkl(Path(sys.prefix)):
            ctypes.CDLL(library, mode=ctypes.RTLD_GLOBAL)
    import mlx.core as mx
    from mlx_lm import load
    from mlx_lm.generate import generate_step
    from mlx_lm.models.cache import make_prompt_cache
    from mlx_lm.sample_utils import make_sampler

    model = _loaded.setdefault(folder, None) or load(folder)[0]
    _loaded[folder] = model
    if kind == "bare":
        return timed(bare(model, make_prompt_cache(model)))
    sampler = make_sampler(0.8, 0.95) if kind == "sampled" else None
    return timed(generate_step(mx.array(prompt()), model, max_tokens=TOKENS + 1, sampler=sampler))


def bare(model, cache) -> Iterator[int]:
    """Yield tokens from a loop of forward passes."""
    import mlx.core as mx

    token = mx.argmax(model(mx.array([prompt()]), cache)[:, -1], axis=-1)
    for _ in range(TOKENS + 1):
        mx.eval(token)
        yield 0
        token = mx.argmax(model(token[:, None], cache)[:, -1], axis=-1)


def prompt() -> list[int]:
    """Return the same ids on both sides."""
    return [100 + 7 * i % 3000 for i in range(PROMPT)]


def _mkl(prefix: Path) -> list[str]:
    return [str(path) for path in sorted((prefix / "lib").glob("libmkl_rt.so*"))]


if __name__ == "__main__":
    main()
