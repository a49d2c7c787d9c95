import json
import os
import subprocess
import sys

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


@pytest.mark.parametrize(
    "arguments",
    [
        ("fetch", "http://host/{}.bin", "--to", "x", "--numbers", "a-b"),
        ("fetch", "http://host/{}.bin"),
        ("verify", "missing"),
        ("fletch",),
    ],
    ids=str,
)
def test_wrong_usage_exits_with_2(run, arguments, tmp_path):
    code, out, error = run(*arguments, cwd=tmp_path)
    assert (code, out) == (2, "")
    assert error.startswith("Usage: ")


def test_a_failure_exits_with_1_and_one_line_unless_debugged(run, server, tmp_path):
    arguments = ("fetch", f"{server.url}/a.bin", "--to", tmp_path)
    code, out, error = run(*arguments)
    assert (code, out) == (1, "")
    assert error == f"Error: {server.url}/a.bin: the server answered with status 404\n"
    code, _, error = run(*arguments, "--debug")
    assert code == 1
    assert "Traceback" in error
