"""Cosine similarity of embeddings, and the nearest neighbours by it."""

import numpy as np

_QUERIES, _CORPUS = 512, 16384  # rows of a block: 32 MB of float32 scores


def cosine_similarity(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the float32 similarities (n, m) of vectors (n, D) and (m, D).

    That of a zero vector is 0. Raises `ValueError` for other shapes and for values that are not
    finite.
    """
    first, second = _unit(a, "a"), _unit(b, "b")
    _check_sizes(first, second, "a", "b")
    return first @ second.T


def search(queries: np.ndarray, corpus: np.ndarray, top_k: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows of `corpus` most similar to each query, best first, and their similarities.

    Indices int64 and scores float32 are (n, top_k); of equal scores the lower index comes first.
    Computed in blocks: memory does not grow with n times m. Raises `ValueError` if the corpus has
    less than `top_k` rows.
    """
    found, known = _unit(queries, "queries"), _unit(corpus, "corpus")
    _check_sizes(found, known, "queries", "corpus")
    if not 1 <= top_k <= len(known):
        raise ValueError(f"top_k must be from 1 to the {len(known)} rows of corpus, got {top_k}")
    blocks = [_best(found[i : i + _QUERIES], known, top_k) for i in range(0, len(found), _QUERIES)]
    if not blocks:
        return np.zeros((0, top_k), np.int64), np.zeros((0, top_k), np.float32)
    indices, scores = zip(*blocks, strict=True)
    return np.concatenate(indices), np.concatenate(scores)


def _best(queries: np.ndarray, corpus: np.ndarray, top_k: int) -> tuple[np.ndarray, np.ndarray]:
    indices = np.zeros((len(queries), 0), np.int64)
    scores = np.zeros((len(queries), 0), np.float32)
    for start in range(0, len(corpus), _CORPUS):
        new = queries @ corpus[start : start + _CORPUS].T
        where = np.broadcast_to(np.arange(start, start + new.shape[1]), new.shape)
        # Earlier rows stand first, and the sort is stable: they win ties.
        scores = np.concatenate([scores, new], axis=1)
        indices = np.concatenate([indices, where], axis=1)
        order = _largest(scores, top_k)
        scores = np.take_along_axis(scores, order, axis=1)
        indices = np.take_along_axis(indices, order, axis=1)
    return indices, scores


def _largest(scores: np.ndarray, count: int) -> np.ndarray:
    """Return the columns of the `count` largest scores of each row; the first of equal ones."""
    count = min(count, scores.shape[1])
    if 4 * count >= scores.shape[1]:
        return np.argsort(-scores, axis=1, kind="stable")[:, :count]
    # Everything that reaches the last place, in the order of columns: a few more where scores tie.
    least = -np.partition(-scores, count - 1, axis=1)[:, count - 1]
    chosen = np.empty((len(scores), count), np.int64)
    for row, (values, limit) in enumerate(zip(scores, least, strict=True)):
        columns = np.flatnonzero(values >= limit)
        chosen[row] = columns[np.argsort(-values[columns], kind="stable")[:count]]
    return chosen


def _unit(vectors: np.ndarray, name: str) -> np.ndarray:
    vectors = np.asarray(vectors, dtype=np.float32)
    if vectors.ndim != 2:
        raise ValueError(f"{name} must be (rows, size), got shape {vectors.shape}")
    if not np.isfinite(vectors).all():
        row = int(np.argmin(np.isfinite(vectors).all(axis=1)))
        raise ValueError(f"{name} has values that are not finite, first in row {row}")
    # In float64, where squares of large values do not overflow.
    norms = np.sqrt(np.einsum("ij,ij->i", vectors, vectors, dtype=np.float64))[:, None]
    return (vectors / np.where(norms > 0, norms, 1)).astype(np.float32)


def _check_sizes(a: np.ndarray, b: np.ndarray, name: str, other: str) -> None:
    if a.shape[1] != b.shape[1]:
        raise ValueError(
            f"{name} has vectors of size {a.shape[1]}, {other} of size {b.shape[1]}; embed both "
            f"with the same model"
        )
