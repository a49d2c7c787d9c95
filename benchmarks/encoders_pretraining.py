"""Masked-language-model training on prose: loss on documents held out, before and after.

    uv run --no-sync python benchmarks/encoders_pretraining.py PROSE [--encoder FOLDER] [--write]

PROSE is a folder of parquet files with a column `text`, of which the last is held out. A tiny BERT
and a tiny ModernBERT start from random weights, with a tokenizer trained on the same text. FOLDER
is a pretrained BERT to adapt. `--write` replaces docs/benchmarks/encoders-pretraining.md.
"""

import argparse
import math
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import mlx_fastcpu
from mlx_encoders import (
    BertConfig,
    ModernBertConfig,
    Tokenizer,
    build_model,
    load_config,
    load_model,
    train_tokenizer,
)
from mlx_encoders.pretraining import MaskedLM, masked_lm_class, pretrain
from mlx_encoders.pretraining_settings import PretrainingSettings
from mlx_encoders.text_files import read_texts

_RESULTS = Path(__file__).parents[1] / "docs/benchmarks/encoders-pretraining.md"
_SIZES = {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2}
_VOCAB_SIZE = 2048
_DOCUMENTS = 1000


def main() -> None:
    """Train the models, and print one line of a table for each."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("prose", type=Path)
    parser.add_argument("--encoder", type=Path)
    parser.add_argument("--steps", type=int, default=600, help="of a model from random weights")
    parser.add_argument("--adapt-steps", type=int, default=120, help="of the pretrained encoder")
    parser.add_argument("--length", type=int, default=64, help="tokens a row")
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    mlx_fastcpu.activate()
    *training, held_out = sorted(arguments.prose.glob("*.parquet"))
    lines = [
        "| model | masking | rows of tokens a step | steps | tokens seen | loss before | after "
        "| of token frequencies | seconds |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, model, tokenizer, settings in _runs(arguments, training):
        mlx_fastcpu.patch_nn(model.encoder_model)
        start = time.perf_counter()
        report = pretrain(
            model,
            tokenizer,
            islice(read_texts(training), _DOCUMENTS),
            settings,
            held_out_texts=islice(read_texts([held_out]), 40),
            report=_print_step,
        )
        seconds = time.perf_counter() - start
        tokens = report.steps * settings.batch_size * settings.length
        probability = _probability(model)
        lines.append(
            f"| {name} | {probability:.0%} | {settings.batch_size} of {settings.length} "
            f"| {report.steps} | {tokens:,} | {report.loss_before:.3f} "
            f"| {report.loss_after:.3f} | {report.unigram_loss:.3f} | {seconds:.0f} |"
        )
        print(lines[-1], flush=True)
        assert math.isfinite(report.loss_after)
    print("\n".join(lines))
    if arguments.write:
        _RESULTS.write_text(_document(lines))


def _runs(
    arguments: argparse.Namespace, training: list[Path]
) -> Iterator[tuple[str, MaskedLM, Tokenizer, PretrainingSettings]]:
    tokenizer = train_tokenizer(islice(read_texts(training), _DOCUMENTS), vocab_size=_VOCAB_SIZE)
    fresh = PretrainingSettings(length=arguments.length, steps=arguments.steps, learning_rate=2e-3)
    size = tokenizer.vocab_size
    for name, config in (
        ("BERT, 2 layers of 128, fresh", BertConfig(
            vocab_size=size, intermediate_size=512, hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0, **_SIZES)),
        ("ModernBERT, 2 layers of 128, fresh", ModernBertConfig(
            vocab_size=size, intermediate_size=192, local_attention=32, pad_token_id=0, **_SIZES)),
    ):  # fmt: skip
        yield name, build_model(config, model_class=masked_lm_class(config)), tokenizer, fresh
    if arguments.encoder is not None:
        model_class = masked_lm_class(load_config(arguments.encoder))
        model, _ = load_model(
            arguments.encoder, new=("cls.",), dropout=0.0, attention_dropout=0.0,
            model_class=model_class,
        )  # fmt: skip
        settings = PretrainingSettings(
            length=arguments.length, steps=arguments.adapt_steps, learning_rate=5e-4
        )
        name = f"{arguments.encoder.name}, pretrained, new head"
        yield name, model, Tokenizer.from_folder(arguments.encoder), settings


def _probability(model: MaskedLM) -> float:
    from mlx_encoders.masking import masking_of

    return masking_of(model.config).probability


def _print_step(step) -> None:
    if step.step % 20 == 0:
        print(f"{step.step}/{step.steps}  loss {step.loss:.3f}", flush=True)


def _document(lines: list[str]) -> str:
    return (
        "# Pretraining on prose\n\n"
        "`benchmarks/encoders_pretraining.py` writes this page. Losses are nats a hidden token of "
        "40 documents held out, beside the loss of token frequencies, which know no context. "
        "Seconds are of 2 shared cores: no measure of speed.\n\n" + "\n".join(lines) + "\n"
    )


if __name__ == "__main__":
    main()
