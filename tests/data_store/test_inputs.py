"""Windows, boxes and the model's input tensor."""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sensorium.config import WindowConfig
from sensorium.data.augmentation import NO_BOX, Box, cut_box
from sensorium.data.inputs import (
    Batch,
    Targets,
    assemble,
    frame_indices,
    separate_starts,
    sliding_starts,
    trial_windows,
)
from sensorium.errors import DataError

PUBLISHED = WindowConfig(frames=16, step=2)


def test_window_takes_the_published_frames(parity):
    behind, ahead, width = parity["windows_behind_ahead_width"]
    assert (behind + ahead + 1, width) == (PUBLISHED.width, PUBLISHED.width)
    assert frame_indices(30 - int(behind), PUBLISHED).tolist() == parity["windows_at_30"].tolist()


def test_windows_slide_over_every_position_and_stand_side_by_side():
    assert sliding_starts(33, PUBLISHED).tolist() == [0, 1, 2]
    assert separate_starts(300, PUBLISHED).tolist() == list(range(0, 279, 31))
    assert separate_starts(62, PUBLISHED).tolist() == [0, 31]
    assert separate_starts(61, PUBLISHED).tolist() == [0]


@pytest.mark.parametrize("length", [0, 1, 30])
def test_short_trials_hold_no_window(length):
    assert len(sliding_starts(length, PUBLISHED)) == len(separate_starts(length, PUBLISHED)) == 0


def test_boxes_are_the_published_ones(parity):
    for share, row, column, top, left, bottom, right in parity["cutmix_lam_cx_cy_x1_y1_x2_y2"]:
        assert cut_box(share, int(row), int(column), (64, 64)) == (top, left, bottom, right)


@given(st.floats(0, 1), st.integers(0, 17), st.integers(0, 31))
def test_boxes_stay_on_the_canvas(share, row, column):
    box = cut_box(share, row, column, (18, 32))
    assert 0 <= box.top <= box.bottom <= 18
    assert 0 <= box.left <= box.right <= 32
    assert box.share((18, 32)) <= share


def test_share_is_the_clipped_area():
    assert cut_box(1, 0, 0, (64, 64)).share((64, 64)) == 0.25
    assert NO_BOX.share((64, 64)) == 0


def test_input_is_the_published_one(parity):
    video = torch.from_numpy(parity["phash_videos_u8"][0].transpose(2, 0, 1).copy())
    states = np.concatenate([parity["inputs_behavior"], parity["inputs_pupil_center"]]).T
    single = WindowConfig(frames=1, step=1)
    inputs = trial_windows(video, torch.from_numpy(states.copy()), torch.tensor([0, 13, 59]), single, (64, 64))
    assert inputs.dtype == torch.float32
    assert np.array_equal(inputs[:, :, 0].transpose(0, 1).numpy(), parity["inputs_stack_frames_0_13_59"])


def _batch(boxes, size=(4, 6), frames=3) -> Batch:
    rng = np.random.default_rng(0)
    count = len(boxes)
    mice = torch.arange(count) % 2
    targets = {
        mouse: Targets(rows, torch.from_numpy(rng.random((len(rows), 5 + mouse, frames), dtype=np.float32)))
        for mouse in (0, 1)
        if len(rows := torch.nonzero(mice == mouse).flatten())
    }
    return Batch(
        torch.from_numpy(rng.integers(0, 256, (count, frames, *size), dtype=np.uint8)),
        torch.from_numpy(rng.random((count, 2, 4, frames), dtype=np.float32)),
        torch.tensor(boxes),
        mice,
        targets,
    )


def test_planes_show_the_partner_inside_the_box():
    batch = _batch([Box(1, 2, 5, 8), NO_BOX])
    inputs = assemble(batch, (8, 8))
    assert inputs.shape == (2, 5, 3, 8, 8)
    assert torch.equal(inputs[:, 0, :, 2:6, 1:7], batch.frames.float())
    assert inputs[:, 0].sum() == batch.frames.sum()
    inside = torch.zeros(8, 8, dtype=torch.bool)
    inside[1:5, 2:8] = True
    own, partner = batch.states[0, :, :, :, None]
    assert torch.equal(inputs[0, 1:][..., inside], partner.expand(-1, -1, int(inside.sum())))
    assert torch.equal(inputs[0, 1:][..., ~inside], own.expand(-1, -1, int((~inside).sum())))
    assert torch.equal(inputs[1, 1:], batch.states[1, 0][..., None, None].expand(-1, -1, 8, 8))


def test_windows_of_a_trial_equal_a_batch_of_them():
    rng = np.random.default_rng(3)
    video = torch.from_numpy(rng.integers(0, 256, (20, 4, 6), dtype=np.uint8))
    states = torch.from_numpy(rng.random((20, 4), dtype=np.float32))
    window, starts = WindowConfig(frames=3, step=4), torch.tensor([0, 7, 11])
    frames = [frame_indices(int(start), window) for start in starts]
    batch = dataclasses.replace(
        _batch([NO_BOX] * 3),
        frames=torch.stack([video[f] for f in frames]),
        states=torch.stack([states[f].T for f in frames])[:, None].expand(-1, 2, -1, -1),
    )
    assert torch.equal(trial_windows(video, states, starts, window, (8, 9)), assemble(batch, (8, 9)))


def test_frames_larger_than_the_canvas_are_refused():
    with pytest.raises(DataError, match=r"model.canvas: frames of 4 x 6 pixels do not fit on 8 x 5"):
        assemble(_batch([NO_BOX]), (8, 5))


@pytest.mark.parametrize("chunks", [1, 2, 3, 9])
def test_chunks_of_a_batch_put_together_are_the_batch(chunks):
    batch = _batch([NO_BOX, Box(0, 0, 2, 2), NO_BOX, NO_BOX, NO_BOX])
    parts = list(batch.split(chunks))
    assert len(parts) == min(chunks, 5)
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    for name in ("frames", "states", "boxes", "mice"):
        assert torch.equal(torch.cat([getattr(part, name) for part in parts]), getattr(batch, name))
    for mouse, whole in batch.targets.items():
        own = [part.targets[mouse].responses for part in parts if mouse in part.targets]
        assert torch.equal(torch.cat(own), whole.responses)
        assert all((part.mice[part.targets[mouse].rows] == mouse).all() for part in parts if mouse in part.targets)
