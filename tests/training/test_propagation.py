import numpy as np
import pytest
import scipy.sparse
from hypothesis import given, settings
from hypothesis import strategies as st

from halflabel import HalflabelError
from halflabel.training.propagation import ABSORPTION, neighbour_graph, propagate


def by_hand(features, neighbours):
    centred = features - features.mean(axis=0)
    n = len(centred)
    cosine = np.array([[a @ b / np.linalg.norm(a) / np.linalg.norm(b) for b in centred] for a in centred])
    graph = np.zeros((n, n))
    for i in range(n):
        others = [j for j in range(n) if j != i]
        for j in sorted(others, key=lambda j: -cosine[i, j])[:neighbours]:
            graph[i, j] = max(cosine[i, j], 0)
    return np.maximum(graph, graph.T)


def test_the_graph_joins_the_nearest_by_cosine():
    features = np.random.default_rng(0).normal(size=(30, 6)) + 3
    np.testing.assert_allclose(neighbour_graph(features, 4).toarray(), by_hand(features, 4), atol=1e-12)


def test_with_few_images_all_are_neighbours():
    features = np.random.default_rng(0).normal(size=(3, 6))
    np.testing.assert_allclose(neighbour_graph(features, 5).toarray(), by_hand(features, 2), atol=1e-12)
    assert neighbour_graph(features[:1], 5).nnz == 0


def test_no_neighbours_is_an_error():
    with pytest.raises(HalflabelError, match="neighbours is 0, expected at least 1"):
        neighbour_graph(np.ones((3, 2)), 0)


@settings(deadline=None, max_examples=30)
@given(st.integers(2, 25), st.integers(1, 4), st.integers(0, 10_000))
def test_scores_solve_the_equations_of_the_random_walk(images, labels, seed):
    rng = np.random.default_rng(seed)
    graph = rng.random((images, images)) * (rng.random((images, images)) < 0.2)
    graph = np.triu(graph, 1) + np.triu(graph, 1).T
    codes = rng.choice([1, 0, -100, -101], size=(images, labels), p=[0.2, 0.2, 0.5, 0.1])
    scores = propagate(scipy.sparse.csr_matrix(graph), codes)
    for j in range(labels):
        known = codes[:, j] >= 0
        prior = ((codes[known, j] == 1).sum() + 1) / (known.sum() + 2)
        system = np.diag(graph.sum(axis=1) + ABSORPTION)[~known][:, ~known] - graph[~known][:, ~known]
        solved = np.linalg.solve(system, graph[~known][:, known] @ codes[known, j] + ABSORPTION * prior)
        np.testing.assert_allclose(scores[~known, j], solved, atol=5e-3)
        np.testing.assert_array_equal(scores[known, j], codes[known, j])


def test_an_image_without_neighbours_has_the_prior():
    graph = scipy.sparse.csr_matrix(np.array([[0, 1.0, 0], [1.0, 0, 0], [0, 0, 0]]))
    scores = propagate(graph, np.array([[1], [-100], [-100]]))
    assert scores[1, 0] > 0.9
    assert scores[2, 0] == pytest.approx(2 / 3)
