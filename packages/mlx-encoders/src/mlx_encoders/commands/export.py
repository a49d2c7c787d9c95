"""`mlx-encoders export`: write a model as ONNX or Core ML, compared with MLX."""

from pathlib import Path
from typing import Any

import click


@click.command("export")
@click.option("--model", "name", required=True, help="Folder or hub id.")
@click.option("--output", required=True, type=click.Path(path_type=Path), help="Folder to write.")
@click.option("--format", "kind", type=click.Choice(["onnx", "coreml"]), default="onnx")
@click.option("--adapter", type=click.Path(exists=True, file_okay=False, path_type=Path),
              help="Folder with a LoRA adapter saved by PEFT, to merge.")  # fmt: skip
@click.option("--pooling", type=click.Choice(["cls", "mean", "max", "last"]),
              help="Export one embedding for each text, not the task head.")  # fmt: skip
@click.option("--normalize", is_flag=True, help="Scale embeddings to length 1.")
@click.option("--probabilities", is_flag=True, help="Probabilities instead of logits.")
@click.option("--temperature", type=click.FloatRange(0, min_open=True),
              help="Divide the logits by this.")  # fmt: skip
@click.option("--opset", type=click.IntRange(17, 20), default=17, help="ONNX operators.")
@click.option("--int8", is_flag=True, help="Also write ONNX with 8-bit weights.")
@click.option("--check", type=click.Path(exists=True, dir_okay=False, path_type=Path),
              help="CSV file with texts to compare on.")  # fmt: skip
@click.option("--text-column", default="text", help="Column of --check.")
@click.option("--label-column", help="Column of --check: ids or names of classes.")
@click.option("--length", type=click.IntRange(1), default=512,
              help="Longest sequence of a Core ML package.")  # fmt: skip
@click.option("--precision", type=click.Choice(["float32", "float16"]), default="float32",
              help="Of a Core ML package.")  # fmt: skip
@click.option("--overwrite", is_flag=True, help="Replace files in the output folder.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(
    name: str, output: Path, kind: str, overwrite: bool, as_json: bool, **options: Any
) -> None:
    """Write a model as ONNX or Core ML, with its head and a LoRA adapter merged.

    onnxruntime computes the ONNX file, and the command fails if it differs from MLX by more than
    1e-4. Core ML runs only on macOS: its program is evaluated by coremltools instead.
    """
    from mlx_encoders.cli import check_output

    if kind == "coreml":
        _refuse(options, "ONNX", "int8", "check", "label_column")
    check_output(output, overwrite)
    results = _onnx(name, output, options) if kind == "onnx" else _coreml(name, output, options)
    if as_json:
        import json

        click.echo(json.dumps(results))
        return
    for key, value in results.items():
        click.echo(f"{key.replace('_', ' ')}: {value}")


def _onnx(name: str, output: Path, options: dict[str, Any]) -> dict[str, Any]:
    from mlx_encoders.export import export_onnx
    from mlx_encoders.export.loading import load_for_export, read_texts
    from mlx_encoders.export.verify import measure_latency, sample_batch
    from mlx_encoders.files import find_folder
    from mlx_encoders.tokenizer import Tokenizer

    model = load_for_export(name, options["adapter"], options["pooling"] is not None)
    texts, labels = [], None
    if options["check"] is None:
        _refuse(options, "--check", "label_column")
    else:
        columns = options["text_column"], options["label_column"]
        texts, labels = read_texts(options["check"], *columns, model.config)
    report = export_onnx(
        model,
        output,
        tokenizer=Tokenizer.from_folder(find_folder(name)),
        texts=texts,
        labels=labels,
        **{key: options[key] for key in ("adapter", "opset", "int8", *_HEAD)},
    )
    batch = sample_batch(model.config)
    results = {
        "model": type(model).__name__,
        "file": str(report.path),
        "megabytes": round(report.size / 1e6, 3),
        "max_difference": report.max_difference,
        "accuracy": report.accuracy,
        "milliseconds_for_64_tokens": round(1e3 * measure_latency(report.path, batch), 2),
    }
    if report.int8 is not None:
        results |= {
            "int8_file": str(report.int8.path),
            "int8_megabytes": round(report.int8.size / 1e6, 3),
            "int8_max_difference": report.int8.max_difference,
            "int8_cosine": report.int8.cosine,
            "int8_accuracy": report.int8.accuracy,
            "int8_milliseconds_for_64_tokens": round(
                1e3 * measure_latency(report.int8.path, batch), 2
            ),
        }
    return {key: value for key, value in results.items() if value is not None}


def _coreml(name: str, output: Path, options: dict[str, Any]) -> dict[str, Any]:
    from mlx_encoders.export import export_coreml
    from mlx_encoders.export.loading import load_for_export

    model = load_for_export(name, options["adapter"], options["pooling"] is not None)
    keys = ("adapter", "length", "precision", *_HEAD)
    report = export_coreml(model, output, **{key: options[key] for key in keys})
    return {
        "model": type(model).__name__,
        "file": str(report.path),
        "megabytes": round(report.size / 1e6, 3),
        "max_difference": report.max_difference,
        "checked": "by coremltools' constant evaluation; Core ML has not run it",
    }


_HEAD = ("pooling", "normalize", "probabilities", "temperature")


def _refuse(options: dict[str, Any], needed: str, *names: str) -> None:
    for each in names:
        if options[each]:
            raise click.UsageError(f"--{each.replace('_', '-')} needs {needed}")
