"""Make the fixtures of mlx-encoders' sentence embeddings with sentence-transformers.

    python tools/make_fixtures_sentence.py

Writes packages/mlx-encoders/tests/fixtures/sentence: tiny BERT folders of random weights with three
kinds of pooling, and the embeddings of a few sentences; of each pooling with and without a prompt
that is not pooled, and the gradient of the word embeddings. Made with sentence-transformers 6 and
transformers 5.23. The round trips at the end write nothing: they raise when sentence-transformers
reads our folders differently.
"""

import json
import shutil
import tempfile
from pathlib import Path

import numpy as np
import torch
import transformers
from sentence_transformers import SentenceTransformer, models

from mlx_encoders import SentenceEncoder

OUT = Path(__file__).parents[1] / "packages/mlx-encoders/tests/fixtures/sentence"
SENTENCES = [
    "A woman.",
    "Forest fire near La Ronge!",
    "",
    "Residents are asked to shelter in place",
]
WORDS = (
    *("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"),
    *("a", "woman", "forest", "fire", "near", "la", "ronge", "residents", "are", "asked", "to"),
    *("shelter", "in", "place", ".", "!", "##s", "query", ":"),
)


def main() -> None:
    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir(parents=True)
    (OUT / "sentences.json").write_text(json.dumps(SENTENCES))
    with tempfile.TemporaryDirectory() as folder:
        make_encoder(Path(folder))
        for name, modes, normalize, dense in (
            ("mean", {"pooling_mode_mean_tokens": True}, True, False),
            (
                "cls",
                {"pooling_mode_mean_tokens": False, "pooling_mode_cls_token": True},
                False,
                False,
            ),
            ("max-mean", {"pooling_mode_max_tokens": True}, True, True),
        ):
            make_case(folder, name, modes, normalize, dense)
        np.savez(OUT / "poolings.npz", **poolings(folder))
        for name in ("mean", "cls", "max-mean"):
            check_round_trip(OUT / name)
        check_lowercase(folder)


def make_encoder(folder: Path) -> None:
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    transformers.BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
    torch.manual_seed(0)
    config = transformers.BertConfig(vocab_size=len(WORDS), hidden_size=16, num_hidden_layers=2,
                                     num_attention_heads=2, intermediate_size=24,
                                     max_position_embeddings=32)  # fmt: skip
    model = transformers.BertModel(config)
    for parameter in model.parameters():
        parameter.data = parameter.data + 0.2 * torch.randn(parameter.shape)
    model.save_pretrained(folder)


def make_case(folder: str, name: str, modes: dict, normalize: bool, dense: bool) -> None:
    transformer = models.Transformer(folder, max_seq_length=8)
    pooling = models.Pooling(16, **modes)
    modules = [transformer, pooling]
    if dense:
        torch.manual_seed(1)
        modules.append(models.Dense(pooling.get_sentence_embedding_dimension(), 6))
    if normalize:
        modules.append(models.Normalize())
    model = SentenceTransformer(modules=modules, device="cpu", prompts={"query": "query: "})
    model.save(str(OUT / name), create_model_card=False)
    found = {
        "plain": model.encode(SENTENCES),
        "query": model.encode(SENTENCES, prompt_name="query"),
    }
    np.savez(OUT / name / "expected.npz", **found)


def poolings(folder: str) -> dict[str, np.ndarray]:
    """Return embeddings by pooling, and the gradient of a weighted sum of the embeddings."""
    found = {}
    for mode in (*models.Pooling.POOLING_MODES, ("mean", "cls")):
        key = mode if isinstance(mode, str) else "+".join(mode)
        model = SentenceTransformer(
            modules=[
                models.Transformer(folder, max_seq_length=8),
                models.Pooling(16, pooling_mode=mode, include_prompt=False),
            ],
            device="cpu",
            prompts={"query": "query: "},
        )
        found[key] = model.encode(SENTENCES)
        found[f"{key} query"] = model.encode(SENTENCES, prompt_name="query")
    model = SentenceTransformer(str(OUT / "max-mean"), device="cpu").eval()
    embeddings = model(model.preprocess(SENTENCES))["sentence_embedding"]
    weights = torch.linspace(-1, 1, embeddings.numel()).reshape(embeddings.shape)
    (embeddings * weights).sum().backward()
    found["gradient"] = model[0].model.embeddings.word_embeddings.weight.grad.numpy()
    return found


def check_round_trip(folder: Path) -> None:
    """Raise unless sentence-transformers embeds equally from the folder that we save again."""
    expected = SentenceTransformer(str(folder), device="cpu").encode(SENTENCES)
    with tempfile.TemporaryDirectory() as saved:
        SentenceEncoder.from_pretrained(folder).save_pretrained(saved)
        found = SentenceTransformer(saved, device="cpu").encode(SENTENCES)
    np.testing.assert_array_equal(found, expected)


def check_lowercase(encoder: str) -> None:
    """The same for a folder that lowercases before a tokenizer that does not.

    Not in a fixture: sentence-transformers 6 itself loses `do_lower_case` when it saves.
    """
    folder = Path(encoder) / "cased"
    shutil.copytree(OUT / "mean", folder)
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"do_lower_case": False}))
    path = folder / "tokenizer.json"
    settings = json.loads(path.read_text())
    settings["normalizer"]["lowercase"] = False
    path.write_text(json.dumps(settings))
    (folder / "sentence_bert_config.json").write_text(json.dumps({"do_lower_case": True}))
    check_round_trip(folder)


if __name__ == "__main__":
    main()
