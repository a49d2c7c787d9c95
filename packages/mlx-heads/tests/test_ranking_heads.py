import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np
import pytest

from mlx_heads import EmbeddingHead, RankingHead, listnet_loss, multiple_negatives_ranking_loss


def train(head, loss_fn, steps=150, rate=0.05):
    optimizer = optim.Adam(learning_rate=rate)
    step = nn.value_and_grad(head, loss_fn)
    for _ in range(steps):
        optimizer.update(head, step()[1])
        mx.eval(head.parameters(), optimizer.state)


def test_embeddings_are_unit_vectors_and_do_not_depend_on_the_length_of_the_input():
    head = EmbeddingHead(8, 5).eval()
    vectors = mx.random.normal((6, 8), key=mx.random.key(0))
    embeddings = head(vectors, None)
    np.testing.assert_allclose(np.linalg.norm(np.array(embeddings), axis=1), 1.0, atol=1e-6)
    scaled = head(1000 * vectors, None)
    np.testing.assert_allclose(np.array(scaled), np.array(embeddings), atol=1e-6)
    assert mx.array_equal(head.predict(embeddings), embeddings)


def test_the_embedding_of_a_zero_vector_is_zero_with_a_finite_gradient():
    head = EmbeddingHead(8, 5, dropout=0.0)
    assert not np.array(head(mx.zeros((2, 8)), None)).any()
    gradient = mx.grad(lambda x: head(x, None).sum())(mx.zeros((2, 8)))
    assert float(mx.abs(gradient).max()) < 1.0  # a norm with an epsilon would give 1 / epsilon


def test_pairs_find_each_other_after_contrastive_training():
    random = np.random.default_rng(0)
    shared = random.normal(size=(64, 8))
    shared[:, 4:] = 0.0  # the last four columns are noise alone
    noise = random.normal(size=(2, 64, 8)) * ([0.1] * 4 + [2.0] * 4)
    left, right = (mx.array((shared + each).astype(np.float32)) for each in noise)
    head = EmbeddingHead(8, 6, dropout=0.0)

    def found():
        similarity = head(left, None) @ head(right, None).T
        return float((similarity.argmax(axis=1) == mx.arange(64)).astype(mx.float32).mean())

    before = found()
    train(head, lambda: multiple_negatives_ranking_loss(head(left, None), head(right, None)).mean())
    assert before < 0.5
    assert found() > 0.8


def test_scores_rank_rows_by_their_relevance_after_training():
    random = np.random.default_rng(0)
    x = random.normal(size=(100, 4)).astype(np.float32)
    relevance = mx.array(x @ np.array([1.0, -2.0, 0.5, 0.0], np.float32))
    head = RankingHead(4, dropout=0.0)
    vectors = mx.array(x)
    assert head(vectors, None).shape == (100,)
    train(head, lambda: listnet_loss(head(vectors, None), relevance).sum())
    ranks = [np.argsort(np.argsort(np.array(each))) for each in (head(vectors, None), relevance)]
    assert np.corrcoef(ranks)[0, 1] == pytest.approx(1.0, abs=0.05)
