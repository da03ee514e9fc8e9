"""Labels spread over the nearest-neighbour graph of features: an image answers as its neighbours do."""

from typing import Any

import numpy as np
import scipy.sparse
from numpy.typing import NDArray
from sklearn.neighbors import NearestNeighbors

from ..model.errors import HalflabelError

Matrix = NDArray[np.float64]

ABSORPTION = 0.1
"""How strongly every image is also tied to the label's prior; one neighbour of the same direction ties with 1."""

_TOLERANCE = 1e-4
_ROUNDS = 1000


def neighbour_graph(features: NDArray[np.floating], neighbours: int) -> Any:  # noqa: ANN401 - a scipy.sparse matrix
    """Return the symmetric graph of nearest neighbours by the cosine of centred features.

    Exact search, by scikit-learn; time grows with the square of the images, memory with their number.

    Args:
        features: Shape (n, width), one row per image.
        neighbours: Of each image, at least 1; with fewer images, all others.

    Returns:
        scipy.sparse CSR matrix (n, n), weights in (0, 1]: the cosine, where either image is near the other.

    Raises:
        HalflabelError: If `neighbours` is below 1.
    """
    if neighbours < 1:
        raise HalflabelError(f"neighbours is {neighbours}, expected at least 1")
    values = np.asarray(features, dtype=np.float64)
    centred = values - values.mean(axis=0)
    count = min(neighbours, len(values) - 1)
    if count < 1:
        return scipy.sparse.csr_matrix((len(values), len(values)))
    search = NearestNeighbors(n_neighbors=count, metric="cosine", algorithm="brute").fit(centred)
    graph = search.kneighbors_graph(mode="distance")
    graph.data = np.clip(1 - graph.data, 0, 1)
    graph = graph.maximum(graph.T).tocsr()
    graph.eliminate_zeros()
    return graph


def propagate(graph: Any, labels: NDArray[Any]) -> Matrix:  # noqa: ANN401
    """Spread known entries over a graph; known entries stay as they are.

    The score f of an unknown entry solves f_i = (sum_j w_ij f_j + a * prior) / (sum_j w_ij + a), a = `ABSORPTION`:
    the chance that a random walk from the image ends at a known yes, where at each step it may also give up and draw
    from the label's prior (Zhu, Ghahramani & Lafferty 2003, with their dongle to a prior). Solved by iteration.

    Args:
        graph: See `neighbour_graph`.
        labels: Shape (n, num_labels): 1, 0 or a target between; below 0: unknown.

    Returns:
        Shape (n, num_labels), in [0, 1]; an entry that no known one reaches has its label's prior.
    """
    known = labels >= 0
    fixed = np.where(known, labels, 0).astype(np.float64)
    prior = (fixed.sum(axis=0) + 1) / (known.sum(axis=0) + 2)
    degree = np.asarray(graph.sum(axis=1)).reshape(-1, 1) + ABSORPTION
    scores = np.where(known, fixed, prior)
    for _ in range(_ROUNDS):
        spread = np.where(known, fixed, (graph @ scores + ABSORPTION * prior) / degree)
        change = np.abs(spread - scores).max(initial=0.0)
        scores = spread
        if change < _TOLERANCE * ABSORPTION:
            break
    return scores
