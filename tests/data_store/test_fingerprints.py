"""Perceptual hashes, thumbnails and near-identical videos."""

import imagehash
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from sensorium.recordings.phash import frame_hash, hashed_frames, thumbnails, video_hash
from sensorium.recordings.similarity import connect, near_pairs, same_value_pairs
from sensorium.recordings.synthetic.movies import KINDS, natural, parametric


def test_hashes_and_folds_are_the_published_ones(parity):
    videos = parity["phash_videos_u8"].transpose(0, 3, 1, 2)
    assert [frame_hash(video[0]) for video in videos] == parity["phash_frame0"].tolist()
    assert [video_hash(video) for video in videos] == parity["phash_video"].tolist()
    assert [video_hash(video) % 7 for video in videos] == parity["phash_fold7"].tolist()


def test_whole_numbers_give_the_hashes_of_the_library():
    """Also where coefficients are zero: in gratings, and in a frame of one grey level."""
    rng = np.random.default_rng(0)
    videos = [natural(rng, 90, 36, 64), np.full((1, 36, 64), 127, np.uint8)]
    videos += [parametric(rng, kind, 30, 36, 64) for kind in range(len(KINDS))]
    for frame in np.concatenate(videos)[::3]:
        bits = imagehash.phash(Image.fromarray(frame)).hash.reshape(-1)
        assert frame_hash(frame) == int("".join("01"[bit] for bit in bits.astype(int)), 2)


def test_float_frames_hash_like_their_whole_grey_levels(parity):
    video = parity["phash_videos_u8"][0].transpose(2, 0, 1)
    assert video_hash(video.astype(np.float32) + np.float32(0.5)) == video_hash(video)


def test_hashed_frames_lie_in_the_middle_of_five_stretches():
    assert hashed_frames(300).tolist() == [30, 90, 150, 210, 270]
    assert hashed_frames(304).tolist() == hashed_frames(300).tolist()
    assert hashed_frames(3).tolist() == [0] * 5


def test_thumbnails_are_block_means():
    video = np.zeros((25, 36, 64), dtype=np.uint8)
    video[10, :9, :8] = 201
    video[10, 0, 8] = 71
    blocks = thumbnails(video)
    assert blocks.shape == (3, 4, 8)
    assert blocks[1, 0, 0] == 201
    assert blocks[1, 0, 1] == 0
    assert blocks[[0, 2]].max() == 0


def test_frames_smaller_than_the_grid_have_fewer_blocks():
    video = np.arange(15, dtype=np.uint8).reshape(1, 3, 5)
    assert thumbnails(video).tolist() == video.tolist()


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.integers(1, 40))
def test_thumbnails_differ_no_more_than_the_frames(seed, height, width):
    rng = np.random.default_rng(seed)
    video = rng.integers(1, 255, (11, height, width))
    other = video + rng.integers(-1, 2, video.shape)
    difference = thumbnails(video).astype(int) - thumbnails(other).astype(int)
    assert np.abs(difference).max() <= 1


def _thumbs(rng, trials, frames=20):
    return rng.integers(0, 256, (trials, frames, 32)).astype(np.uint8)


def test_repeats_are_found_and_other_videos_are_not():
    thumbs = _thumbs(np.random.default_rng(0), 4)
    thumbs[3] = np.clip(thumbs[1].astype(int) + 1, 0, 255)
    assert near_pairs(thumbs, np.full(4, 20)).tolist() == [[1, 3]]


@pytest.mark.parametrize(("common", "pairs"), [(17, []), (18, [[0, 1]])])
def test_more_than_85_percent_of_the_frames_must_agree(common, pairs):
    thumbs = _thumbs(np.random.default_rng(1), 2)
    thumbs[1, :common] = thumbs[0, :common]
    assert near_pairs(thumbs, np.full(2, 20)).tolist() == pairs


def test_trials_of_different_length_are_compared_over_the_shorter():
    thumbs = _thumbs(np.random.default_rng(2), 2)
    thumbs[1, :12] = thumbs[0, :12]
    thumbs[1, 12:] = 0
    assert near_pairs(thumbs, np.array([20, 12])).tolist() == [[0, 1]]
    assert near_pairs(thumbs, np.array([20, 20])).tolist() == []


def test_trials_are_grouped_through_others():
    equal = same_value_pairs(np.array([5, 9, 5, 7, 5], dtype=np.uint64))
    groups = connect(5, np.concatenate([equal, [[1, 3]]]))
    assert groups[0] == groups[2] == groups[4] != groups[1] == groups[3]
