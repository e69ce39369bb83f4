"""Classifiers of frozen features, held to what their definitions say, and the command that runs them."""

import re

import numpy as np
import pytest
import torch
from PIL import Image

from mae_fast.cli import main
from mae_fast.downstream import extras
from mae_fast.downstream.frozen import Split, few_shot, logistic_regression, nearest_neighbours
from mae_fast.train.confusion import confusion_matrix
from mae_fast.train.knn import accuracy, knn_scores


def test_votes_are_those_of_the_definition():
    torch.manual_seed(0)
    train, labels, queries = torch.randn(30, 8), torch.randint(0, 4, (30,)), torch.randn(7, 8)
    scores = knn_scores(train, labels, queries, 5, k=6, temperature=0.1)
    for query, row in zip(queries, scores, strict=True):
        cosine = [(torch.dot(query, x) / query.norm() / x.norm()).item() for x in train]
        votes = np.zeros(5)
        for near in np.argsort(cosine)[-6:]:
            votes[labels[near]] += np.exp((cosine[near] - 1) / 0.1)
        np.testing.assert_allclose(row.numpy(), votes, rtol=1e-4, atol=1e-12)
    few = knn_scores(train[:3], labels[:3], queries, 5, k=20)
    torch.testing.assert_close(few, knn_scores(train[:3], labels[:3], queries, 5, k=3))


def test_a_class_without_votes_is_no_guess():
    scores = torch.tensor([[0.9, 0.1, 0, 0, 0, 0], [0.1, 0.9, 0, 0, 0, 0], [0.9, 0.1, 0, 0, 0, 0]])
    labels = torch.tensor([0, 0, 3])
    assert accuracy(scores, labels) == pytest.approx(100 / 3)
    assert accuracy(scores, labels, 2) == accuracy(scores, labels, 5) == pytest.approx(200 / 3)


def test_a_confusion_matrix_counts():
    scores = torch.eye(3)[[0, 1, 1, 2]]
    assert confusion_matrix(scores, torch.tensor([0, 0, 1, 2])).tolist() == [[1, 1, 0], [0, 1, 0], [0, 0, 1]]


def blobs(count, seed):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 3
    return torch.eye(3)[labels] * 2 + torch.randn(count, 3, generator=generator), labels


@pytest.mark.parametrize("classifier", [nearest_neighbours(), logistic_regression()])
def test_more_pictures_a_class_are_better(classifier):
    data = Split(*blobs(300, 0), *blobs(300, 1), ["a", "b", "c"])
    one, ten = (few_shot(data, shots, classifier, draws=10) for shots in (1, 10))
    assert 33 < one[0] < ten[0] < accuracy(classifier(data), data.val_labels) + 3
    assert one[1] > ten[1] > 0 and one == few_shot(data, 1, classifier, draws=10)
    with pytest.raises(ValueError, match="shots: 101, but class a has 100"):
        few_shot(data, 101, classifier)


def test_logistic_regression_knows_classes_it_never_saw():
    train, labels = blobs(60, 0)
    data = Split(train[labels != 1], labels[labels != 1], *blobs(30, 1), ["a", "b", "c"])
    scores = logistic_regression()(data)
    assert scores.shape == (30, 3) and (scores[:, 1] == 0).all()
    torch.testing.assert_close(scores.sum(1), torch.ones(30))


def test_the_command_gives_the_accuracies_of_its_features(checkpoint, digits, tmp_path, capsys):
    shared = f"--checkpoint {checkpoint} --data_path {digits} --device cpu --dtype fp32 --loader pillow --num_workers 0"
    found = {}
    for split in ("train", "val"):
        assert main(f"features {shared} --out {tmp_path}/{split}.npz --split {split}".split()) == 0
        with np.load(tmp_path / f"{split}.npz") as file:
            found[split] = file["features"] / np.linalg.norm(file["features"], axis=1, keepdims=True), file["labels"]
    capsys.readouterr()
    assert main(f"knn {shared} --k 1,5 --logistic --shots 1,5 --confusion {tmp_path}/c.png".split()) == 0
    said = capsys.readouterr().out
    (train, labels), (val, truth) = found["train"], found["val"]
    nearest = 100 * (labels[(val @ train.T).argmax(1)] == truth).mean()
    assert "300 training and 100 validation pictures of 10 classes" in said
    assert f"kNN, k = 1: top-1 {nearest:.2f} %, top-5" in said and "kNN, k = 5: top-1" in said
    assert re.search(r"logistic regression: top-1 [\d.]+ %, top-5 [\d.]+ %", said)
    one, five = (float(x) for x in re.findall(r"regression, \d a class: top-1 ([\d.]+) \+- [\d.]+ %", said))
    assert 10 < one < five and nearest > 25
    with Image.open(tmp_path / "c.png") as picture:
        assert min(picture.size) > 300


def test_what_cannot_work_is_said(checkpoint, digits, tmp_path, capsys, monkeypatch):
    words = f"knn --checkpoint {checkpoint} --device cpu --loader pillow --num_workers 0 --data_path".split()
    assert main([*words, f"{digits}/train"]) == 1
    assert "no folder val in it" in capsys.readouterr().err
    for split, kinds in (("train", "ab"), ("val", "ac")):
        for kind in kinds:
            (tmp_path / "data" / split / kind).mkdir(parents=True)
            Image.new("RGB", (32, 32)).save(tmp_path / "data" / split / kind / "x.png")
    assert main([*words, f"{tmp_path}/data"]) == 1
    assert "--data_path: class c of val is not in train" in capsys.readouterr().err
    for split in ("train", "val"):
        (tmp_path / "flat" / split).mkdir(parents=True)
        Image.new("RGB", (32, 32)).save(tmp_path / "flat" / split / "x.png")
    assert main([*words, f"{tmp_path}/flat"]) == 1
    assert "--data_path: the pictures of train have no labels" in capsys.readouterr().err

    def missing(name):
        raise ImportError(name)

    monkeypatch.setattr(extras, "import_module", missing)
    assert main([*words, str(digits), "--logistic"]) == 1
    assert "--logistic: needs scikit-learn, which is not installed; pip install scikit-learn" in capsys.readouterr().err
