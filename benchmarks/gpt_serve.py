"""mlx-gpt serve beside mlx_lm.server: speed under load, in turns on one machine; and a soak.

Both servers run all the time, and one at a time has work: in each round each side answers the same
requests. Both have the same model, the same BLAS with as many threads (mlx-fastcpu gives its BLAS
to mlx-lm too) and greedy decoding.

    python benchmarks/gpt_serve.py --peer VENV/bin/python --model MODEL --output docs/benchmarks
    python benchmarks/gpt_serve.py --soak 1000 --model MODEL --output docs/benchmarks

MODEL is the folder `model` that `build_tiny_llama.py` wrote (8 layers of 512, vocabulary of 8,192).
"""

import argparse
import json
import os
import signal
import statistics
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from serving.processes import Process

CLIENTS = (1, 4, 16)
WORDS, TOKENS = 32, 48  # of a prompt, of an answer
REQUESTS = {1: 4, 4: 12, 16: 32}  # in a round
SHORT, SHORT_WORDS, SHORT_TOKENS = 12, 8, 24  # requests beside a long prompt
LONG_WORDS = 1500
SIDES = ("mlx-gpt", "mlx-lm")
STATES = ("idle", "busy")
TIMES = ("first_token", "between_tokens")


def load(process: "Process", clients: int, round: int) -> dict[str, Any]:
    """Return the numbers of a round; raise if a request fails or an answer is too short."""
    from mlx_gpt.serve.load import make_bodies, run_load

    bodies = make_bodies(REQUESTS[clients], [WORDS], [TOKENS], True, seed=round * 100 + clients)
    bodies = [{**each, "model": process.model, "temperature": 0} for each in bodies]
    found = run_load(process.server, "/chat/completions", bodies, clients)
    if found.failed:
        raise RuntimeError(f"{process.name}: {found.failed[0].error}")
    summary = found.summary()
    summary["whole"] = sum(each.tokens == TOKENS for each in found.results)
    return summary


def beside_long_prompt(process: "Process", round: int) -> dict[str, Any]:
    """Return the numbers of short requests alone, and while long prompts are read all the time."""
    from mlx_gpt.serve.load import make_bodies, measure, run_load

    more = {"model": process.model, "temperature": 0}
    short, more_short, long = (
        [{**each, **more} for each in make_bodies(count, [words], [tokens], True, seed)]
        for count, words, tokens, seed in (
            (SHORT, SHORT_WORDS, SHORT_TOKENS, 7000 + round),
            (SHORT, SHORT_WORDS, SHORT_TOKENS, 9000 + round),
            (1000, LONG_WORDS, 1, 8000 + round),
        )
    )
    found = {"idle": run_load(process.server, "/chat/completions", short).summary()}
    done, read = threading.Event(), []

    def read_prompts() -> None:
        for body in long:
            if done.is_set():
                return
            read.append(measure(process.server, "/chat/completions", body, 0.0))

    thread = threading.Thread(target=read_prompts)
    thread.start()
    found["busy"] = run_load(process.server, "/chat/completions", more_short).summary()
    done.set()
    thread.join()
    wrong = [each.error for each in read if each.error] + [*found["idle"]["errors"]]
    if wrong:
        raise RuntimeError(f"{process.name}: {wrong[0]}")
    found["long_seconds"] = statistics.median([each.seconds for each in read])
    found["long_tokens"] = read[0].prompt_tokens
    return found


def measure_all(options: argparse.Namespace) -> dict[str, Any]:
    """Return the numbers of all rounds of both sides."""
    from serving.processes import Process

    rounds: dict[str, dict[str, list]] = {
        side: {str(clients): [] for clients in CLIENTS} | {"long": []} for side in SIDES
    }
    with Process.ours(options.model, options.threads) as ours, Process.mlx_lm(
        options.peer, options.model, options.threads
    ) as theirs:  # fmt: skip
        for process in (ours, theirs):
            load(process, CLIENTS[-1], 99)  # compiles
        for round in range(options.rounds):
            for clients in CLIENTS:
                for process in (ours, theirs):
                    found = load(process, clients, round)
                    rounds[process.name][str(clients)].append(found)
                    print(f"round {round}, {clients} clients, {process.name}: "
                          f"{found['tokens_per_second']:.1f} tokens/s", flush=True)  # fmt: skip
            for process in (ours, theirs):
                rounds[process.name]["long"].append(found := beside_long_prompt(process, round))
                idle, busy = (found[state]["between_tokens"]["p99"] for state in STATES)
                print(f"round {round}, long prompt, {process.name}: p99 between tokens "
                      f"{idle * 1e3:.0f} ms idle, {busy * 1e3:.0f} busy", flush=True)  # fmt: skip
        vitals = {process.name: process.vitals() for process in (ours, theirs)}
    found = {"rounds": rounds, "vitals": vitals, "load": os.getloadavg()[1]}
    return {"speed": {str(options.threads): found}}


def median(rounds: list[dict[str, Any]], *keys: str) -> float:
    """Return the median over rounds of a number in them."""
    values = []
    for found in rounds:
        for key in keys:
            found = found[key]
        values.append(found)
    return statistics.median(values)


def tables(results: dict[str, Any]) -> list[str]:
    """Return the lines of the report's tables of speed with a number of threads."""
    rounds = results["rounds"]
    lines = ["| clients | server | tokens/s | ratio | first token, ms: p50 | p95 | p99 | "
             "between tokens, ms: p50 | p95 | p99 |", "|" + "---|" * 10]  # fmt: skip
    for clients in map(str, CLIENTS):
        pairs = zip(*(rounds[side][clients] for side in SIDES), strict=True)
        ratio = statistics.median(a["tokens_per_second"] / b["tokens_per_second"] for a, b in pairs)
        for side in SIDES:
            found = rounds[side][clients]
            times = [median(found, kind, share) for kind in TIMES
                     for share in ("p50", "p95", "p99")]  # fmt: skip
            cells = [clients, side, f"{median(found, 'tokens_per_second'):.1f}",
                     f"{ratio:.2f}x" if side == SIDES[0] else "",
                     *(f"{each * 1e3:.0f}" for each in times)]  # fmt: skip
            lines.append(f"| {' | '.join(cells)} |")
    lines += ["", "| server | p99 to the first token, ms: idle | busy | ratio | "
              "p99 between tokens, ms: idle | busy | ratio | long prompt, s |",
              "|" + "---|" * 8]  # fmt: skip
    for side in SIDES:
        found, cells = rounds[side]["long"], [side]
        for kind in TIMES:
            idle, busy = ([each[state][kind]["p99"] for each in found] for state in STATES)
            ratio = statistics.median(b / a for a, b in zip(idle, busy, strict=True))
            cells += [f"{statistics.median(each) * 1e3:.0f}" for each in (idle, busy)]
            cells.append(f"{ratio:.1f}x")
        lines.append(f"| {' | '.join(cells)} | {median(found, 'long_seconds'):.1f} |")
    return lines


def soak_text(found: dict[str, Any]) -> str:
    """Return the report's section on the soak."""
    rows = ["begin", "1/4", "2/4", "3/4", "4/4", "100 disconnects"]
    lines = ["| after | memory, MB | of it kept prompts | threads | open files |",
             "|---|---|---|---|---|"]  # fmt: skip
    lines += [f"| {row} | {each['memory']:.0f} | {each['prefix cache']:.0f} | {each['threads']} | "
              f"{each['files']} |"
              for row, each in zip(rows, found["vitals"], strict=True)]  # fmt: skip
    counts = ", ".join(f"{count} {kind}" for kind, count in sorted(found["counts"].items()))
    return SOAK.format(
        table="\n".join(lines), requests=found["requests"], counts=counts,
        active=found["active_after"], idle=found["idle_seconds"],
        last=found["last_answer_seconds"], cut=found["cut_by_kill"],
        kept="are" if found["files_kept"] else "ARE NOT",
    )  # fmt: skip


def write(results: dict[str, Any], folder: Path) -> None:
    """Write the report of what has been measured so far."""
    from turns.processes import describe_machine

    (folder / "gpt-serve.json").write_text(json.dumps(results, indent=1) + "\n")
    text = HEAD
    for threads, found in sorted(results.get("speed", {}).items()):
        ours = found["rounds"]["mlx-gpt"]
        vitals = ", ".join(f"{name} {each['peak']:.0f} MB" for name, each in
                           found["vitals"].items())  # fmt: skip
        text += SPEED.format(
            table="\n".join(tables(found)), threads=threads, load=found["load"],
            count=len(ours["1"]), words=WORDS, tokens=TOKENS, vitals=vitals,
            requests=", ".join(map(str, REQUESTS.values())), long=ours["long"][0]["long_tokens"],
        )  # fmt: skip
    if "soak" in results:
        text += soak_text(results["soak"])
    about = describe_machine("mlx", "mlx-gpt", "mlx-fastcpu", "scipy-openblas32", "uvicorn")
    (folder / "gpt-serve.md").write_text(f"{text}\n{'; '.join(about.values())}; mlx-lm 0.32.2.\n")


def serve_mlx_lm(options: argparse.Namespace) -> None:
    """Be mlx_lm.server, with mlx-fastcpu's BLAS, and room for 16 clients that come at once."""
    import socketserver

    import mlx_fastcpu

    socketserver.TCPServer.request_queue_size = 128  # 5 without, and connections are reset

    print(mlx_fastcpu.activate(threads=options.threads, cache_limit=2 << 30), flush=True)
    from mlx_lm import server

    sys.argv = ["mlx_lm.server", "--model", str(options.model), "--port", str(options.port),
                "--log-level", "ERROR"]  # fmt: skip
    server.main()


def main() -> None:
    """Measure, or be the peer's server."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--peer", help="Python with mlx-lm.")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1, help="Of the BLAS.")
    parser.add_argument("--soak", type=int, metavar="N", help="Requests of a soak, instead.")
    parser.add_argument("--peer-server", action="store_true")
    parser.add_argument("--port", type=int)
    options = parser.parse_args()
    if options.peer_server:
        serve_mlx_lm(options)
        return
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))  # and end the servers
    if options.soak:
        from serving.processes import Process
        from serving.soak import soak

        def start() -> Process:
            # Little memory for kept prompts, so that it is full when the soak begins.
            return Process.ours(options.model, options.threads, "--prefix-cache", "16MiB")

        found: dict[str, Any] = {"soak": soak(start, options.model, options.soak)}
        print(soak_text(found["soak"]))
    else:
        found = measure_all(options)
        print("\n".join(tables(found["speed"][str(options.threads)])))
    if options.output:
        file = options.output / "gpt-serve.json"
        before = json.loads(file.read_text()) if file.exists() else {}
        speed = before.get("speed", {}) | found.pop("speed", {})
        write(before | found | {"speed": speed}, options.output)


HEAD = """\
# Serving: mlx-gpt and mlx-lm

`benchmarks/gpt_serve.py`: a Llama of 32 million parameters (8 layers of 512, vocabulary of 8,192,
random weights), float32, on a CPU.
"""

SPEED = """
## Under load, {threads} BLAS thread(s)

Both servers run all the time, one at a time has work: {count} rounds, in which each answers the
same {requests} requests (by 1, 4 and 16 clients) of {words} words with {tokens} tokens, streamed
and greedy. mlx-lm has the same BLAS library; medians over the rounds, ratios are medians of the
ratios of each round. Load of the machine at the end: {load:.1f}; where
other programs computed too, only ratios compare.

{table}

Busy: prompts of {long} tokens are read one after another by another client. Time between tokens is
that between pieces of the stream; mlx-gpt hands out a first token a step early, so that idle the
second one comes two steps later, which is its p99. Peak memory: {vitals}. mlx_lm.server has a
queue of 128 connections here; with its own of 5 it resets some of 16 clients that come at once.
"""

SOAK = """
## Soak

{requests} requests by 8 clients at a time ({counts}), after a quarter
as many to warm up: good ones of all kinds, malformed ones of which each must be refused with a 4xx
in OpenAI's form, and clients that go away before or in the middle of an answer, or in the middle of
their request. No answer was another than it should be. The server keeps 16 MiB of prompts; its
memory includes MLX's cache of free buffers, of at most 256 MiB.

{table}

After the disconnects {active:.0f} requests were active, {idle:.2f} s after the last one; the next
request was answered in {last:.2f} s. Then the server was killed (SIGKILL) while it wrote {cut}
answers, and started again: the files of the model {kept} the same.
"""


if __name__ == "__main__":
    main()
