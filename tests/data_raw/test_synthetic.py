"""Simulated mice: the competition's format, the same bytes from the same seed, nothing of others touched."""

import collections
import filecmp
import json
import multiprocessing
import os
import signal
from pathlib import Path

import numpy as np
import pytest

from sensorium.commands import synthesize
from sensorium.config import Config
from sensorium.errors import ConfigError, DataError
from sensorium.files import exclusive_lock
from sensorium.mice import MODALITIES, STATISTICS, TEST_TIERS, labelled_tiers
from sensorium.paths import Paths
from sensorium.recordings.raw import RawMouse
from sensorium.recordings.statistics import summarise
from sensorium.recordings.synthetic import exact, neurons
from sensorium.recordings.synthetic import mouse as synthetic
from sensorium.recordings.synthetic.marker import MARKER, changes
from sensorium.recordings.synthetic.movies import KINDS, natural, parametric, present
from sensorium.seeding import generator


def changed(config: Config, raw: Path, **settings) -> Config:
    """The settings with another raw folder and changed synthetic settings."""
    return config.model_copy(
        update={
            "dataset": config.dataset.model_copy(update={"raw": str(raw)}),
            "synthetic": config.synthetic.model_copy(update=settings),
        }
    )


def recipe(config: Config, mouse: str) -> synthetic.Recipe:
    return synthetic.Recipe(mouse, config.dataset.mice[mouse], config.synthetic)


def files_below(folder: Path) -> list[Path]:
    return sorted(p.relative_to(folder) for p in folder.rglob("*") if p.is_file())


def same_video(first: np.ndarray, second: np.ndarray) -> bool:
    """The competition's rule for two (H, W, L) videos, valid frames only."""
    if first.shape != second.shape:
        return False
    return bool((np.abs(first - second).max(axis=(0, 1)) <= 1).mean() > 0.85)


def videos(mouse: RawMouse, tier: str) -> list[np.ndarray]:
    """Valid frames of a tier's videos."""
    trials = [i for i, t in enumerate(mouse.tiers) if t == tier]
    return [mouse.load("videos", i)[..., : mouse.valid_length(i, labelled=False)] for i in trials]


@pytest.fixture
def first_mouse(tiny_config):
    return next(iter(tiny_config.dataset.mice))


def test_tiers_are_counted_out_by_the_settings(raw_dataset, tiny_config):
    settings = tiny_config.synthetic
    for name, mouse_set in tiny_config.dataset.mice.items():
        counts = collections.Counter(RawMouse(raw_dataset / name).tiers)
        expected = dict.fromkeys(("oracle", *TEST_TIERS), settings.repeated_trials)
        expected["train"] = settings.train_trials
        if mouse_set == "old":
            expected["none"] = settings.unusable_trials
        assert counts == expected


def test_lengths_vary_and_all_modalities_agree_on_the_tail(raw_dataset, tiny_config):
    shortest, longest = tiny_config.synthetic.valid_frames
    seen = set()
    for name in tiny_config.dataset.mice:
        mouse = RawMouse(raw_dataset / name)
        for trial in range(mouse.trials):
            length = mouse.valid_length(trial, labelled=True)
            seen.add(length)
            for modality in MODALITIES:
                array = mouse.load(modality, trial)
                assert np.isfinite(array[..., :length]).all()
                assert np.isnan(array[..., length:]).all()
    assert len(seen) > 1
    assert min(seen) >= shortest
    assert max(seen) <= longest


def test_only_unlabelled_responses_are_zero(raw_dataset, tiny_config):
    for name, mouse_set in tiny_config.dataset.mice.items():
        mouse = RawMouse(raw_dataset / name)
        for trial, tier in enumerate(mouse.tiers):
            responses = mouse.load("responses", trial)
            assert np.nanmin(responses) >= 0
            assert (np.nanmax(responses) > 0) == (tier in labelled_tiers(mouse_set))


def test_responses_scatter_around_the_truth(raw_dataset, tiny_config):
    for name in tiny_config.dataset.mice:
        mouse = RawMouse(raw_dataset / name)
        trials = [i for i, t in enumerate(mouse.tiers) if t == "train"]
        rate = np.concatenate([np.load(raw_dataset / ".truth" / name / f"{i}.npy") for i in trials], axis=1)
        responses = np.concatenate(
            [mouse.load("responses", i)[:, : mouse.valid_length(i, True)] for i in trials], axis=1
        )
        assert rate.dtype == np.float32
        assert rate.shape == responses.shape
        ceiling = np.mean([np.corrcoef(a, b)[0, 1] for a, b in zip(rate, responses, strict=True)])
        assert 0.4 < ceiling < 0.9
        np.testing.assert_allclose(responses.mean(), rate.mean(), rtol=0.1)
        assert rate.mean(axis=1).min() > 0.5
        assert rate.mean(axis=1).max() < 60


def test_repeats_show_the_same_video_in_other_bytes_in_every_mouse(raw_dataset, tiny_config):
    mice = [RawMouse(raw_dataset / name) for name in tiny_config.dataset.mice]
    for tier in ("oracle", *TEST_TIERS):
        shown = [video for mouse in mice for video in videos(mouse, tier)]
        kinds = []
        for video in shown:
            alike = [other for other in kinds if same_video(video, other)]
            assert not any(np.array_equal(video, other) for other in alike)
            if not alike:
                kinds.append(video)
        settings = tiny_config.synthetic
        assert len(kinds) == settings.repeated_trials // settings.repeats


def test_train_videos_are_unique_within_a_mouse_and_some_are_shared_between_mice(raw_dataset, tiny_config):
    first, second, *_ = [videos(RawMouse(raw_dataset / name), "train") for name in tiny_config.dataset.mice]
    assert not any(same_video(a, b) for i, a in enumerate(first) for b in first[:i])
    assert sum(same_video(a, b) for a in first for b in second) == tiny_config.synthetic.shared_videos


def test_videos_are_whole_grey_levels_that_move(raw_dataset, first_mouse):
    mouse = RawMouse(raw_dataset / first_mouse)
    for trial, tier in enumerate(mouse.tiers):
        video = mouse.load("videos", trial)[..., : mouse.valid_length(trial, False)]
        assert np.array_equal(video, np.rint(video))
        assert 0 <= video.min() < video.max() <= 255
        assert np.ptp(video, axis=2).max() > 20, tier


def test_statistics_are_those_of_the_training_trials(raw_dataset, tiny_config):
    shortest = tiny_config.synthetic.valid_frames[0]
    mouse = RawMouse(raw_dataset / list(tiny_config.dataset.mice)[-1])
    train = [i for i, tier in enumerate(mouse.tiers) if tier == "train"]
    functions = {"mean": np.mean, "std": np.std, "min": np.min, "max": np.max, "median": np.median}
    for modality in MODALITIES:
        stacked = np.stack([mouse.load(modality, i)[..., :shortest] for i in train])
        for name, function in functions.items():
            np.testing.assert_allclose(
                mouse.statistics(modality, name)[..., :shortest], function(stacked, axis=0), atol=1e-9
            )
        assert np.isnan(mouse.statistics(modality, "std")[..., -1]).all()


def test_statistics_leave_nan_out():
    stacked = np.array([[1.0, 4.0, np.nan], [3.0, np.nan, np.nan], [8.0, 2.0, np.nan]])
    results = summarise(stacked)
    assert tuple(results) == STATISTICS
    np.testing.assert_allclose(results["mean"], [4, 3, np.nan])
    np.testing.assert_allclose(results["median"], [3, 3, np.nan])
    np.testing.assert_allclose(results["std"], [np.std([1, 3, 8]), 1, np.nan])
    np.testing.assert_allclose(results["min"], [1, 2, np.nan])
    np.testing.assert_allclose(results["max"], [8, 4, np.nan])


def test_the_same_seed_gives_the_same_bytes_whatever_else_was_made(raw_dataset, tiny_config, tmp_path):
    name = list(tiny_config.dataset.mice)[1]
    synthetic.write_mouse(tmp_path, recipe(tiny_config, name))
    for folder in (name, f".truth/{name}"):
        names = files_below(tmp_path / folder)
        assert names == files_below(raw_dataset / folder)
        _, different, errors = filecmp.cmpfiles(tmp_path / folder, raw_dataset / folder, names, shallow=False)
        assert not different
        assert not errors


def test_sums_are_those_of_whole_numbers():
    """At the competition's frame size, where libraries add in many orders; tests/remote compares whole mice."""
    rng = np.random.default_rng(0)
    movie = natural(rng, 20, 36, 64).reshape(20, -1).T.astype(np.float64) - 127
    population = neurons.draw(rng, rng.uniform(-450, 450, (30, 3)), 36, 64)
    for filters in population.filters:
        expected = filters.astype(np.int64) @ movie.astype(np.int64)
        assert np.array_equal(filters, np.rint(filters))
        assert np.array_equal(exact.product(filters, movie), expected)


def test_another_seed_gives_another_mouse(raw_dataset, tiny_config, first_mouse, tmp_path):
    other = changed(tiny_config, tmp_path, seed=1)
    synthetic.write_mouse(tmp_path, recipe(other, first_mouse))
    assert not np.array_equal(
        np.load(tmp_path / first_mouse / "data/videos/0.npy"), np.load(raw_dataset / first_mouse / "data/videos/0.npy")
    )


def test_a_foreign_mouse_is_taken_as_it_is(tiny_config, first_mouse, tmp_path, capsys):
    mine = tmp_path / first_mouse / "mine.npy"
    mine.parent.mkdir()
    mine.write_bytes(b"precious")
    synthesize.run(changed(tiny_config, tmp_path), Paths(tmp_path), first_mouse)
    assert "taken as it is" in capsys.readouterr().err
    assert files_below(tmp_path) == [Path(first_mouse, "mine.npy")]
    assert mine.read_bytes() == b"precious"


def test_a_link_to_nowhere_is_left_alone(tiny_config, first_mouse, tmp_path):
    (tmp_path / first_mouse).symlink_to("/not/mounted")
    with pytest.raises(DataError, match="a link to /not/mounted, which does not exist"):
        synthesize.run(changed(tiny_config, tmp_path), Paths(tmp_path), first_mouse)
    assert list(tmp_path.iterdir()) == [tmp_path / first_mouse]


def test_a_current_mouse_is_kept_and_an_outdated_one_is_made_anew(tiny_config, first_mouse, copy_raw, tmp_path, capsys):
    raw = copy_raw(first_mouse)
    before = (raw / first_mouse).stat().st_ino
    synthesize.run(changed(tiny_config, raw), Paths(tmp_path), first_mouse)
    assert "up to date" in capsys.readouterr().err
    assert (raw / first_mouse).stat().st_ino == before

    synthesize.run(changed(tiny_config, raw, train_trials=5), Paths(tmp_path), first_mouse)
    assert "simulated 25 trials of 8 neurons" in capsys.readouterr().err
    assert RawMouse(raw / first_mouse).tiers.count("train") == 5
    assert len(list((raw / ".truth" / first_mouse).iterdir())) == 26  # with the table of the neurons


def overwrite(folder: Path) -> str:
    path = folder / "data/responses/3.npy"
    np.save(path, np.load(path) + 1)
    return "data/responses/3.npy has another SHA-256"


def truncate(folder: Path) -> str:
    os.truncate(folder / "data/videos/2.npy", 100)
    return "data/videos/2.npy has 100 bytes instead of"


def remove(folder: Path) -> str:
    (folder / "data/behavior/1.npy").unlink()
    return "data/behavior/1.npy is missing"


def add(folder: Path) -> str:
    (folder / "data/videos/900.npy").write_bytes(b"precious")
    return "data/videos/900.npy was not simulated"


def add_link(folder: Path) -> str:
    (folder / "notes").symlink_to(folder / "meta", target_is_directory=True)
    return "notes was not simulated"


def forget(folder: Path) -> str:
    marker = json.loads((folder / MARKER).read_text())
    (folder / MARKER).write_text(json.dumps({**marker, "files": {"data/videos/0.npy": {}}}))
    return "meta/synthetic.json lists no files"


@pytest.mark.parametrize("change", [overwrite, truncate, remove, add, add_link, forget])
def test_a_changed_mouse_is_the_user_s(tiny_config, first_mouse, copy_raw, tmp_path, change):
    raw = copy_raw(first_mouse)
    assert changes(raw / first_mouse) == []
    words = change(raw / first_mouse)
    before = {name: (raw / name).read_bytes() for name in files_below(raw)}
    with pytest.raises(DataError, match=words) as fault:
        synthesize.run(changed(tiny_config, raw, train_trials=5), Paths(tmp_path), first_mouse)
    assert "never replaced" in fault.value.problem
    assert str(raw / first_mouse / MARKER) in fault.value.remedy
    assert {name: (raw / name).read_bytes() for name in files_below(raw)} == before
    assert {path.name for path in raw.iterdir()} == {first_mouse, ".truth"}


def test_a_mouse_unpacked_over_a_current_one_is_taken_as_it_is(tiny_config, first_mouse, copy_raw, tmp_path, capsys):
    raw = copy_raw(first_mouse)
    add(raw / first_mouse)
    synthesize.run(changed(tiny_config, raw), Paths(tmp_path), first_mouse)
    assert "data/videos/900.npy was not simulated), taken as it is" in capsys.readouterr().err
    (raw / first_mouse / MARKER).unlink()
    synthesize.run(changed(tiny_config, raw, train_trials=5), Paths(tmp_path), first_mouse)
    assert "not simulated, taken as it is" in capsys.readouterr().err


def test_a_mouse_placed_while_another_is_simulated_stays(tiny_config, first_mouse, tmp_path):
    mine = tmp_path / first_mouse / "mine.npy"

    def place():
        mine.parent.mkdir(exist_ok=True)
        mine.write_bytes(b"precious")

    with pytest.raises(DataError, match=r"meta/synthetic.json is missing"):
        synthetic.write_mouse(tmp_path, recipe(tiny_config, first_mouse), place)
    assert files_below(tmp_path) == [Path(first_mouse, "mine.npy")]


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_kill_leaves_no_mouse_and_the_next_run_makes_it(tiny_config, first_mouse, tmp_path):
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=synthetic.write_mouse, args=(tmp_path, recipe(tiny_config, first_mouse), die))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert synthetic.state(tmp_path, recipe(tiny_config, first_mouse)) == "missing"
    synthesize.run(changed(tiny_config, tmp_path), Paths(tmp_path), first_mouse)
    assert synthetic.state(tmp_path, recipe(tiny_config, first_mouse)) == "current"
    assert {path.name for path in tmp_path.iterdir()} == {first_mouse, ".truth", ".sensorium"}


def test_leftovers_of_a_killed_run_are_removed(tiny_config, first_mouse, tmp_path):
    for leftover in (tmp_path / f".{first_mouse}.1.partial", tmp_path / ".truth" / f".{first_mouse}.2.partial"):
        leftover.mkdir(parents=True)
    kept = tmp_path / ".other.3.partial"
    kept.mkdir()
    synthesize.run(changed(tiny_config, tmp_path), Paths(tmp_path), first_mouse)
    assert {path.name for path in tmp_path.iterdir()} == {first_mouse, ".truth", ".other.3.partial", ".sensorium"}
    assert [path.name for path in (tmp_path / ".truth").iterdir()] == [first_mouse]


def test_a_mouse_that_a_kill_took_away_comes_back(tiny_config, first_mouse, copy_raw, tmp_path, monkeypatch):
    def interrupt(_):
        raise KeyboardInterrupt

    raw = copy_raw(first_mouse)
    (raw / first_mouse).rename(raw / f".{first_mouse}.1.retired")
    config = changed(tiny_config, raw, train_trials=5)
    monkeypatch.setattr(synthetic, "Simulation", interrupt)
    with pytest.raises(KeyboardInterrupt):
        synthesize.run(config, Paths(tmp_path), first_mouse)
    assert synthetic.state(raw, recipe(tiny_config, first_mouse)) == "current"
    assert {path.name for path in raw.iterdir()} == {first_mouse, ".truth"}


def test_a_second_process_is_refused(tiny_config, first_mouse, tmp_path):
    lock = tmp_path / ".sensorium" / "locks" / f"raw-{first_mouse}.lock"
    with (
        exclusive_lock(lock, DataError("held")),
        pytest.raises(DataError, match="another process is simulating this mouse"),
    ):
        synthesize.run(changed(tiny_config, tmp_path), Paths(tmp_path), first_mouse)


def test_another_mouse_s_neurons_do_not_outdate_this_one(tiny_config, raw_dataset):
    first, second, *_ = tiny_config.dataset.mice
    config = changed(tiny_config, raw_dataset, neurons={**tiny_config.synthetic.neurons, second: 50})
    assert synthetic.state(raw_dataset, recipe(config, first)) == "current"
    assert synthetic.state(raw_dataset, recipe(config, second)) == "outdated"


def test_a_lost_truth_is_made_again(tiny_config, first_mouse, copy_raw):
    raw = copy_raw(first_mouse)
    (raw / ".truth").rename(raw.parent / "elsewhere")
    assert synthetic.state(raw, recipe(tiny_config, first_mouse)) == "outdated"


def test_a_damaged_marker_is_named(tiny_config, first_mouse, copy_raw):
    raw = copy_raw(first_mouse)
    (raw / first_mouse / MARKER).write_text("{")
    with pytest.raises(DataError, match=r"synthetic.json: not valid JSON"):
        synthetic.state(raw, recipe(tiny_config, first_mouse))


@pytest.mark.parametrize("fault", [KeyboardInterrupt, OSError("No space left on device")])
def test_an_interrupted_simulation_leaves_nothing(tiny_config, first_mouse, tmp_path, fault):
    calls = []

    def stop():
        calls.append(1)
        if len(calls) == 3:
            raise fault

    with pytest.raises((KeyboardInterrupt, OSError)):
        synthetic.write_mouse(tmp_path, recipe(tiny_config, first_mouse), stop)
    assert files_below(tmp_path) == []
    assert not (tmp_path / first_mouse).exists()
    assert synthetic.state(tmp_path, recipe(tiny_config, first_mouse)) == "missing"


def test_a_mouse_without_settings_is_refused(tiny_config, first_mouse, tmp_path):
    config = changed(tiny_config, tmp_path, neurons={})
    with pytest.raises(ConfigError, match=r"synthetic.neurons: .* no entry for mouse dynamic29515"):
        synthesize.run(config, Paths(tmp_path), first_mouse)
    with pytest.raises(ConfigError, match="no entry"):
        synthesize.run(config.model_copy(update={"synthetic": None}), Paths(tmp_path), first_mouse)


@pytest.mark.parametrize("kind", range(len(KINDS)))
@pytest.mark.parametrize("size", [(18, 32), (36, 64), (9, 9)])
def test_every_kind_of_pattern_fits_every_frame(kind, size):
    movie = parametric(generator(0, "test", kind), kind, 60, *size)
    assert movie.shape == (60, *size)
    assert movie.dtype == np.uint8
    assert movie.std() > 5
    assert (movie[0] != movie[-1]).any()


def test_movies_fill_the_competition_s_frames():
    movie = natural(generator(0, "test"), 300, 36, 64)
    assert movie.shape == (300, 36, 64)
    cuts = np.abs(np.diff(movie.astype(int), axis=0)).mean(axis=(1, 2))
    assert (cuts > 20).sum() >= 2
    assert np.median(cuts) < 15


def test_presentations_differ_by_the_rule():
    movie = natural(generator(0, "test", 1), 300, 18, 32)
    first, second = (present(generator(0, "presentation", i), movie).transpose(1, 2, 0).astype(float) for i in (0, 1))
    assert not np.array_equal(first, second)
    assert same_video(first, second)
