"""Classifiers of frozen features: weighted nearest neighbours, logistic regression, and both from few pictures."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mae_fast.downstream.extras import need
from mae_fast.train.encoding import Features
from mae_fast.train.knn import accuracy, knn_scores

DRAWS = 5  # of the pictures that a classifier is to learn from, where they are few


@dataclass(frozen=True)
class Split:
    """Features to learn from, float32 (N, D), and to judge by, (Q, D), with labels, int64, as numbers of classes."""

    train: Tensor
    train_labels: Tensor
    val: Tensor
    val_labels: Tensor
    classes: list[str]


Classifier = Callable[[Split], Tensor]  # -> scores (Q, classes): the highest is the guess


def split_of(train: Features, train_classes: list[str], val: Features, val_classes: list[str]) -> Split:
    """The two as one Split. ValueError where they have no labels, or a class of val is not in train."""
    for name, classes in (("train", train_classes), ("val", val_classes)):
        if not classes:
            raise ValueError(
                f"data_path: the pictures of {name} have no labels; give class folders, {name}/CLASS/*.png"
            )
    unknown = [name for name in val_classes if name not in train_classes]
    if unknown:
        raise ValueError(f"data_path: class {unknown[0]} of val is not in train; the two want the same class folders")
    places = torch.tensor([train_classes.index(name) for name in val_classes])
    return Split(train.features, train.labels, val.features, places[val.labels], train_classes)


def nearest_neighbours(k: int = 20, temperature: float = 0.07, device: str | torch.device = "cpu") -> Classifier:
    """Weighted kNN (mae_fast.train.knn), computed on the device."""

    def scores(data: Split) -> Tensor:
        train, labels, val = (x.to(device) for x in (data.train, data.train_labels, data.val))
        return knn_scores(train, labels, val, len(data.classes), k, temperature).cpu()

    return scores


def logistic_regression(C: float = 1.0) -> Classifier:
    """scikit-learn's LogisticRegression of standardised features; C: inverse strength of its L2 penalty.

    ImportError where scikit-learn is not installed.
    """
    pipeline, linear = need("sklearn.pipeline", "logistic"), need("sklearn.linear_model", "logistic")
    preprocessing = need("sklearn.preprocessing", "logistic")

    def scores(data: Split) -> Tensor:
        model = pipeline.make_pipeline(
            preprocessing.StandardScaler(), linear.LogisticRegression(C=C, max_iter=1000)
        ).fit(data.train.numpy(), data.train_labels.numpy())
        found = torch.zeros(len(data.val), len(data.classes))  # also of the classes that train has no picture of
        found[:, torch.from_numpy(model.classes_)] = torch.from_numpy(model.predict_proba(data.val.numpy())).float()
        return found

    return scores


def few_shot(data: Split, shots: int, classifier: Classifier, draws: int = DRAWS, seed: int = 0) -> tuple[float, float]:
    """Top-1 accuracy in percent, mean and standard deviation over draws of `shots` training pictures a class.

    The same draws for every classifier. ValueError where a class has fewer pictures.
    """
    found = []
    members = [np.flatnonzero(data.train_labels.numpy() == number) for number in range(len(data.classes))]
    least = min(range(len(members)), key=lambda number: len(members[number]))
    if len(members[least]) < shots:
        raise ValueError(
            f"shots: {shots}, but class {data.classes[least]} has {len(members[least])} training pictures; give fewer"
        )
    for draw in range(draws):
        rng = np.random.default_rng((seed, draw))
        chosen = torch.from_numpy(np.concatenate([rng.permutation(own)[:shots] for own in members]))
        some = Split(data.train[chosen], data.train_labels[chosen], data.val, data.val_labels, data.classes)
        found.append(accuracy(classifier(some), data.val_labels))
    return float(np.mean(found)), float(np.std(found, ddof=1))
