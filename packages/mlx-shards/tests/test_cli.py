import json
import os
import signal
import subprocess
import sys
import threading

import numpy as np
import pyarrow.parquet as pq
import pytest


@pytest.fixture
def run(tmp_path):
    """Return a function that runs the command line: exit code, stdout and stderr."""

    def run(*arguments, **options):
        environment = {**os.environ, "COLUMNS": "100", "HF_HOME": str(tmp_path / "hf")}
        command = [sys.executable, "-m", "mlx_shards.cli", *map(str, arguments)]
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, env=environment, **options
        )
        return done.returncode, done.stdout, done.stderr

    return run


def test_help_names_the_commands_and_loads_no_library_of_data(run):
    code, out, _ = run("--help")
    assert code == 0
    assert all(f"\n  {name} " in out for name in ("make", "fetch", "verify", "stats"))
    code, out, _ = run("fetch", "--help")
    assert code == 0
    assert "hf:owner/name[:pattern]" in out
    check = "import sys, mlx_shards.cli; print({'pyarrow', 'rich', 'mlx'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_make_stats_fetch_and_verify_work_together(run, tmp_path, server):
    texts = [f"document {i} " * (i % 7) for i in range(300)]
    lines = "\n".join(json.dumps({"body": text}) for text in texts)
    (tmp_path / "in.jsonl").write_text(lines)
    out = tmp_path / "out"
    options = ("--column", "body", "--group", 50, "--shard-chars", "5K", "--shuffle-seed", 1)
    code, said, error = run("make", tmp_path / "in.jsonl", "--output", out, *options)
    assert (code, error) == (0, "")
    files = sorted(out.glob("*.parquet"))
    size = sum(path.stat().st_size for path in files)
    assert said == f"{out}: {len(files)} shards, 300 documents, {size:,} bytes, manifest.json\n"
    made = [text for path in files for text in pq.read_table(path)["text"].to_pylist()]
    assert sorted(made) == sorted(texts)
    assert made != texts

    code, said, _ = run("stats", out, "--json")
    counted = json.loads(said)
    assert code == 0
    assert sum(each["documents"] for each in counted) == 300
    assert sum(each["units"] for each in counted) == sum(map(len, texts))
    code, said, _ = run("stats", out)
    assert f"{len(files)} shards, 300 documents, {sum(map(len, texts)):,} characters" in said

    for path in out.iterdir():
        server.add(f"set/{path.name}", path.read_bytes())
    copy = tmp_path / "copy"
    code, said, error = run("fetch", f"{server.url}/set/manifest.json", "--to", copy)
    assert code == 0, error
    assert said == (
        f"{copy}: {len(files)} shards, {len(files)} downloaded, {size:,} bytes received\n"
    )
    assert error == f"{len(files)} of {len(files)} shards\n"
    template = f"{server.url}/set/shard_{{:05d}}.parquet"
    code, said, _ = run("fetch", template, "--numbers", f"0-{len(files) - 1}", "--to", copy)
    assert said == f"{copy}: {len(files)} shards, 0 downloaded, 0 bytes received\n"

    for folder in (out, copy):
        code, said, _ = run("verify", folder)
        assert (code, said) == (
            0,
            f"{len(files)} shards are good, {len(files)} of them by SHA-256\n",
        )
        damaged = bytearray((folder / files[0].name).read_bytes())
        damaged[10] ^= 1
        (folder / files[0].name).write_bytes(damaged)
        code, said, error = run("verify", folder)
        assert code == 1
        assert said.startswith(f"{files[0].name}: SHA-256 ")
        assert error.endswith(f"Error: 1 of {len(files)} shards are bad\n")


def test_fetch_refuses_to_hold_more_than_it_may(run, server, tmp_path):
    for i in range(3):
        server.add(f"{i}.bin", bytes(1000))
    options = ("--numbers", "0-2", "--to", tmp_path / "x", "--max-bytes", "2500")
    code, out, error = run("fetch", server.url + "/{}.bin", *options)
    assert (code, out) == (1, "")
    assert "no room for " in error
    assert "raise max_bytes (2,500)" in error


WRONG = {
    "fetch": "Missing argument 'SOURCE'.",
    "fetch http://host/{}.bin": "Missing option '--to'.",
    "fetch http://host/{}.bin --to x --numbers a-b": (
        "Invalid value for '--numbers': expected numbers such as 0-7 or 0,3,6542, got 'a-b'"
    ),
    "fetch http://host/{}.bin --to x --numbers 0-3,9-7": (
        "Invalid value for '--numbers': expected numbers such as 0-7 or 0,3,6542, got '0-3,9-7'"
    ),
    "fetch http://host/{}.bin --to x --numbers 0-99999999999": (
        "Invalid value for '--numbers': '0-99999999999' are 100,000,000,000 numbers, over 1,000,000"
    ),
    "fetch http://host/{}.bin --to x --numbers 3,3": (
        "http://host/{}.bin: number 3 is given 2 times"
    ),
    "fetch http://host/{}.bin --to x": (
        "http://host/{}.bin: a URL template needs numbers, such as 0-7"
    ),
    "fetch http://host/{name}.bin --to x --numbers 1": (
        "http://host/{name}.bin: expected {} or {:05d} in place of the number ('name')"
    ),
    "fetch http://host/{.bin --to x --numbers 1": (
        "http://host/{.bin: expected {} or {:05d} in place of the number (expected '}' before "
        "end of string)"
    ),
    "fetch http://host/a.bin --to x --max-bytes 20GiB": (
        "Invalid value for '--max-bytes': expected a size such as 500MB or 20GB, got '20GiB'"
    ),
    "fetch s3://bucket/a.bin --to x": (
        "s3://bucket/a.bin: only http://, https://, hf: and local paths are known"
    ),
    "fetch a.jsonl --to x": "HERE/a.jsonl is a local file: nothing to download",
    "fetch no.json --to x": ("no.json is not JSON: Expecting value: line 1 column 1 (char 0)"),
    "fetch size.json --to x": "size.json: shard a.bin: size must be a number, got 'x'",
    "fetch empty.json --to x": "empty.json: a manifest without shards",
    "verify missing": "Invalid value for 'SOURCE': Path 'missing' does not exist.",
    "verify void": "no shards at void: expected files in ",
    "stats missing": "missing: no such file or folder",
    "stats a.jsonl --on-error no": (
        "Invalid value for '--on-error': 'no' is not one of 'raise', 'skip'."
    ),
    "make missing -o x": "missing: no such file or folder",
    "make a.jsonl -o full": "full already has 1 shards; choose another folder",
    "make a.jsonl -o x --shard-chars much": (
        "Invalid value for '--shard-chars': expected a size such as 500MB or 20GB, got 'much'"
    ),
    "fletch": "No such command 'fletch'.",
}


@pytest.mark.parametrize("arguments", WRONG)
def test_wrong_usage_exits_with_2_and_names_it(run, arguments, tmp_path):
    here = tmp_path / "here"
    for name in ("void", "full"):
        (here / name).mkdir(parents=True)
    (here / "full/shard_00000.parquet").touch()
    (here / "a.jsonl").write_text('{"text": "a"}')
    (here / "no.json").write_text("no")
    (here / "size.json").write_text('{"shards": [{"name": "a.bin", "size": "x"}]}')
    (here / "empty.json").write_text('{"shards": []}')
    before = sorted(here.rglob("*"))
    code, out, error = run(*arguments.split(), cwd=here)
    assert (code, out) == (2, "")
    assert error.startswith("Usage: ")
    message = WRONG[arguments].replace("HERE", str(here.resolve()))
    assert f"Error: {message}" in error
    assert error.count("\n") <= 5
    assert sorted(here.rglob("*")) == before


def test_rows_that_cannot_be_used_are_errors_or_skipped_and_counted(run, tmp_path):
    path = tmp_path / "a.jsonl"
    good = [json.dumps({"text": f"document {i}"}) for i in range(30)]
    path.write_text("\n".join(["bad", *good, '{"t": 1}']))
    out = tmp_path / "out"
    first = f"{path}: line 1: not JSON: Expecting value: line 1 column 1 (char 0)"
    last = f"{path}: line 32: no text under 'text'; its keys: t"
    for command in (("make", path, "-o", out), ("stats", path)):
        assert run(*command) == (1, "", f"Error: {first}\n")
    assert list(out.iterdir()) == []
    code, said, error = run("verify", path)
    assert (code, said) == (1, f"a.jsonl: 2 of 32 rows are bad, the first: {first}\n")
    code, said, error = run("make", path, "-o", out, "--on-error", "skip")
    assert code == 0
    assert said.startswith(f"{out}: 1 shards, 30 documents, 2 rows skipped, ")
    assert error == f"skipped {first}\nskipped {last}\n"
    assert pq.read_table(out / "shard_00000.parquet").num_rows == 30
    code, said, error = run("stats", path, "--on-error", "skip")
    assert "1 shards, 30 documents, 2 rows skipped, " in said
    assert error == f"skipped {first}\nskipped {last}\n1 of 1 shards, 2 rows skipped\n"
    code, said, _ = run("stats", path, "--on-error", "skip", "--json")
    assert [(each["documents"], each["skipped"]) for each in json.loads(said)] == [(30, 2)]


def test_texts_and_tokens_are_counted_apart(run, tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "abcde"}')
    np.save(tmp_path / "b.npy", np.arange(9))
    code, said, _ = run("stats", tmp_path)
    assert code == 0
    assert "1 shards, 1 documents, 5 characters, " in said
    assert "1 shards, 1 documents, 9 tokens, " in said


def test_a_second_set_of_the_same_names_says_where_it_is(run, server, tmp_path):
    for name in ("one", "two"):
        server.add(f"{name}/a.bin", name.encode())
    assert run("fetch", f"{server.url}/one/a.bin", "--to", tmp_path)[0] == 0
    code, said, _ = run("fetch", f"{server.url}/two/a.bin", "--to", tmp_path)
    (path,) = tmp_path.glob("*/a.bin")
    assert (code, path.read_bytes()) == (0, b"two")
    assert said == (
        f"{tmp_path}: 1 shards, 1 downloaded, 3 bytes received; 1 stored under other names, "
        f"such as {path}\n"
    )


def test_a_folder_that_cannot_be_made_is_named(run, server, tmp_path):
    (tmp_path / "file").touch()
    server.add("a.bin", b"x")
    code, _, error = run("fetch", f"{server.url}/a.bin", "--to", tmp_path / "file/x")
    assert code == 1
    assert error == f"Error: {tmp_path}/file/x/.mlx-shards/owned: Not a directory\n"


def test_a_failure_exits_with_1_and_one_line_unless_debugged(run, server, tmp_path):
    arguments = ("fetch", f"{server.url}/a.bin", "--to", tmp_path)
    code, out, error = run(*arguments)
    assert (code, out) == (1, "")
    assert error == f"Error: {server.url}/a.bin: the server answered with status 404\n"
    code, _, error = run(*arguments, "--debug")
    assert code == 1
    assert "Traceback" in error


def test_a_signal_ends_a_download_with_128_and_its_number(server, tmp_path, start):
    server.add("a.bin", bytes(1000))
    server.fault("a.bin", ("stall", 100))
    receiving = threading.Event()
    server.gate = lambda path: receiving.set()
    arguments = ("fetch", f"{server.url}/a.bin", "--to", tmp_path)
    process = start([sys.executable, "-m", "mlx_shards.cli", *arguments], stderr=subprocess.PIPE)
    assert receiving.wait(600)
    process.send_signal(signal.SIGTERM)
    _, error = process.communicate()
    assert error.strip() == "Interrupted (SIGTERM). Repeat the command to resume a download."
    assert process.returncode == 128 + signal.SIGTERM
