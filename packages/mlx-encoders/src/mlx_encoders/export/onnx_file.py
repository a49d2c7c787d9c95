"""Write a model as an ONNX file that onnxruntime has computed as MLX does."""

import json
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mlx_encoders._atomic import write_atomic
from mlx_encoders.bert import BertConfig
from mlx_encoders.export._onnx_graph import OPSETS, OnnxOperations
from mlx_encoders.export.encoders import GraphInputs, rearrange
from mlx_encoders.export.heads import (
    ExportHead,
    HeadOptions,
    Pooling,
    build_outputs,
    check_options,
    task_of,
)
from mlx_encoders.export.int8 import measure_int8, write_int8
from mlx_encoders.export.report import ExportReport, file_size
from mlx_encoders.export.verify import (
    Batch,
    accuracy,
    compare,
    mlx_outputs,
    onnx_runner,
    probe_batches,
    text_batches,
)
from mlx_encoders.export.weights import float_weights, with_weights
from mlx_encoders.tokenizer import Tokenizer

if TYPE_CHECKING:
    import onnx

_FILE_LIMIT = 1_900_000_000  # bytes; protobuf ends at 2 GiB
_MLX_TEXTS = 8  # MLX without mlx-fastcpu is slow on a CPU


def export_onnx(
    model: Any,
    output: str | Path,
    *,
    tokenizer: Tokenizer | None = None,
    adapter: str | Path | None = None,
    opset: int = 17,
    pooling: Pooling | None = None,
    normalize: bool = False,
    probabilities: bool = False,
    temperature: float | None = None,
    head: ExportHead | None = None,
    int8: bool = False,
    texts: Sequence[str] = (),
    labels: Sequence[int] | None = None,
    external_data: bool | None = None,
) -> ExportReport:
    """Write `model` as ONNX, and compare onnxruntime's outputs with those of MLX.

    `output` is a file `*.onnx`, or a folder, which also gets `config.json` and the tokenizer.
    Inputs are `input_ids`, `attention_mask` and, of BERT, `token_type_ids`: (batch, length) int64.
    Outputs have transformers' names: `last_hidden_state` and `pooler_output`, `logits`, or
    `start_logits` and `end_logits`. With `pooling` an encoder returns `sentence_embedding`
    (batch, hidden_size), of length 1 if `normalize`. `temperature` divides the logits of a
    classifier, and `probabilities` turns them into probabilities. `head` is a network on the hidden
    states of an encoder, with its own output and inputs. Weights are float32; quantized ones are
    restored.

    `adapter` is a folder with a LoRA adapter saved by PEFT, which is merged. `int8` also writes a
    file `*_int8.onnx` with 8-bit weights. `external_data` puts the weights into a second file; None
    does so where one file would be beyond 2 GB.

    The first 8 `texts` are compared with MLX, besides random ids. On all of them the 8-bit file is
    measured and, with `labels`, the accuracy of a sequence classifier.

    Raises `ValueError` where an output differs by more than 1e-4, or 1e-4 of its size, and then
    leaves no file; `ImportError` without onnx and onnxruntime.
    """
    _import_onnx()
    options = HeadOptions(pooling, normalize, probabilities, temperature, head)
    check_options(model, options)
    if opset not in OPSETS:
        raise ValueError(f"opset must be one of {OPSETS}, got {opset}")
    if texts and tokenizer is None:
        raise ValueError("texts need a tokenizer")
    if texts and head is not None and head.dense:
        raise ValueError("texts are no inputs of a head that also reads dense ones; leave them out")
    if labels is not None:
        _check_labels(model, texts, labels)
    weights = float_weights(model, adapter)
    reference = with_weights(model, weights)
    if external_data is None:
        external_data = sum(array.nbytes for array in weights.values()) > _FILE_LIMIT
    path = Path(output)
    folder, name = (path.parent, path.name) if path.suffix == ".onnx" else (path, "model.onnx")
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".export-", dir=folder) as temporary:
        file = Path(temporary) / name
        data = file.with_name(f"{name}.data") if external_data else None
        _save(build_onnx(reference, weights, options, opset, data), file)
        del weights
        report = _verify(file, reference, options, tokenizer, texts, labels)
        if int8:
            small = file.with_name(f"{file.stem}_int8.onnx")
            write_int8(file, small, external_data)
            batches, outputs = _inputs(model, options, tokenizer, texts), onnx_runner(file)
            expected = [outputs(batch) for batch in batches]
            measured = measure_int8(small, batches, expected, labels)
            report = replace(report, int8=replace(measured, path=folder / small.name))
        for written in sorted(Path(temporary).iterdir(), reverse=True):
            written.chmod(file.stat().st_mode)  # onnx makes data readable by its owner only
            written.replace(folder / written.name)  # data before the model that reads it
    if path.suffix != ".onnx":
        _write_config(folder, model, tokenizer)
    return replace(report, path=folder / name)


def build_onnx(
    model: Any,
    weights: dict[str, np.ndarray],
    options: HeadOptions,
    opset: int,
    data: Path | None = None,
) -> "onnx.ModelProto":
    """Return the network of `model` with these weights, unchecked; large ones go to `data`."""
    from onnx import helper

    weights, head = dict(weights), options.head
    rearrange(model.config, model.base_prefix, weights)
    ops = OnnxOperations(weights | dict(head.weights if head else {}), opset)
    types = "token_type_ids" if isinstance(model.config, BertConfig) else None
    dense = dict(head.dense) if head else {}
    inputs = GraphInputs("input_ids", "attention_mask", types, {name: name for name in dense})
    outputs = build_outputs(ops, model, options, inputs)
    shapes = {name: ["batch", width] for name, width in dense.items()}
    shapes |= {head.output: ["batch", head.width]} if head else _output_shapes(model, outputs)
    graph = ops.model(type(model).__name__, inputs, outputs, shapes, data)
    notes = {key: value for key, value in vars(options).items() if value and key != "head"}
    if (names := model.config.id2label) and "logits" in outputs:
        notes["id2label"] = {str(key): label for key, label in names.items()}
    helper.set_model_props(graph, {key: json.dumps(value) for key, value in notes.items()})
    return graph


def _verify(
    file: Path,
    model: Any,
    options: HeadOptions,
    tokenizer: Tokenizer | None,
    texts: Sequence[str],
    labels: Sequence[int] | None,
) -> ExportReport:
    run = onnx_runner(file)
    batches = _inputs(model, options, None, ())
    if texts:
        batches += _inputs(model, options, tokenizer, texts[:_MLX_TEXTS])
    expected = (mlx_outputs(model, options, batch) for batch in batches)
    difference, problem = compare(expected, map(run, batches))
    if problem:
        raise ValueError(
            f"onnxruntime does not compute what MLX does, nothing was written: {problem}"
        )
    right = None
    if labels is not None:
        right = accuracy(map(run, _inputs(model, options, tokenizer, texts)), labels)
    return ExportReport(file, file_size(file), difference, right)


def _inputs(
    model: Any, options: HeadOptions, tokenizer: Tokenizer | None, texts: Sequence[str]
) -> list[Batch]:
    """Return the batches of the texts, or random inputs without texts."""
    if not texts:
        return probe_batches(model.config, options.head.dense if options.head else None)
    assert tokenizer is not None
    return text_batches(model.config, tokenizer, texts)


def _import_onnx() -> None:
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
    except ImportError as error:
        raise ImportError(
            f"{error.name} is not installed; install mlx-encoders[onnx] to write ONNX files"
        ) from error


def _check_labels(model: Any, texts: Sequence[str], labels: Sequence[int]) -> None:
    if task_of(model) != "SequenceClassification":
        raise ValueError(
            f"labels are for a sequence classifier, but the model is a {type(model).__name__}"
        )
    if len(labels) != len(texts):
        raise ValueError(f"got {len(labels)} labels for {len(texts)} texts")


def _output_shapes(model: Any, outputs: dict[str, str]) -> dict[str, list]:
    config, task = model.config, task_of(model)
    width = config.vocab_size if task == "MaskedLM" else config.num_labels
    width = 2 if task == "NextSentencePrediction" else width
    by_token = task in ("MaskedLM", "TokenClassification")
    shapes = {
        "last_hidden_state": ["batch", "length", config.hidden_size],
        "pooler_output": ["batch", config.hidden_size],
        "sentence_embedding": ["batch", config.hidden_size],
        "start_logits": ["batch", "length"],
        "end_logits": ["batch", "length"],
        "logits": ["batch", "length", width] if by_token else ["batch", width],
    }
    return {name: shapes[name] for name in outputs}


def _save(graph: "onnx.ModelProto", file: Path) -> None:
    import onnx

    onnx.save_model(graph, str(file))
    onnx.checker.check_model(str(file))


def _write_config(folder: Path, model: Any, tokenizer: Tokenizer | None) -> None:
    values = model.config.to_dict(model.architecture or type(model).__name__)
    text = json.dumps(values, indent=2, sort_keys=True) + "\n"
    write_atomic(folder / "config.json", lambda path: path.write_text(text, encoding="utf-8"))
    if tokenizer is not None:
        tokenizer.save(folder)
