import hashlib
import json

import pytest

from mlx_shards import (
    Cache,
    DownloadError,
    Shard,
    find_shards,
    http_shards,
    hub_headers,
    hub_shards,
    local_shards,
    manifest_shards,
    parse_numbers,
    split_last,
    write_manifest,
)
from mlx_shards.shard import parse_bytes


def test_local_shards_are_sorted_and_hidden_or_foreign_files_left_out(tmp_path):
    for name in ("b.parquet", "a.jsonl.gz", ".c.parquet", "d.md", "manifest.json"):
        (tmp_path / name).write_bytes(b"xy")
    assert [(s.name, s.size) for s in local_shards(tmp_path)] == [
        ("a.jsonl.gz", 2),
        ("b.parquet", 2),
    ]
    assert [shard.name for shard in local_shards(tmp_path / "*.parquet")] == ["b.parquet"]
    known = ".bin, .jsonl, .jsonl.gz, .jsonl.zst, .npy, .parquet, .safetensors"
    with pytest.raises(ValueError, match=r"^no shards at ") as caught:
        local_shards(tmp_path / "x*")
    assert str(caught.value).startswith(f"no shards at {tmp_path}/x*: expected files in ")
    assert set(known.split(", ")) <= set(str(caught.value).split(" in ")[1].split(", "))
    with pytest.raises(ValueError, match=r"x: no such file or folder$"):
        local_shards(tmp_path / "x")


def test_templates_give_nanochats_names():
    shards = http_shards("https://host/set/resolve/main/shard_{:05d}.parquet", [0, 6542])
    assert shards[1] == Shard(
        "shard_06542.parquet", "https://host/set/resolve/main/shard_06542.parquet"
    )


def test_a_template_without_a_place_for_the_number_is_refused(exactly):
    message = "https://host/a.parquet: makes the same URL twice; it needs {} or {:05d}"
    with pytest.raises(ValueError, match=exactly(message)):
        http_shards("https://host/a.parquet", range(2))


def test_a_manifest_knows_sizes_hashes_and_rows_here_and_on_a_server(server, tmp_path, quick):
    (tmp_path / "a b.bin").write_bytes(b"123456")
    written = write_manifest(tmp_path, [3])
    digest = hashlib.sha256(b"123456").hexdigest()
    assert written == [Shard("a b.bin", str(tmp_path / "a b.bin"), 6, digest, 3)]
    server.add("set/manifest.json", (tmp_path / "manifest.json").read_bytes())
    server.files["/set/a%20b.bin"] = b"123456"
    (remote,) = manifest_shards(f"{server.url}/set/manifest.json")
    assert remote == Shard("a b.bin", f"{server.url}/set/a%20b.bin", 6, digest, 3)
    with Cache(tmp_path / "cache", 100, http=quick).lease(remote) as lease:
        assert lease.path == tmp_path / "cache" / "a b.bin"


def test_what_is_no_manifest_is_refused(tmp_path):
    (tmp_path / "m.json").write_text('{"files": []}')
    with pytest.raises(ValueError, match=r"m\.json is not a manifest of shards: KeyError"):
        manifest_shards(tmp_path / "m.json")


@pytest.fixture
def hub(server, monkeypatch, tmp_path):
    """A hub with one data set of three files on two pages, at commit c0ffee."""
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    api = "api/datasets/me/set"
    digest = hashlib.sha256(b"one").hexdigest()
    lfs = {"type": "file", "path": "data/1.parquet", "size": 3, "lfs": {"oid": digest, "size": 3}}
    plain = {"type": "file", "path": "data/0.parquet", "size": 4}
    others = [{"type": "directory", "path": "data"}, {"type": "file", "path": "a.md", "size": 1}]
    server.add(f"{api}/revision/main", json.dumps({"sha": "c0ffee"}).encode())
    server.add(f"{api}/tree/c0ffee", json.dumps([lfs, *others]).encode())
    server.add(f"{api}/more", json.dumps([plain]).encode())
    server.headers[f"/{api}/tree/c0ffee"] = {"Link": f'<{server.url}/{api}/more>; rel="next"'}
    server.files["/datasets/me/set/resolve/c0ffee/data/1.parquet"] = b"one"
    return digest


def test_hub_shards_come_with_hashes_from_one_commit(server, hub, tmp_path, quick):
    shards = hub_shards("me/set", http=quick)
    base = f"{server.url}/datasets/me/set/resolve/c0ffee/data"
    assert shards == [
        Shard("data/0.parquet", f"{base}/0.parquet", 4),
        Shard("data/1.parquet", f"{base}/1.parquet", 3, hub),
    ]
    assert find_shards("hf:me/set:data/1*") == shards[1:]
    with Cache(tmp_path / "cache", 100, http=quick).lease(shards[1]) as lease:
        assert lease.path == tmp_path / "cache/data/1.parquet"
        assert lease.path.read_bytes() == b"one"


def test_a_hub_pattern_without_files_and_a_missing_set_are_named(hub, quick, exactly, server):
    message = "data set me/set at main has no file that matches '*.bin'"
    with pytest.raises(ValueError, match=exactly(message)):
        hub_shards("me/set", "*.bin", http=quick)
    message = (
        f"{server.url}/api/datasets/me/none/revision/main: the server answered with status 404"
    )
    with pytest.raises(DownloadError, match=exactly(message)):
        hub_shards("me/none", http=quick)


def test_the_token_comes_from_the_environment_or_the_login(hub, monkeypatch, tmp_path):
    assert hub_headers() == {}
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf/token").write_text("kept\n")
    assert hub_headers() == {"Authorization": "Bearer kept"}
    monkeypatch.setenv("HF_TOKEN", "given")
    assert hub_headers() == {"Authorization": "Bearer given"}


def test_find_shards_goes_by_the_look_of_it(server, tmp_path):
    (tmp_path / "a.npy").write_bytes(b"1")
    write_manifest(tmp_path)
    assert find_shards(tmp_path) == local_shards(tmp_path)
    assert find_shards(tmp_path / "manifest.json") == manifest_shards(tmp_path / "manifest.json")
    assert find_shards("http://host/{}.bin", [4]) == http_shards("http://host/{}.bin", [4])
    assert find_shards("http://host/a.bin") == [Shard("a.bin", "http://host/a.bin")]
    with pytest.raises(ValueError, match=r"a URL template needs numbers, such as 0-7$"):
        find_shards("http://host/{}.bin")


def test_numbers_are_ranges_and_single_ones():
    assert parse_numbers("0-3,6542") == [0, 1, 2, 3, 6542]
    assert parse_numbers(" 7 , 1 - 2") == [7, 1, 2]


@pytest.mark.parametrize("text", ["", "a-b", "3-", "-3", "1,,2", "9-7", "0:3"])
def test_other_forms_of_numbers_are_refused(text, exactly):
    message = f"expected numbers such as 0-7 or 0,3,6542, got {text!r}"
    with pytest.raises(ValueError, match=exactly(message)):
        parse_numbers(text)


def test_one_file_cannot_be_both_training_and_validation(exactly):
    shards = http_shards("http://host/{}.bin", range(3))
    assert split_last(shards) == (shards[:2], shards[2:])
    message = (
        "cannot hold out 1 of 1 shards for validation and train on the rest; make smaller shards "
        "(mlx-shards make --shard-chars)"
    )
    with pytest.raises(ValueError, match=exactly(message)):
        split_last(shards[:1])


@pytest.mark.parametrize("name", ["", "/a", "../a", "a/../b", ".hidden", "a/.mlx-shards/b"])
def test_names_that_leave_the_folder_are_refused(name):
    with pytest.raises(ValueError, match="expected a relative path without hidden parts"):
        Shard(name, "http://host/a")


def test_other_bad_shards_are_refused(exactly):
    with pytest.raises(ValueError, match="must be a path, or a URL that starts with http://"):
        Shard("a", "s3://bucket/a")
    with pytest.raises(
        ValueError, match=exactly("shard a: sha256 must be 64 lower-case hex digits")
    ):
        Shard("a", "a", sha256="00")
    assert str(Shard("a", "file:///data/a%20b").local_path) == "/data/a b"


@pytest.mark.parametrize(
    ("text", "count"),
    [(5, 5), ("5", 5), ("20GB", 20 * 10**9), ("1.5 M", 1_500_000), ("2kb", 2000), ("1_000", 1000)],
)
def test_sizes_are_read_in_powers_of_1000(text, count):
    assert parse_bytes(text) == count
