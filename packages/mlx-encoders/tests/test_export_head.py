"""A head of another package on an encoder, with a second input, in ONNX and Core ML."""

import re

import mlx.core as mx
import numpy as np
import pytest

from mlx_encoders import build_model, load_model
from mlx_encoders.export import ExportHead, export_coreml, export_onnx, pool
from mlx_encoders.tasks import TASK_CLASSES

# coremltools leaves a temporary folder of its own to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore:Implicitly cleaning up:ResourceWarning")

TOLERANCE = 1e-5
WIDTH = 16


def weighted(model, factor=1.0):
    """Return a head of all states and three numbers: softplus(mean W + features V), or not."""
    random = np.random.default_rng(0)
    W, V = (random.normal(size=(2, n)).astype(np.float32) for n in (WIDTH, 3))

    def build(ops, states, inputs):
        total = states[0]
        for each in states[1:]:
            total = ops.add(total, each)
        pooled = pool(ops, "mean", total, inputs.attention_mask)
        text = ops.linear(pooled, "own.text")
        return ops.activation("softplus", ops.add(text, ops.linear(inputs.dense["numbers"], "own")))

    def compute(model, batch):
        numbers, mask = batch["numbers"], batch["attention_mask"].astype(bool)
        tokens = {name: mx.array(batch[name]) for name in batch if name != "numbers"}
        total = np.sum([np.array(each) for each in model.hidden_states(**tokens)], axis=0)
        count = np.maximum(mask.sum(1, keepdims=True), 1)
        means = (total * mask[..., None]).sum(1) / count
        return np.logaddexp(0, means @ W.T + numbers @ V.T) * factor

    weights = {"own.text.weight": W, "own.weight": V}
    return ExportHead(build, compute, 2, weights, {"numbers": 3})


def test_the_head_reads_every_layer_and_a_second_input(tiny_config, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime", reason="needs mlx-encoders[onnx]")
    model = build_model(tiny_config)
    report = export_onnx(model, tmp_path / "a.onnx", head=weighted(model))
    assert report.max_difference < TOLERANCE
    session = onnxruntime.InferenceSession(str(report.path))
    shapes = {each.name: each.shape for each in session.get_inputs()}
    assert shapes.pop("numbers") == ["batch", 3]
    assert all(shape == ["batch", "length"] for shape in shapes.values())
    (output,) = session.get_outputs()
    assert (output.name, output.shape) == ("prediction", ["batch", 2])


def test_a_head_that_computes_something_else_leaves_no_file(tiny_config, tmp_path):
    pytest.importorskip("onnxruntime", reason="needs mlx-encoders[onnx]")
    model = build_model(tiny_config)
    with pytest.raises(ValueError, match="nothing was written: prediction"):
        export_onnx(model, tmp_path, head=weighted(model, 1.01))
    assert not list(tmp_path.iterdir())


def test_a_core_ml_program_has_the_second_input_too(tiny_config, tmp_path):
    ct = pytest.importorskip("coremltools", reason="needs mlx-encoders[coreml]")
    model = build_model(tiny_config)
    report = export_coreml(model, tmp_path, length=40, head=weighted(model))
    assert report.max_difference < TOLERANCE
    given = ct.utils.load_spec(str(report.path)).description.input
    assert [list(each.type.multiArrayType.shape) for each in given if each.name == "numbers"] == [
        [1, 3]
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pooling": "mean"}, "a head of your own is for an encoder, without other options"),
        ({"texts": ["a"], "tokenizer": object()}, "texts are no inputs of a head that also reads"),
    ],
)
def test_other_options_and_texts_are_refused(options, message, fixtures, tmp_path):
    pytest.importorskip("onnxruntime", reason="needs mlx-encoders[onnx]")
    model, _ = load_model(fixtures / "bert")
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        export_onnx(model, tmp_path, head=weighted(model), **options)


def test_a_task_model_has_its_own_head(tmp_path):
    pytest.importorskip("onnxruntime", reason="needs mlx-encoders[onnx]")
    chosen = TASK_CLASSES["BertForSequenceClassification"]
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = build_model(chosen.config_class(vocab_size=30, **sizes), model_class=chosen)
    with pytest.raises(ValueError, match="a head of your own is for an encoder"):
        export_onnx(model, tmp_path, head=weighted(model))
