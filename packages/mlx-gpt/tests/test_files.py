"""Model folders: what is saved is loaded, and what does not fit is refused by name."""

import json
import re
import shutil
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mlx.utils import tree_map

from mlx_gpt.models.files import find_model_folder, load_model, save_manifest, save_model
from mlx_gpt.models.formats import named_parameters
from mlx_gpt.models.nanochat import Nanochat, NanochatConfig
from mlx_gpt.models.nanochat_2025 import Nanochat2025, Nanochat2025Config
from mlx_gpt.models.pickles import read_torch_file
from mlx_trainer import ChangedFileError

FIXTURES = Path(__file__).parent / "fixtures"
CONFIG = NanochatConfig(32, 70, 3, 2, 1, 24, "SL")
IDS = mx.array([[1, 2, 3, 69, 5, 6]])


def random_model(config=CONFIG, dtype: mx.Dtype = mx.float32):
    random = np.random.default_rng(0)
    model = (Nanochat if isinstance(config, NanochatConfig) else Nanochat2025)(config, dtype)

    def draw(parameter: mx.array) -> mx.array:
        scale = parameter.shape[-1] ** -0.5
        return mx.array(random.normal(scale=scale, size=parameter.shape).astype(np.float32))

    model.update(tree_map(draw, model.parameters()))
    return model


@pytest.fixture
def folder(tmp_path) -> Path:
    """A saved model."""
    save_model(random_model(), tmp_path / "saved")
    return tmp_path / "saved"


def rewrite(folder: Path, change) -> None:
    """Write the tensors again, as `change` makes them of a dict."""
    path = str(folder / "model.safetensors")
    tensors = {name: mx.array(np.array(array)) for name, array in mx.load(path).items()}
    mx.save_safetensors(path, change(tensors))


def refused(folder: Path, error: type[Exception], message: str):
    text = message.replace("FOLDER", str(folder))
    with pytest.raises(error, match=f"^{re.escape(text)}$"):
        load_model(folder)


def assert_equal(got, expected) -> None:
    got, expected = named_parameters(got), named_parameters(expected)
    assert got.keys() == expected.keys()
    for name, array in expected.items():
        assert got[name].dtype == array.dtype, name
        assert mx.array_equal(got[name], array), name


@settings(max_examples=15, deadline=None)
@given(
    layers=st.integers(1, 4), kv_heads=st.integers(1, 2), groups=st.integers(1, 2),
    vocabulary=st.integers(1, 130), pattern=st.text("SLsl", min_size=1, max_size=4),
    older=st.booleans(), half=st.booleans(),
)  # fmt: skip
def test_a_saved_model_loads_bit_for_bit(
    tmp_path_factory, layers, kv_heads, groups, vocabulary, pattern, older, half
):
    heads = kv_heads * groups
    sizes = (17, vocabulary, layers, heads, kv_heads, 24)
    config = Nanochat2025Config(*sizes) if older else NanochatConfig(*sizes, pattern)
    model = type(random_model(config))(config, mx.bfloat16 if half else mx.float32)
    model.initialize(mx.random.key(vocabulary))
    folder = tmp_path_factory.mktemp("saved")
    save_model(model, folder)
    loaded = load_model(folder)
    assert type(loaded) is type(model)
    assert loaded.config == config
    assert_equal(loaded, model)


def test_config_json_holds_all_sizes(folder):
    assert json.loads((folder / "config.json").read_text()) == {
        "architectures": ["Nanochat"],
        "model_type": "nanochat",
        "sequence_len": 32,
        "vocab_size": 70,
        "n_layer": 3,
        "n_head": 2,
        "n_kv_head": 1,
        "n_embd": 24,
        "window_pattern": "SL",
        "dtype": "float32",
    }


def test_tensors_have_the_names_that_nanochat_gives_them(tmp_path):
    checkpoint = FIXTURES / "nanochat"
    sizes = json.loads((checkpoint / "meta_000010.json").read_text())["model_config"]
    save_model(random_model(NanochatConfig(**sizes)), tmp_path)
    saved = mx.load(str(tmp_path / "model.safetensors"))
    theirs = read_torch_file(checkpoint / "model_000010.pt")
    assert {name: array.shape for name, array in saved.items()} == {
        name: array.shape for name, array in theirs.items()
    }


def test_a_model_trained_in_bfloat16_keeps_its_types(tmp_path):
    model = Nanochat(CONFIG, mx.bfloat16).initialize(mx.random.key(0))
    save_model(model, tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["dtype"] == "float32"
    loaded = load_model(tmp_path)
    assert_equal(loaded, model)
    assert loaded.hidden_states(IDS).dtype == mx.float32


def test_casting_the_weights_changes_nothing_of_what_a_bfloat16_model_computes(folder):
    halves, masters = (
        load_model(folder, mx.bfloat16),
        load_model(folder, mx.bfloat16, training=True),
    )
    assert {array.dtype for array in named_parameters(halves).values()} == {mx.bfloat16}
    assert halves.hidden_states(IDS).dtype == masters.hidden_states(IDS).dtype == mx.bfloat16
    assert mx.array_equal(halves(IDS), masters(IDS))
    assert not mx.array_equal(halves(IDS), load_model(folder)(IDS))


def test_for_training_all_but_embeddings_are_float32(tmp_path, folder):
    save_model(load_model(folder, mx.bfloat16), tmp_path / "halves")
    trainable = named_parameters(load_model(tmp_path / "halves", mx.bfloat16, training=True))
    halves = {name for name, array in trainable.items() if array.dtype == mx.bfloat16}
    tables = ["transformer.wte.weight", "value_embeds.0.weight", "value_embeds.1.weight"]
    assert halves == set(tables)
    assert {trainable[name].dtype for name in trainable if name not in halves} == {mx.float32}
    single = named_parameters(load_model(tmp_path / "halves", mx.float32, training=True))
    assert {array.dtype for array in single.values()} == {mx.float32}


def test_a_folder_of_bfloat16_weights_computes_in_bfloat16(tmp_path, folder):
    save_model(load_model(folder, mx.bfloat16), tmp_path / "halves")
    assert json.loads((tmp_path / "halves/config.json").read_text())["dtype"] == "bfloat16"
    assert load_model(tmp_path / "halves").hidden_states(IDS).dtype == mx.bfloat16


def test_weights_in_several_files_are_read_through_their_index(tmp_path, folder):
    split(folder)
    assert_equal(load_model(folder), random_model())


def split(folder: Path) -> None:
    tensors = mx.load(str(folder / "model.safetensors"))
    files = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    places = {name: files[i % 2] for i, name in enumerate(sorted(tensors))}
    for file in files:
        part = {name: array for name, array in tensors.items() if places[name] == file}
        mx.save_safetensors(str(folder / file), part)
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))


def test_saving_over_another_model_leaves_nothing_of_it(folder):
    split(folder)
    for path in folder.glob("model-*"):
        path.unlink()
    other = random_model(NanochatConfig(32, 70, 2, 2, 2, 24, "L"))
    (folder / "tokenizer.json").write_text("{}")
    save_model(other, folder)
    assert_equal(load_model(folder), other)
    names = {path.name for path in folder.iterdir()}
    assert names == {"config.json", "model.safetensors", "tokenizer.json"}


def test_a_save_that_fails_midway_leaves_no_config_of_another_model(folder):
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors/in-the-way").mkdir(parents=True)
    other = random_model(NanochatConfig(32, 70, 3, 2, 1, 24, "L"))
    with pytest.raises(OSError, match=re.escape("model.safetensors")):
        save_model(other, folder)
    assert {path.name for path in folder.iterdir()} == {"model.safetensors"}


def test_a_loaded_model_needs_its_folder_no_more(folder):
    model = load_model(folder)
    shutil.rmtree(folder)
    assert_equal(model, random_model())


def test_a_run_folder_has_its_model_in_model(tmp_path, folder):
    run = tmp_path / "run"
    shutil.copytree(folder, run / "model")
    assert find_model_folder(str(run)) == run / "model"
    assert find_model_folder(run / "model") == run / "model"
    assert_equal(load_model(run), random_model())


def test_a_path_without_a_model_is_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "absent", FileNotFoundError, "FOLDER: no such folder")
    message = (
        "FOLDER is neither a model folder (it has no config.json) nor a finished run "
        "(it has no model/config.json)"
    )
    refused(tmp_path / "empty", FileNotFoundError, message)


def test_missing_weights_are_never_made_up(folder):
    (folder / "model.safetensors").unlink()
    refused(folder, FileNotFoundError, "FOLDER has no model.safetensors")


def test_an_index_that_names_absent_files_is_refused(folder):
    split(folder)
    (folder / "model-00002-of-00002.safetensors").unlink()
    refused(
        folder,
        FileNotFoundError,
        "FOLDER has no model-00002-of-00002.safetensors, 1 of the 2 files that "
        "model.safetensors.index.json names; download the model again",
    )
    (folder / "model.safetensors.index.json").write_text("{}")
    message = "FOLDER/model.safetensors.index.json: weight_map must name the file of each tensor"
    refused(folder, ValueError, message)


def test_every_tensor_that_does_not_fit_is_named_at_once(folder):
    def damage(tensors: dict) -> dict:
        tensors["lm_heads.weight"] = tensors.pop("lm_head.weight")
        tensors["bias"] = mx.zeros(3)
        tensors["x0_lambdas"] = mx.zeros(4)
        tensors["smear_lambda"] = mx.zeros(1, mx.uint32)
        del tensors["value_embeds.2.weight"]
        return tensors

    rewrite(folder, damage)
    message = (
        "FOLDER: the tensors do not match the config; "
        "missing: lm_head.weight, value_embeds.2.weight; "
        "unexpected: bias, lm_heads.weight (did you mean lm_head.weight?); "
        "misshapen: smear_lambda is (1,) uint32, not (1,), x0_lambdas is (4,), not (3,)"
    )
    refused(folder, ValueError, message)


def test_a_long_list_is_cut(folder):
    rewrite(folder, lambda tensors: {"lm_head.weight": tensors["lm_head.weight"]})
    with pytest.raises(ValueError, match=r"missing: (\S+, ){7}\S+ and \d+ more$"):
        load_model(folder)


def test_a_value_embedding_of_a_layer_without_one_is_refused(folder):
    def move(tensors: dict) -> dict:
        tensors["value_embeds.1.weight"] = tensors.pop("value_embeds.2.weight")
        return tensors

    rewrite(folder, move)
    message = (
        "FOLDER: the tensors do not match the config; missing: value_embeds.2.weight; "
        "unexpected: value_embeds.1.weight (did you mean value_embeds.2.weight?)"
    )
    refused(folder, ValueError, message)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "{",
            " is not JSON: Expecting property name enclosed in double quotes: "
            "line 1 column 2 (char 1)",
        ),
        ("[]", " must contain a JSON object, got a list"),
        (
            "{}",
            ": model_type None is not supported here, only nanochat, "
            "gpt2, llama, mistral, qwen2, qwen3, smollm3; mlx_lm loads many others",
        ),
        (
            '{"model_type": "nanochat", "n_layers": 3}',
            ": n_layers: unknown key; did you mean 'n_layer'?",
        ),
    ],
)
def test_a_config_that_makes_no_model_is_refused(folder, text, message):
    (folder / "config.json").write_text(text)
    refused(folder, ValueError, f"FOLDER/config.json{message}")


@pytest.mark.parametrize(
    ("value", "problem"),
    [(2.5, "n_layer: must be a whole number, got 2.5"), (0, "n_layer: must be at least 1, got 0")],
)
def test_an_impossible_size_is_refused(folder, value, problem):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"n_layer": value}))
    refused(folder, ValueError, f"FOLDER/config.json: {problem}")


def test_every_size_must_be_in_the_config(folder):
    path = folder / "config.json"
    config = json.loads(path.read_text())
    del config["window_pattern"], config["n_kv_head"]
    path.write_text(json.dumps(config))
    message = "FOLDER/config.json: required, but not given: n_kv_head, window_pattern"
    refused(folder, ValueError, message)


def test_weights_that_were_cut_off_are_refused(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match=f"^{re.escape(str(path))} cannot be read: "):
        load_model(folder)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_flipped_bit_in_a_finished_model_is_found(name, tiny_model, tmp_path):
    save_model(tiny_model, tmp_path)
    save_manifest(tmp_path)
    load_model(tmp_path)
    damaged = bytearray((tmp_path / name).read_bytes())
    damaged[-2] ^= 1
    (tmp_path / name).write_bytes(damaged)
    with pytest.raises(ChangedFileError, match=f"{tmp_path / name} is damaged or was changed"):
        load_model(tmp_path)
    save_model(tiny_model, tmp_path)  # what replaces it has no manifest of the old one
    load_model(tmp_path)
