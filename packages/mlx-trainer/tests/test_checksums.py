import pytest

from mlx_trainer import (
    ChangedFileError,
    check_manifest,
    checksums,
    fingerprint,
    write_manifest,
)


def test_a_fingerprint_has_each_visible_file(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a/b.txt").write_text("abc")
    (tmp_path / ".cache").write_text("x")
    # The test vector of FIPS 180-2.
    sha = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert fingerprint(tmp_path) == {"a/b.txt": sha}
    assert fingerprint(tmp_path / "a/b.txt") == {".": sha}


def test_large_inputs_are_sampled_at_both_ends(tmp_path, monkeypatch):
    monkeypatch.setattr(checksums, "WHOLE_BELOW", 10)
    monkeypatch.setattr(checksums, "_PIECE", 4)
    path = tmp_path / "shard"
    path.write_bytes(bytes(range(200)))
    before = fingerprint(path)
    assert before["."].startswith("sampled-")
    for place in (0, 199):
        changed = bytearray(range(200))
        changed[place] += 1
        path.write_bytes(changed)
        assert fingerprint(path) != before
    path.write_bytes(bytes(range(200)))
    assert fingerprint(path) == before


def test_a_manifest_finds_what_is_lost_or_flipped(tmp_path):
    (tmp_path / "encoder").mkdir()
    weights = tmp_path / "encoder/model.bin"
    weights.write_bytes(bytes(1000))
    with pytest.raises(FileNotFoundError):
        check_manifest(tmp_path)
    write_manifest(tmp_path, ["encoder/model.bin"])
    (tmp_path / ".DS_Store").write_text("not ours")
    check_manifest(tmp_path)
    flipped = bytearray(1000)
    flipped[500] ^= 1
    weights.write_bytes(flipped)
    with pytest.raises(ChangedFileError) as error:
        check_manifest(tmp_path)
    assert str(error.value) == (
        f"{weights} is damaged or was changed: its SHA-256 is not the one in manifest.json"
    )
    weights.unlink()
    with pytest.raises(ChangedFileError) as error:
        check_manifest(tmp_path)
    assert str(error.value) == f"{weights} is missing; it is listed in {tmp_path / 'manifest.json'}"


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"sha256": 3}', '{"sha256": {}}'])
def test_a_damaged_manifest_is_named(tmp_path, text):
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(ChangedFileError, match=r"manifest.json is damaged: "):
        check_manifest(tmp_path)


def test_a_manifest_must_name_what_is_required(tmp_path):
    (tmp_path / "a").touch()
    write_manifest(tmp_path, ["a"])
    check_manifest(tmp_path, ["a"])
    with pytest.raises(ChangedFileError, match=r"manifest.json is damaged: it does not list b$"):
        check_manifest(tmp_path, ["a", "b"])
