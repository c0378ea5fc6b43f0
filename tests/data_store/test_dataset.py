"""Training and validation windows."""

import numpy as np
import pytest
import torch

from sensorium.config import CutMixConfig, WindowConfig
from sensorium.data.augmentation import make_augmentation
from sensorium.data.dataset import TrainingData, ValidationData
from sensorium.data.folds import Folds, TrialFold
from sensorium.data.inputs import Batch, assemble
from sensorium.data.plan import TrialPool, plan_epoch
from sensorium.data.store import MouseStore
from sensorium.errors import ConfigError, DataError
from sensorium.recordings.ingest import ingest
from sensorium.recordings.raw import RawMouse

NEW_MOUSE = "dynamic29515-10-12-Video-9b4f6a1a067fe51e15306b9628efea20"
WINDOW = WindowConfig(frames=8, step=2)
CANVAS = (24, 32)
MIX = CutMixConfig(alpha=1.0, probability=0.5)


def _training(stores, table, cutmix=MIX, samples=60, seed=0, window=WINDOW, fold=0) -> TrainingData:
    return TrainingData(stores, table, fold, window, CANVAS, make_augmentation(cutmix), samples, seed)


def _equal(left: Batch, right: Batch) -> bool:
    names = ("frames", "states", "boxes", "mice")
    if not all(torch.equal(getattr(left, name), getattr(right, name)) for name in names):
        return False
    return left.targets.keys() == right.targets.keys() and all(
        torch.equal(own.rows, right.targets[mouse].rows) and torch.equal(own.responses, right.targets[mouse].responses)
        for mouse, own in left.targets.items()
    )


def _plan(stores, table, cutmix=MIX, samples=60, seed=0):
    pools = []
    for store in stores:
        trials = np.flatnonzero(table.of(store.name) > 0)
        pools.append(TrialPool.of(trials, store.lengths, WINDOW))
    return plan_epoch(seed, 0, samples, pools, make_augmentation(cutmix), CANVAS)


def test_windows_hold_what_the_store_holds(stores, table):
    plan, batch = _plan(stores, table, None), _training(stores, table, None).batch(0, 0, 60)
    for sample, mouse in enumerate(plan.mice):
        store, trial, start = stores[mouse], plan.trials[0, sample], plan.starts[0, sample]
        frames = slice(start, start + WINDOW.width, WINDOW.step)
        assert torch.equal(batch.frames[sample], torch.from_numpy(store.video(trial)[frames]))
        assert torch.equal(batch.states[sample, 0], torch.from_numpy(store.states(trial)[frames].T.copy()))
        assert torch.equal(batch.states[sample, 1], batch.states[sample, 0])
        own = batch.targets[int(mouse)]
        position = own.rows.tolist().index(sample)
        assert torch.equal(own.responses[position], torch.from_numpy(store.responses(trial)[frames].T.copy()))
    assert not batch.boxes.any()
    assert batch.mice.tolist() == plan.mice.tolist()


def test_cutmix_mixes_frames_planes_and_targets_by_area(stores, table):
    mix = CutMixConfig(alpha=1.0, probability=1.0)
    plan, mixed = _plan(stores, table, mix), _training(stores, table, mix).batch(0, 0, 60)
    own = _training(stores, table, None).batch(0, 0, 60)
    inputs, plain = assemble(mixed, CANVAS), assemble(own, CANVAS)
    for sample, mouse in enumerate(plan.mice.tolist()):
        store, trial, start = stores[mouse], plan.trials[1, sample], plan.starts[1, sample]
        frames = slice(start, start + WINDOW.width, WINDOW.step)
        top, left, bottom, right = mixed.boxes[sample].tolist()
        inside = torch.zeros(CANVAS, dtype=torch.bool)
        inside[top:bottom, left:right] = True
        partner = torch.zeros(WINDOW.frames, *CANVAS)
        partner[:, 3:21] = torch.from_numpy(store.video(trial)[frames])
        assert torch.equal(inputs[sample, 0], torch.where(inside, partner, plain[sample, 0]))
        states = torch.from_numpy(store.states(trial)[frames].T.copy())[..., None, None]
        assert torch.equal(inputs[sample, 1:], torch.where(inside, states, plain[sample, 1:]))
        share = float(inside.float().mean())
        position = mixed.targets[mouse].rows.tolist().index(sample)
        expected = (1 - share) * own.targets[mouse].responses[position] + share * torch.from_numpy(
            store.responses(trial)[frames].T
        )
        torch.testing.assert_close(mixed.targets[mouse].responses[position], expected)


def test_half_of_the_samples_are_mixed_and_shares_are_beta_distributed(stores, table):
    plan = _plan(stores, table, samples=20_000)
    assert plan.boxes.mixed.mean() == pytest.approx(0.5, abs=0.02)
    assert np.quantile(plan.boxes.shares, [0.25, 0.5, 0.75]) == pytest.approx([0.25, 0.5, 0.75], abs=0.02)
    assert plan.boxes.centres.min(axis=1).tolist() == [0, 0]
    assert plan.boxes.centres.max(axis=1).tolist() == [23, 31]


def test_every_mouse_trial_and_start_has_an_equal_share(stores, table):
    plan = _plan(stores, table, samples=30_000)
    assert np.bincount(plan.mice).tolist() == [10_000] * 3
    assert np.bincount(plan.mice[:300]).min() > 60
    for which in (0, 1):
        trials = plan.trials[which, plan.mice == 2]
        allowed = np.flatnonzero(table.of(stores[2].name) > 0)
        counts = np.bincount(trials, minlength=stores[2].trials)
        assert counts[allowed].min() > 0.7 * counts[allowed].mean()
        assert counts.sum() == counts[allowed].sum()
        last = stores[2].lengths[trials] - WINDOW.width
        starts = plan.starts[which, plan.mice == 2]
        assert (starts <= last).all()
        assert (starts == last).any()
        assert (starts == 0).any()


def test_left_out_and_unlabelled_trials_are_never_read(stores, table, monkeypatch):
    read = set()
    view = MouseStore.view

    def record(store, name, trial, *frames):
        read.add((store.name, trial))
        return view(store, name, trial, *frames)

    monkeypatch.setattr(MouseStore, "view", record)
    _training(stores, table, samples=600, fold=1).batch(0, 0, 600)
    expected = {(s.name, t) for s in stores for t in np.flatnonzero(np.isin(table.of(s.name), (0, 2)))}
    assert read == expected


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_change_no_bit(stores, table, workers):
    data = _training(stores, table)
    alone, helped = list(data.loader(1, 0, 9, 0)), list(data.loader(1, 0, 9, workers))
    assert len(alone) == len(helped) == data.batches(9) == 6
    assert all(map(_equal, alone, helped))


def test_an_epoch_goes_on_where_it_was(stores, table):
    whole = list(_training(stores, table).loader(2, 0, 10, 0))
    rest = list(_training(stores, table).loader(2, 4, 10, 0))
    assert all(map(_equal, whole[4:], rest))
    assert len(rest) == 2
    assert list(_training(stores, table).loader(2, 6, 10, 0)) == []


def test_epochs_and_seeds_differ(stores, table):
    first = _training(stores, table).batch(0, 0, 10)
    assert _equal(first, _training(stores, table).batch(0, 0, 10))
    assert not _equal(first, _training(stores, table).batch(1, 0, 10))
    assert not _equal(first, _training(stores, table, seed=1).batch(0, 0, 10))


def test_batch_size_does_not_change_the_samples(stores, table):
    data = _training(stores, table)
    small = torch.cat([data.batch(0, index, 5).frames for index in range(4)])
    assert torch.equal(small, data.batch(0, 0, 20).frames)


@pytest.mark.parametrize("world_size", [2, 3])
def test_ranks_share_each_batch(stores, table, world_size):
    data = _training(stores, table)
    whole = data.batch(0, 1, 10)
    shares = [next(iter(data.loader(0, 1, 10, 0, rank, world_size))) for rank in range(world_size)]
    assert torch.equal(torch.cat([share.frames for share in shares]), whole.frames)
    assert torch.equal(torch.cat([share.mice for share in shares]), whole.mice)
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_loaders_leave_the_global_generator_alone(stores, table):
    state = torch.get_rng_state()
    list(_training(stores, table).loader(0, 0, 20, 1))
    list(ValidationData(stores, table, 0, WINDOW).loader(20, 0))
    assert torch.equal(torch.get_rng_state(), state)


def test_validation_shows_every_window_of_the_fold_once_and_in_order(stores, table):
    data = ValidationData(stores, table, 1, WINDOW)
    batches = list(data.loader(7, 0))
    assert all(map(_equal, batches, data.loader(7, 2)))
    for mouse, store in enumerate(stores):
        own = [batch for batch in batches if mouse in batch.targets]
        assert all(batch.targets.keys() == {mouse} and (batch.mice == mouse).all() for batch in own)
        expected = [
            store.responses(trial)[start : start + WINDOW.width : WINDOW.step].T
            for trial in np.flatnonzero(table.of(store.name) == 1)
            for start in range(0, int(store.lengths[trial]) - WINDOW.width + 1, WINDOW.width)
        ]
        assert data.windows(mouse) == len(expected)
        responses = torch.cat([batch.targets[mouse].responses for batch in own])
        assert np.array_equal(responses.numpy(), np.stack(expected))
    order = [int(batch.mice[0]) for batch in batches]
    assert order == sorted(order)


def test_negative_responses_are_cut_off(raw_dataset, copy_raw, table, tmp_path):
    raw = RawMouse(copy_raw(NEW_MOUSE) / NEW_MOUSE)
    for trial in range(raw.trials):
        np.save(raw.file("responses", trial), raw.load("responses", trial) - 5)
    ingest(raw, "new", tmp_path / "store", None, lambda: None)
    store = MouseStore(tmp_path / "store")
    assert not store.non_negative
    targets = _training([store], table).batch(0, 0, 20).targets[0].responses
    assert targets.min() == 0
    assert targets.max() > 0


def _table_of(store: MouseStore, folds) -> Folds:
    return Folds([TrialFold(store.name, t, str(store.tiers[t]), 0, 0, int(f)) for t, f in enumerate(folds)])


def test_a_fold_without_trials_is_named(stores):
    store = stores[0]
    empty = _table_of(store, np.zeros(store.trials))
    with pytest.raises(DataError, match=r"zarr: no training trial outside fold 0.\nLower folds.count"):
        _training([store], empty)
    with pytest.raises(DataError, match=r"zarr: no labelled trial in fold 1."):
        ValidationData([store], empty, 1, WINDOW)


def test_trials_shorter_than_a_window_are_left_out(stores, table):
    store = stores[0]
    shortest, longest = np.unique(store.lengths)[[0, -1]]
    window = WindowConfig(frames=int(shortest) + 1, step=1)
    assert longest > shortest
    plan = TrialPool.of(np.arange(store.trials), store.lengths, window)
    assert plan.trials.tolist() == np.flatnonzero(store.lengths > shortest).tolist()
    assert (plan.starts == store.lengths[plan.trials] - shortest).all()


def test_a_mouse_of_short_trials_alone_is_named(stores, table):
    window = WindowConfig(frames=40, step=2)
    with pytest.raises(DataError, match=r"every training trial outside fold 0 is shorter than a window of 79 frames"):
        _training(stores, table, window=window)
    with pytest.raises(DataError, match=r"every labelled trial in fold 0 is shorter .*longest: 7\d"):
        ValidationData(stores, table, 0, window)


def test_a_table_of_other_trials_is_refused(stores):
    with pytest.raises(DataError, match=r"folds: 3 trials of mouse .*, its store has \d+\.\nRun `dvc repro folds`"):
        _training(stores[:1], _table_of(stores[0], [0, 1, 2]))


def test_frames_larger_than_the_canvas_are_refused_before_training(stores, table):
    with pytest.raises(DataError, match=r"model.canvas"):
        TrainingData(stores, table, 0, WINDOW, (16, 32), make_augmentation(MIX), 60, 0)


def test_batches_that_cannot_be_filled_or_shared_are_refused(stores, table):
    data = _training(stores, table)
    with pytest.raises(ConfigError, match=r"training.batch_size: 61 is more than samples_per_epoch, 60"):
        data.loader(0, 0, 61, 0)
    with pytest.raises(ConfigError, match=r"training.batch_size: 2 windows cannot be shared by 3 processes"):
        data.loader(0, 0, 2, 0, 0, 3)
