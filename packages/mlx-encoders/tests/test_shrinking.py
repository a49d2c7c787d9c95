import json
from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from click.testing import CliRunner

from mlx_encoders import (
    BertForMaskedLM,
    BertForSequenceClassification,
    ModernBertForMaskedLM,
    NeoBertForMaskedLM,
    build_model,
    compare_tokens,
    keep_layers,
    load,
    load_model,
    measure_importance,
    prune_heads,
    prune_units,
    save,
    train_tokenizer,
    trim_vocabulary,
)
from mlx_encoders.build import named_parameters
from mlx_encoders.cli import cli

# Float32 sums in another order.
TOLERANCE = 1e-5
TEXTS = ["forest fire near La Ronge", "residents asked to shelter in place", "fire sank, 7.25 $"]


def difference(one, other):
    return np.abs(np.array(one - other)).max()


def zeroed(model, paths):
    """Return a copy of the model in which these parts of parameters, (path, axis, index), are 0."""
    weights = {path: np.array(array) for path, array in named_parameters(model).items()}
    for path, axis, index in paths:
        weights[path][(slice(None),) * axis + (index,)] = 0
    copy = build_model(model.config)
    copy.load_weights([(path, mx.array(array)) for path, array in weights.items()])
    return copy


def down_and_out(model):
    """Return the paths of the projections after units and after heads, by layer."""
    endings = {
        "bert": ("output.dense.weight", "attention.output.dense.weight"),
        "modernbert": ("mlp.Wo.weight", "attn.Wo.weight"),
        "neobert": ("ffn.w3.weight", ".wo.weight"),
    }
    down, out = endings[type(model).__name__.lower().removesuffix("model")]
    paths = list(named_parameters(model))
    outs = [path for path in paths if path.endswith(out)]
    return [path for path in paths if path.endswith(down) and path not in outs], outs


def test_keeping_all_layers_changes_nothing_and_some_removes_the_others(tiny_config, ids):
    model = build_model(tiny_config)
    depth = tiny_config.num_hidden_layers
    assert mx.array_equal(keep_layers(model, range(depth))(ids), model(ids))
    last = depth - 1
    smaller = keep_layers(model, [0, last])
    assert smaller.config.num_hidden_layers == 2
    # The hidden state after layer 0 is shared.
    assert difference(smaller.hidden_states(ids)[1], model.hidden_states(ids)[1]) < TOLERANCE
    if depth > 2:
        assert smaller.config.layer_types[1] == model.config.layer_types[last]


def test_pruned_units_equal_zeroed_units(tiny_config, ids):
    model = build_model(tiny_config)
    units = getattr(tiny_config, "inner_size", tiny_config.intermediate_size)
    rng = np.random.default_rng(0)
    importance = rng.random((tiny_config.num_hidden_layers, units))
    wanted = 8
    smaller = prune_units(model, wanted, importance)
    down, _ = down_and_out(model)
    removed = np.argsort(-importance, axis=1)[:, wanted:]
    reference = zeroed(model, [(path, 1, row) for path, row in zip(down, removed, strict=True)])
    assert difference(smaller(ids), reference(ids)) < TOLERANCE
    assert difference(smaller(ids), model(ids)) > 1e-4
    assert getattr(smaller.config, "inner_size", smaller.config.intermediate_size) == wanted


def test_pruned_heads_equal_zeroed_heads_and_survive_a_folder(tiny_config, ids, tmp_path):
    model = build_model(tiny_config)
    rng = np.random.default_rng(1)
    importance = rng.random((tiny_config.num_hidden_layers, 2))
    smaller = prune_heads(model, 1, importance)
    _, out = down_and_out(model)
    removed = importance.argmin(axis=1)
    parts = [
        (path, 1, slice(8 * head, 8 * head + 8)) for path, head in zip(out, removed, strict=True)
    ]
    assert difference(smaller(ids), zeroed(model, parts)(ids)) < TOLERANCE
    assert difference(smaller(ids), model(ids)) > 1e-4
    save(tmp_path, smaller)
    again, report = load_model(tmp_path)
    assert report.missing == report.unexpected == ()
    assert again.config.head_dim == 8
    assert mx.array_equal(again(ids), smaller(ids))
    full = json.loads(json.dumps(model.config.to_dict()))
    assert "head_dim" not in full  # of a whole model transformers sees no such key


def test_importance_is_the_change_of_the_loss(tiny_config, ids):
    model = build_model(tiny_config)
    batch = mx.array(ids)

    def loss(model, batch):
        return 100 * mx.square(model(batch)[:, :, 0]).sum()

    found = measure_importance(model, loss, [batch, batch])
    assert found.heads.shape == (tiny_config.num_hidden_layers, 2)
    units = getattr(tiny_config, "inner_size", tiny_config.intermediate_size)
    assert found.units.shape == (tiny_config.num_hidden_layers, units)
    down, out = down_and_out(model)
    weights = named_parameters(model)
    step = 5e-2
    for path, columns, expected in (
        (down[0], slice(3, 4), found.units[0, 3]),
        (out[1], slice(8, 16), found.heads[1, 1]),
    ):
        values = []
        for factor in (1 + step, 1 - step):
            changed = np.array(weights[path])
            changed[:, columns] *= factor
            model.load_weights([(path, mx.array(changed))], strict=False)
            values.append(float(loss(model, batch)))
        model.load_weights([(path, weights[path])], strict=False)
        slope = (values[0] - values[1]) / (2 * step)
        assert abs(2 * abs(slope) - expected) < 0.05 * expected + 1e-2


@pytest.mark.parametrize("kind", ["wordpiece", "bpe"])
@pytest.mark.parametrize("model_class", [None, "task"])
def test_a_trimmed_vocabulary_gives_its_texts_equal_states(tiny_config, kind, model_class):
    tokenizer = train_tokenizer([*TEXTS, "many other words " * 3, "unheard"], kind, 400)
    classes = {"Bert": BertForMaskedLM, "Mode": ModernBertForMaskedLM, "NeoB": NeoBertForMaskedLM}
    task = classes[type(tiny_config).__name__[:4]] if model_class else None
    values = tiny_config.to_dict() | {"vocab_size": tokenizer.vocab_size}
    model = build_model(type(tiny_config).from_dict(values), model_class=task)
    smaller, trimmed, report = trim_vocabulary(model, tokenizer, TEXTS)
    assert report.tokens_before == tokenizer.vocab_size > report.tokens_after == trimmed.vocab_size
    assert smaller.config.vocab_size == trimmed.vocab_size
    rows = report.tokens_before - report.tokens_after
    sizes = [sum(a.size for a in named_parameters(m).values()) for m in (model, smaller)]
    assert report.parameters_removed == sizes[0] - sizes[1] >= rows * 16
    before, after = tokenizer.encode(TEXTS), trimmed.encode(TEXTS)
    assert [len(row) for row in before] == [len(row) for row in after]
    assert [tokenizer.decode(row) for row in before] == [trimmed.decode(row) for row in after]
    old, new = model(**tokenizer.pad(before)), smaller(**trimmed.pad(after))
    if task is None:
        assert mx.array_equal(old, new)
    else:
        kept = [tokenizer.backend.token_to_id(trimmed.backend.id_to_token(i))
                for i in range(trimmed.vocab_size)]  # fmt: skip
        assert mx.allclose(old[..., mx.array(kept)], new, atol=1e-6)
    assert trimmed.pad_token_id == smaller.config.pad_token_id or tiny_config.pad_token_id != 0
    # Words that did not occur are spelled by smaller pieces, not lost.
    unknown = trimmed.special_id("unk_token")
    assert unknown not in trimmed.encode(["refire pans"])[0]


def test_a_trimmed_tokenizer_survives_a_folder(tmp_path, tiny_config):
    tokenizer = train_tokenizer(TEXTS, kind="wordpiece", vocab_size=300)
    values = tiny_config.to_dict() | {"vocab_size": tokenizer.vocab_size}
    model = build_model(type(tiny_config).from_dict(values))
    smaller, trimmed, _ = trim_vocabulary(model, tokenizer, TEXTS[:1])
    save(tmp_path, smaller, trimmed)
    again, tokenizer = load(tmp_path)
    assert tokenizer.encode(TEXTS) == trimmed.encode(TEXTS)
    batch = tokenizer.pad(tokenizer.encode(TEXTS))
    assert mx.array_equal(again(**batch), smaller(**batch))


def test_task_models_keep_their_heads(tiny_config, ids):
    if not hasattr(tiny_config, "type_vocab_size"):
        pytest.skip("one family is enough")
    model = build_model(tiny_config, model_class=BertForSequenceClassification)
    smaller = keep_layers(model, [1])
    assert mx.array_equal(smaller.classifier.weight, model.classifier.weight)
    assert prune_units(smaller, 4)(ids).shape == (3, 2)


def test_wrong_sizes_are_refused(tiny_config):
    model = build_model(tiny_config)
    with pytest.raises(ValueError, match="layers must be from 0 to"):
        keep_layers(model, [0, 9])
    with pytest.raises(ValueError, match="layers must increase"):
        keep_layers(model, [1, 0])
    with pytest.raises(ValueError, match="keep from 1 to 2, got 3"):
        prune_heads(model, 3)
    with pytest.raises(ValueError, match=r"importance must be \(layers, parts\)"):
        prune_heads(model, 1, np.ones((1, 2)))
    with pytest.raises(ValueError, match="needs at least one batch"):
        measure_importance(model, lambda model, batch: mx.array(0.0), [])
    tokenizer = train_tokenizer(TEXTS, vocab_size=300)
    with pytest.raises(ValueError, match="but the model has embeddings for 30; use the tokenizer"):
        trim_vocabulary(model, tokenizer, TEXTS)
    model = build_model(replace(tiny_config, vocab_size=300))
    with pytest.raises(ValueError, match="needs texts, got none"):
        trim_vocabulary(model, tokenizer, [])
    with pytest.raises(TypeError, match="an iterable of strings, got one string"):
        trim_vocabulary(model, tokenizer, "text")
    with pytest.raises(ValueError, match="pad_token_id=290, which is no token of the tokenizer"):
        trim_vocabulary(build_model(replace(model.config, pad_token_id=290)), tokenizer, TEXTS)
    with pytest.raises(ValueError, match="compare_tokens needs texts, got none"):
        compare_tokens(tokenizer, tokenizer, [])
    if hasattr(tiny_config, "inner_size"):
        with pytest.raises(ValueError, match="multiple of 8, got 12"):
            prune_units(model, 12)
    if hasattr(tiny_config, "layer_types"):
        with pytest.raises(ValueError, match="must stay the first"):
            keep_layers(model, [1, 2])


def test_the_command_writes_a_smaller_folder(tmp_path, tiny_config):
    tokenizer = train_tokenizer(TEXTS, kind="wordpiece", vocab_size=300)
    values = tiny_config.to_dict() | {"vocab_size": tokenizer.vocab_size}
    source, output = tmp_path / "source", tmp_path / "small"
    save(source, build_model(type(tiny_config).from_dict(values)), tokenizer)
    texts = Path(tmp_path, "texts.txt")
    texts.write_text("\n".join(TEXTS[:1]))
    options = ["--model", str(source), "--output", str(output)]
    run = CliRunner().invoke(
        cli, ["shrink", *options, "--layers", "0", "--units", "8", "--vocabulary-from", str(texts)]
    )
    assert run.exit_code == 0, run.output
    assert run.stdout.startswith("parameters ")
    assert "units      8\n" in run.stdout
    small, _ = load(output)
    assert small.config.num_hidden_layers == 1
    again = CliRunner().invoke(cli, ["shrink", *options, "--layers", "0"])
    assert again.exit_code == 2
    assert "is not empty" in again.output
    for arguments, message in (
        (["--layers", "a"], "--layers must be numbers"),
        ([], "nothing to remove"),
    ):
        wrong = CliRunner().invoke(cli, ["shrink", *options, *arguments, "--overwrite"])
        assert wrong.exit_code == 2
        assert message in wrong.output
    wrong = CliRunner().invoke(cli, ["shrink", *options, "--layers", "7", "--overwrite"])
    assert wrong.exit_code == 1
    assert "layers must be from 0 to" in wrong.output
