"""A day's use: stream from a server through a cache of two shards, be killed twice, go on.

As a script it is the run that is killed: `day.py URL SHARDS TOKENIZER FOLDER` prints the number of
each batch, and keeps state and hash of all tokens so far in FOLDER/state.json every five batches.
"""

import hashlib
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

EPOCHS, EVERY = 2, 5


def measure(options) -> dict:
    from shards.corpus import copies, train_tokenizer, training_shards
    from shards.server import Server

    shards = training_shards(options.data, options.documents)
    with tempfile.TemporaryDirectory() as folder, Server(Path(folder), 0.05) as server:
        copies(shards, Path(folder))
        tokenizer = Path(folder, "tokenizer.json")
        train_tokenizer(shards, tokenizer)
        task = (server.url, str(len(shards)), str(tokenizer))
        began = time.perf_counter()
        whole = run(task, kill_after=None)
        middle = time.perf_counter()
        requests = len(server.requests)
        with tempfile.TemporaryDirectory() as kept:
            largest = 0
            for part in (0.3, 0.7):
                at = int(whole["batches"] * part)
                largest = max(largest, run(task, at, Path(kept))["cached"])
            resumed = run(task, None, Path(kept))
        return {
            "batches": whole["batches"],
            "tokens": whole["tokens"],
            "identical": whole["sha256"] == resumed["sha256"],
            "sha256": whole["sha256"],
            "sha256_resumed": resumed["sha256"],
            "most_shards_on_disk": max(largest, whole["cached"], resumed["cached"]),
            "state_bytes": whole["state_bytes"],
            "requests": {"uninterrupted": requests, "killed": len(server.requests) - requests},
            "seconds": {
                "uninterrupted": middle - began,
                "killed twice": time.perf_counter() - middle,
            },
        }


def run(task: tuple[str, str, str], kill_after: int | None, kept: Path | None = None) -> dict:
    """Run to the end or until batch `kill_after`; return what it said last."""
    with tempfile.TemporaryDirectory() as fresh:
        folder = kept or Path(fresh)
        command = [sys.executable, __file__, *task, str(folder)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert process.stdout
        said: dict = {"state_bytes": 0}
        for line in process.stdout:
            largest = said["state_bytes"]
            said = json.loads(line)
            said["state_bytes"] = max(largest, said["state_bytes"])
            if kill_after is not None and said["batches"] >= kill_after:
                process.kill()
                break
        process.stdout.close()
        status = process.wait()
        assert status == (0 if kill_after is None else -9), status
        return said


def main(url: str, shards: str, tokenizer: str, folder: str) -> None:
    from corpus import encoder
    from tokenizers import Tokenizer

    from mlx_shards import Cache, StreamConfig, TokenStream, http_shards

    encode = encoder(Tokenizer.from_file(tokenizer))

    config = StreamConfig(2048, 8, bos_id=0, epochs=EPOCHS, seed=7, oversize="split")
    cache = Cache(Path(folder, "cache"), "1GB", max_files=2)
    stream = TokenStream(
        http_shards(url + "/shard_{:05d}.parquet", range(int(shards))), encode, config, cache=cache
    )
    path = Path(folder, "state.json")
    sha256, cached = "", 0
    if path.exists():
        saved = json.loads(path.read_text())
        stream.load_state(saved["stream"])
        sha256 = saved["sha256"]
    for batch in stream:
        tokens = memoryview(batch.inputs).tobytes() + memoryview(batch.targets).tobytes()
        sha256 = hashlib.sha256(sha256.encode() + tokens).hexdigest()
        counts = stream.stats.counts
        cached = max(cached, len(list(cache.folder.glob("*.parquet"))))
        if counts.batches % EVERY == 0:
            saved = json.dumps({"stream": stream.state(), "sha256": sha256})
            new = path.with_suffix(".new")
            new.write_text(saved)
            new.replace(path)
        said = {"batches": counts.batches, "tokens": counts.tokens, "sha256": sha256}
        print(json.dumps(said | {"cached": cached, "state_bytes": state_bytes(path)}), flush=True)


def state_bytes(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


if __name__ == "__main__":
    main(*sys.argv[1:])
