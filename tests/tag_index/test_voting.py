"""From neighbours to tags, on examples computed by hand."""

import numpy as np
from scipy.sparse import csr_array

from jaxtag.tag_index import voting


def test_votes_are_weighted_by_similarity():
    tags = csr_array(np.array([[1, 0, 1], [0, 1, 0], [1, 0, 0]], np.float32))
    scores = np.log(np.array([[4.0, 2.0, 1.0], [1.0, 1.0, 1.0]], np.float32))
    scores[1, 2] = -np.inf
    ids = np.array([[0, 1, 2], [1, 2, -1]])
    votes = voting.vote(scores, ids, tags, 1.0)
    np.testing.assert_allclose(votes, [[5 / 7, 2 / 7, 4 / 7], [1 / 2, 1 / 2, 0]], rtol=1e-6)
    colder = voting.vote(scores, ids, tags, 0.5)  # weights 16, 4, 1
    np.testing.assert_allclose(colder[0], [17 / 21, 4 / 21, 16 / 21], rtol=1e-6)


def test_without_neighbours_there_are_no_tags():
    tags = csr_array(np.ones((2, 2), np.float32))
    none = np.full((1, 3), -np.inf, np.float32)
    assert not voting.vote(none, np.full((1, 3), -1), tags, 1.0).any()
    assert not voting.two_pass_vote(np.full((1, 2), -np.inf), tags, 1, 1.0).any()


def test_two_pass_neighbours_by_hand():
    """Rows 0 to 3 have the frequent tag A, row 3 also B, row 4 only B, row 5 nothing.

    exp(-distance) is 8, 4, 4, 2, 1 and 16. With one row a tag: A chooses row 0, B row 3; both
    count for their tags: A (8 + 2) / 10, B 2 / 10. With two: A rows 0 and 1 (of the equally near
    the first), B rows 3 and 4: A (8 + 4 + 2) / 15, B (2 + 1) / 15.
    """
    tags = csr_array(np.array([[1, 0]] * 3 + [[1, 1], [0, 1], [0, 0]], np.float32))
    scores = np.log(np.array([[8.0, 4.0, 4.0, 2.0, 1.0, 16.0]]))
    np.testing.assert_allclose(voting.two_pass_vote(scores, tags, 1, 1.0), [[1.0, 0.2]], rtol=1e-6)
    np.testing.assert_allclose(
        voting.two_pass_vote(scores, tags, 2, 1.0), [[14 / 15, 3 / 15]], rtol=1e-6
    )
    halves = voting.two_pass_vote(scores / 2, tags, 1, 0.5)
    np.testing.assert_allclose(halves, [[1.0, 0.2]], rtol=1e-6)
