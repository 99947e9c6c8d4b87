"""Bootstrap counts: Poisson(1), one number per block and member, the same wherever a row is met."""

import numpy as np

from worldmodel.replay.resampling import count_resamples

LENGTH, MEMBERS = 6, 4


def count(streams, rows, entropy=(3, 6)):
    return count_resamples(np.array(streams), np.array(rows), LENGTH, MEMBERS, entropy)


def test_a_row_counts_alike_in_every_sequence_that_holds_it():
    found = count([0, 0], [10, 13])
    assert found.shape == (2, LENGTH, MEMBERS)
    assert np.array_equal(found[0, 3:], found[1, :3])


def test_counts_are_those_of_a_bootstrap_and_belong_to_block_member_stream_and_seed():
    found = count([0] * 500, np.arange(500) * LENGTH)
    assert (found == found[:, :1]).all()  # whole blocks
    assert abs(found.mean() - 1) < 0.1 and abs((found == 0).mean() - np.exp(-1)) < 0.05
    apart = np.corrcoef(found[:, 0].T) - np.eye(MEMBERS)
    assert np.abs(apart).max() < 0.2
    for other in (
        count([1] * 500, np.arange(500) * LENGTH),
        count([0] * 500, np.arange(500) * LENGTH, (4, 6)),
    ):
        assert abs(np.corrcoef(found[:, 0].ravel(), other[:, 0].ravel())[0, 1]) < 0.1
