"""Make the fixtures of mlx-encoders' sentence embeddings with sentence-transformers.

    python tools/make_fixtures_sentence.py

Writes packages/mlx-encoders/tests/fixtures/sentence: tiny BERT folders of random weights with three
kinds of pooling, and the embeddings of a few sentences. Made with sentence-transformers 6 and
transformers 5.23.
"""

import json
import shutil
import tempfile
from pathlib import Path

import numpy as np
import torch
import transformers
from sentence_transformers import SentenceTransformer, models

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


if __name__ == "__main__":
    main()
