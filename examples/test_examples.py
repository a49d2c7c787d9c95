"""Run every example as a script, and check its results."""

import runpy
import tempfile
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Return a function that runs an example and returns the script's globals and output."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    def run(name):
        names = runpy.run_path(str(EXAMPLES / name), run_name="__main__")
        return names, capsys.readouterr().out

    return run


def test_muon_loop_learns_at_every_rate(run):
    names, printed = run("muon_loop.py")
    assert all(muon < 1.0 for muon, _ in names["results"].values())
    assert "matrix: Muon, rate 0.01" in printed


def test_finetune_encoder_predicts_rows_it_has_not_seen(run):
    names, printed = run("finetune_encoder.py")
    assert names["accuracy"] > 0.9
    assert "accuracy on 120 held-out rows" in printed


def test_retrieval_finds_documents_that_share_no_word_with_the_query(run):
    names, printed = run("retrieval.py")
    assert names["accuracy"] > 0.8
    assert "new queries; by chance 2%" in printed


def test_stream_shards_resumes_at_the_next_token(run):
    names, printed = run("stream_shards.py")
    assert len(names["shards"]) > 1
    assert len(names["before"]) == 7
    assert names["before"] + names["after"] == names["whole"]
    assert "equal 20 batches" in printed


def test_train_and_resume_ends_with_the_same_weights(run):
    names, printed = run("train_and_resume.py")
    assert "killed after update 23" in printed
    assert names["resumed"].keys() == names["expected"].keys()


def test_the_readme_lists_every_example():
    listed = (EXAMPLES / "README.md").read_text()
    for path in set(EXAMPLES.glob("*.py")) - {Path(__file__)}:
        assert f"[{path.name}]({path.name})" in listed
