"""What the name of a parameter, and its number of axes, say where the structure says nothing."""

import re

import mlx.core as mx

EMBEDDINGS = {"embed", "embeds", "embedding", "embeddings", "emb", "embs", "wte", "wpe"}
# Words that say so only at the end of a name: `cls_token`, not `token_mixing`.
TABLES = {"pos", "position", "positions", "positional", "token", "tokens"}
# Tables whose rows are no vocabulary: positions, distances, segments, patches of an image.
NO_VOCABULARY = {"pos", "position", "positions", "positional", "wpe", "relative", "bias"}
NO_VOCABULARY |= {"type", "segment", "patch"}
HEADS = {"head", "classifier", "score", "qa_outputs", "to_logits", "unembed", "decoder"}
# Names that have another meaning below the root: GPT-J has a `fc_out` in each block.
HEADS_OF_THE_ROOT = (HEADS - {"decoder"}) | {
    "output", "output_layer", "logits", "generator", "fc_out"
}  # fmt: skip
NORMS_AND_BIASES = {"bias", "norm", "layernorm", "rmsnorm", "ln", "log"}


def kind_by_name(path: str, array: mx.array) -> tuple[str, str]:
    """Return "embedding", "head", "norm or bias" or "matrix", and why."""
    parts = path.lower().split(".")
    module, name = parts[-2] if len(parts) > 1 else "", parts[-1]
    if array.ndim < 2 or not array.size:
        return "norm or bias", "no entries" if array.ndim >= 2 else "fewer than two axes"
    if {*_words(module), *_words(name)} & NORMS_AND_BIASES:
        return "norm or bias", "named like one"
    # Stacks of matrices are inside of a model, whatever they are called (MLA has an `embed_q`).
    if (array.ndim != 3 or 1 in array.shape) and _names_embedding(parts):
        return "embedding", "named like one"
    # The first part is that of a head of several layers, or the "output" of Llama's checkpoints;
    # BERT has layers of that name inside.
    is_head = module in HEADS or parts[0] in HEADS_OF_THE_ROOT
    if is_head or any(each.endswith("_head") for each in (module, parts[0])):
        return "head", "named like one"
    return "matrix", "a matrix inside the model"


def is_table(path: str) -> bool:
    """Say whether the module itself, not one around it, is named like an embedding."""
    return _names_embedding(path.lower().split(".")[-2:])


def is_other_table(path: str) -> bool:
    """Say whether the rows of an embedding are, by its name, no vocabulary."""
    return not NO_VOCABULARY.isdisjoint(_words(*path.lower().split(".")[-2:]))


def _names_embedding(parts: list[str]) -> bool:
    if EMBEDDINGS & set(_words(*parts)):
        return True
    last = [words[-1] for part in parts[-2:] if (words := _words(part))]
    is_encoding = any(re.match(r"pos(ition(al)?)?_?enc", part) for part in parts[-2:])
    return is_encoding or bool(TABLES & set(last))


def _words(*parts: str) -> list[str]:
    return [word for part in parts for word in re.split(r"_|\d+", part) if word]
