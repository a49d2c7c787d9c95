"""Losses of embeddings and of scores in lists."""

import numpy as np
import torch
import torch.nn.functional as F

from heads_losses.cases import Cases, floats


def embeddings(cases: Cases, random) -> None:
    anchor, near, far = (floats(random.normal(size=(16, 6))) for _ in range(3))
    near[:8] = anchor[:8] + floats(0.2 * random.normal(size=(8, 6)))
    near[8], far[9] = 1e4, -1e4
    same = floats(random.integers(0, 2, 16))

    def contrastive(a, b, y):
        d = torch.linalg.vector_norm(a - b, dim=1)
        return (y * d**2 + (1 - y) * (2 - d).clamp(min=0) ** 2) / 2

    def triplet(a, b, c):
        return F.triplet_margin_loss(a, b, c, margin=0.5, eps=0.0, reduction="none")

    def multiple_negatives(a, b):
        return F.cross_entropy(20 * a @ b.T, torch.arange(len(a)), reduction="none")

    def supervised(z, y):
        losses = []
        for i in range(len(z)):
            others = [a for a in range(len(z)) if a != i]
            positives = [p for p in others if y[p] == y[i]]
            total = torch.logsumexp(torch.stack([z[i] @ z[a] / 0.1 for a in others]), 0)
            terms = [total - z[i] @ z[p] / 0.1 for p in positives]
            losses.append(sum(terms) / len(terms) if terms else 0 * z[i].sum())
        return torch.stack(losses)

    name = "Hadsell et al. 2006, eq. 4"
    cases.add(
        "contrastive",
        "contrastive_loss",
        name,
        contrastive,
        [anchor, near, same],
        (0, 1),
        margin=2.0,
    )
    name = "torch triplet_margin_loss"
    cases.add("triplet", "triplet_loss", name, triplet, [anchor, near, far], (0, 1, 2), margin=0.5)
    unit, other = (each / np.linalg.norm(each, axis=1, keepdims=True) for each in (anchor, near))
    name = "torch cross_entropy of dot products"
    loss = "multiple_negatives_ranking_loss"
    cases.add("multiple_negatives", loss, name, multiple_negatives, [unit, other], (0, 1))
    classes = np.array([*random.integers(0, 4, 15), 9])  # the last one has no positive
    name = "Khosla et al. 2020, eq. 2"
    cases.add(
        "supervised_contrastive", "supervised_contrastive_loss", name, supervised, [unit, classes]
    )


def ranking(cases: Cases, random) -> None:
    scores, other = (floats(2 * random.normal(size=24)) for _ in range(2))
    scores[:2], other[2] = [1e4, -1e4], 1e4
    signs = floats(2 * random.integers(0, 2, 24) - 1)
    relevance, groups = floats(random.integers(0, 4, 24)), random.integers(0, 4, 24)

    def margin(a, b, y):
        return F.margin_ranking_loss(a, b, y, 0.3, reduction="none")

    def ranknet(scores, relevance, groups):
        one = torch.ones((), dtype=torch.float64)
        losses = []
        for i in range(len(scores)):
            below = [
                scores[i] - scores[j]
                for j in range(len(scores))
                if groups[i] == groups[j] and relevance[i] > relevance[j]
            ]
            terms = [F.binary_cross_entropy_with_logits(each, one) for each in below]
            losses.append(sum(terms, 0 * scores[i]))
        return torch.stack(losses)

    def listnet(scores, relevance, groups):
        losses = torch.zeros_like(scores)
        for group in groups.unique():
            rows = torch.nonzero(groups == group)[:, 0]
            terms = -F.softmax(relevance[rows], 0) * F.log_softmax(scores[rows], 0)
            losses = losses.index_add(0, rows, terms)
        return losses

    name = "torch margin_ranking_loss"
    cases.add(
        "margin_ranking",
        "margin_ranking_loss",
        name,
        margin,
        [scores, other, signs],
        (0, 1),
        margin=0.3,
    )
    arrays = [scores, relevance, groups]
    cases.add("ranknet", "ranknet_loss", "Burges et al. 2005, eq. 3", ranknet, arrays)
    cases.add("listnet", "listnet_loss", "Cao et al. 2007, eq. 3", listnet, arrays)
