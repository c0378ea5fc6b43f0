"""Correlation against the published figures, against NumPy, and at the ends of float64."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sensorium.metrics import StreamingCorrelation, correlation, response_precision


def test_correlation_equals_the_published(parity):
    found = correlation(parity["metric|y1"], parity["metric|y2"])
    np.testing.assert_allclose(found, parity["metric|corr"], rtol=1e-12)


def test_correlation_along_the_first_axis(parity):
    found = correlation(parity["metric|y1"].T, parity["metric|y2"].T, axis=0)
    np.testing.assert_allclose(found, parity["metric|corr"], rtol=1e-12)


def test_precision_equals_the_published_normaliser(parity):
    raw = parity["normalizer|raw"]
    precision = response_precision(parity["normalizer|std"])
    assert np.isfinite(precision).all()
    np.testing.assert_allclose(raw * precision[:, : raw.shape[1]], parity["normalizer|normalized"], rtol=1e-14)


def _stream(y1, y2, pieces):
    found = StreamingCorrelation(len(y1))
    for a, b in zip(np.array_split(y1, pieces, axis=1), np.array_split(y2, pieces, axis=1), strict=True):
        found.update(a, b)
    return found


@pytest.mark.parametrize("pieces", [1, 3, 200])
def test_streaming_equals_one_pass(parity, pieces):
    found = _stream(parity["metric|y1"], parity["metric|y2"], pieces)
    np.testing.assert_allclose(found.correlation(), parity["metric|corr"], rtol=1e-12)
    assert found.frames == 200
    assert not found.undefined().any()


@settings(deadline=None, max_examples=25)
@given(
    offset=st.floats(-1e6, 1e6),
    scale=st.floats(1e-2, 1e3),
    cuts=st.lists(st.integers(0, 90), max_size=6),
    seed=st.integers(0, 2**16),
)
def test_streaming_does_not_cancel(offset, scale, cuts, seed):
    rng = np.random.default_rng(seed)
    y1 = offset + scale * rng.standard_normal((4, 90))
    y2 = y1 + scale * rng.standard_normal((4, 90))
    found = StreamingCorrelation(4)
    edges = [0, *sorted(cuts), 90]
    for start, stop in itertools.pairwise(edges):
        found.update(y1[:, start:stop], y2[:, start:stop])
    np.testing.assert_allclose(
        found.correlation(), [np.corrcoef(a, b)[0, 1] for a, b in zip(y1, y2, strict=True)], rtol=1e-5
    )


def test_merge_equals_concatenation(parity):
    y1, y2 = parity["metric|y1"], parity["metric|y2"]
    whole = StreamingCorrelation(6)
    whole.merge(StreamingCorrelation(6))
    for part in (slice(0, 11), slice(11, 150), slice(150, 200)):
        piece = StreamingCorrelation(6)
        piece.update(y1[:, part], y2[:, part])
        whole.merge(piece)
    np.testing.assert_allclose(whole.correlation(), parity["metric|corr"], rtol=1e-12)
    assert whole.frames == 200


def test_undefined_correlations_count_as_zero():
    rng = np.random.default_rng(0)
    target, prediction = rng.random((4, 60)), rng.random((4, 60))
    target[0] = 0.1  # not representable: its float64 mean is off by rounding
    prediction[1] = 1e9
    target[2, 7] = np.nan
    found = _stream(target, prediction, 5)
    assert found.undefined().tolist() == [True, True, True, False]
    assert found.correlation()[:3].tolist() == [0, 0, 0]
    assert found.correlation()[3] == pytest.approx(np.corrcoef(target[3], prediction[3])[0, 1])


def test_no_frames_is_undefined():
    empty = StreamingCorrelation(3)
    assert empty.undefined().all()
    assert empty.correlation().tolist() == [0, 0, 0]


def test_streams_refuse_other_neurons():
    stream = StreamingCorrelation(3)
    with pytest.raises(AssertionError, match="2 neurons instead of 3"):
        stream.update(np.zeros((2, 5)), np.zeros((2, 5)))
    with pytest.raises(AssertionError, match="2 neurons instead of 3"):
        stream.merge(StreamingCorrelation(2))
