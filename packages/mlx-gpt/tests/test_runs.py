"""Run folders belong to one process, and are replaced only when asked for."""

from pathlib import Path

import pytest

from mlx_gpt.training.runs import (
    KIND,
    explain_missing_paths,
    inputs_of,
    open_run,
    save_to_run,
)
from mlx_gpt.training.settings import PretrainConfig, PretrainData, SftConfig, SftData
from mlx_trainer import ChangedFileError, RunFolder


def begin(folder, resume=False, overwrite=False):
    with open_run(folder, {"depth": 2}, resume, overwrite) as run:
        assert run.path == folder


def test_a_run_is_made_and_opened_again_and_replaced_only_when_asked_for(tmp_path):
    run = tmp_path / "run"
    begin(run)
    run.joinpath("mine").touch()
    begin(run, resume=True)
    with pytest.raises(FileExistsError, match=r"resume or overwrite it \(--resume, --overwrite\)"):
        begin(run)
    run.joinpath("model").mkdir()
    run.joinpath("model/model.safetensors").touch()
    begin(run, overwrite=True)
    assert run.joinpath("mine").exists()
    assert not run.joinpath("model").exists()


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_that_is_no_run_is_left_alone(tmp_path, overwrite):
    (tmp_path / "holiday.jpg").touch()
    with pytest.raises(OSError, match=r"is not empty and not a run"):
        begin(tmp_path, overwrite=overwrite)
    assert [each.name for each in tmp_path.iterdir()] == ["holiday.jpg"]


@pytest.mark.parametrize("how", [{}, {"resume": True}, {"overwrite": True}])
def test_a_folder_in_which_another_process_trains_is_refused(tmp_path, how):
    begin(tmp_path)
    with RunFolder.resume(tmp_path, kind=KIND):
        (tmp_path / "metrics.jsonl").write_text("half a li")
        with pytest.raises(BlockingIOError, match="another process is training in"):
            begin(tmp_path, **how)
    assert (tmp_path / "metrics.jsonl").read_text() == "half a li"


def test_a_replaced_folder_is_locked_too(tmp_path):
    begin(tmp_path / "run")
    with open_run(tmp_path / "run", {}, False, True), pytest.raises(BlockingIOError):
        begin(tmp_path / "run", resume=True)
    begin(tmp_path / "run", resume=True)


def test_a_resumed_run_says_where_its_paths_begin(tmp_path):
    missing = FileNotFoundError("no tokenizer")
    with pytest.raises(FileNotFoundError) as error, explain_missing_paths(tmp_path, resume=True):
        raise missing
    assert str(error.value) == (
        f"no tokenizer; paths in {tmp_path / 'config.yaml'} are relative to the folder where "
        "the run was started: resume it from there, or change the paths"
    )
    with pytest.raises(FileNotFoundError) as error, explain_missing_paths(tmp_path, resume=False):
        raise missing
    assert str(error.value) == "no tokenizer"


def test_the_local_files_that_a_run_reads_are_its_inputs(tmp_path, tokenizer, tiny_model):
    tokenizer.save(tmp_path / "tokenizer")
    save_to_run(tiny_model, tokenizer, tmp_path / "base")
    for name in ("text.txt", "chat.jsonl"):
        (tmp_path / name).touch()
    text, words = str(tmp_path / "text.txt"), str(tmp_path / "tokenizer")
    found = inputs_of(PretrainConfig(PretrainData(text, words, valid="hf:owner/name")))
    assert found == {"data.train": text, "data.tokenizer": words}
    base, chat = str(tmp_path / "base"), str(tmp_path / "chat.jsonl")
    found = inputs_of(SftConfig(base, SftData([f"gsm8k:{chat}:2"])))
    assert found == {"model": tmp_path / "base" / "model", "data.train[0]": Path(chat)}


def test_resume_refuses_a_tokenizer_that_changed(tmp_path, tokenizer):
    tokenizer.save(tmp_path / "tokenizer")
    config = PretrainConfig(PretrainData("hf:owner/name", str(tmp_path / "tokenizer")))
    with open_run(tmp_path / "run", config, False, False):
        pass
    path = tmp_path / "tokenizer" / "tokenizer.json"
    path.write_text(path.read_text() + " ")
    with (
        pytest.raises(ChangedFileError, match=rf"{path} \(data.tokenizer\) was changed since"),
        open_run(tmp_path / "run", config, True, False),
    ):
        pass
