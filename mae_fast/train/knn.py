"""Weighted nearest neighbours: a judge of features with nothing to train (Wu et al. 2018; DINO, Caron et al. 2021)."""

import torch
import torch.nn.functional as F
from torch import Tensor

CHUNK = 2**26  # similarities at a time: 256 MB


@torch.inference_mode()
def knn_scores(
    train: Tensor, labels: Tensor, queries: Tensor, classes: int, k: int = 20, temperature: float = 0.07
) -> Tensor:
    """Votes of the k nearest training features for each query: float32 (Q, classes).

    train (N, D), labels int64 (N,), queries (Q, D). Near is a high cosine similarity s, and a vote weighs
    exp(s / temperature). Of fewer than k training features all vote.
    """
    if k < 1 or temperature <= 0:
        raise ValueError(f"k, temperature: expected at least 1 and more than 0; got {k} and {temperature}")
    train, queries = F.normalize(train.float(), dim=1), F.normalize(queries.float(), dim=1)
    scores = queries.new_zeros(len(queries), classes)
    for some, votes in zip(
        queries.split(max(1, CHUNK // len(train))), scores.split(max(1, CHUNK // len(train))), strict=True
    ):
        similar, nearest = (some @ train.T).topk(min(k, len(train)), dim=1)
        votes.scatter_add_(1, labels[nearest], ((similar - 1) / temperature).exp())  # - 1: a common factor, no overflow
    return scores


def accuracy(scores: Tensor, labels: Tensor, top: int = 1) -> float:
    """The share of queries whose label is among the `top` highest scores (Q, classes), in percent.

    A class that ties with the label counts as higher: what got no vote is no guess.
    """
    own = scores.gather(1, labels[:, None])
    return 100 * ((scores >= own).sum(1) <= top).double().mean().item()
