"""Import of NWB files, written with pynwb in the layouts of three archives."""

import datetime as dt
from pathlib import Path

import av
import h5py
import numpy as np
import pynwb
import pytest
import yaml
from nwbinspector import inspect_nwbfile
from tiny import ROOT, make_config

from sensorium.commands import import_nwb as command
from sensorium.commands import synthesize_nwb
from sensorium.errors import ConfigError, DataError
from sensorium.paths import Paths
from sensorium.recordings.nwb import reader
from sensorium.recordings.nwb.mapping import NwbMap, TrialsMap, assign_tiers, read_map
from sensorium.recordings.nwb.sample import sample_recipe
from sensorium.recordings.raw import RawMouse
from sensorium.recordings.synthetic.mouse import Simulation
from sensorium.recordings.verify import verify_mouse

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
RATE = 30.0
SHAPE = (36, 64)
TRIALS, FRAMES = 8, 45
TABLE = {
    "movie": {
        "path": "intervals/natural_movie_presentations",
        "frame": "frame",
        "templates": "stimulus/templates/natural_movie",
    },
    "responses": ["processing/ophys/dff/traces"],
    "running": {"path": "processing/running/speed"},
    "pupil_size": {"path": "acquisition/EyeTracking/pupil_tracking", "dataset": "area", "area": True},
    "pupil_position": {"path": "acquisition/EyeTracking/pupil_tracking"},
    "trials": {"table": "intervals/natural_movie_presentations", "group": "repeat"},
    "tier": {"last": {"oracle": 0.25}},
    "positions": "image_mask",
}
"""A table with one row per presented frame, templates, dF/F, and an ellipse around the pupil."""
INDEXED = {
    "movie": {"path": "stimulus/presentation/clips", "templates": "stimulus/templates/frames"},
    "responses": ["processing/ophys/events/deconvolved"],
    "running": {"path": "acquisition/wheel"},
    "tier": {"column": "set", "values": {"training": "train", "validation": "oracle"}},
}
"""Clips as IndexSeries, deconvolved events, a column with the tier, no pupil."""


def import_nwb(source, target, mapping):
    return reader.import_nwb(source, target, mapping, lambda _: None)


def start_file():
    start = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    return pynwb.NWBFile(session_description="test", identifier="test", session_start_time=start)


def rois(nwb, count, name="PlaneSegmentation", masks=False):
    device = nwb.devices.get("microscope") or nwb.create_device(name="microscope")
    channel = pynwb.ophys.OpticalChannel(name="channel", description="green", emission_lambda=500.0)
    plane = nwb.create_imaging_plane(
        name=f"plane of {name}",
        optical_channel=channel,
        description="V1",
        device=device,
        excitation_lambda=900.0,
        indicator="GCaMP6s",
        location="V1",
    )
    table = pynwb.ophys.PlaneSegmentation(name=name, description="cells", imaging_plane=plane)
    for neuron in range(count):
        mask = np.zeros((8, 10))
        mask[2, neuron] = 1
        table.add_roi(image_mask=mask)
    if not masks:
        for axis, column in enumerate("xyz"):
            table.add_column(name=column, description="um", data=[10.0 * axis + n for n in range(count)])
    return table, table.create_roi_table_region(description="all", region=list(range(count)))


def segmentation(module, *tables):
    module.add(pynwb.ophys.ImageSegmentation(plane_segmentations=list(tables)))


def responses_at(times, neurons, first=0):
    """Linear in time, so that interpolation is exact."""
    return np.asarray(times)[:, None] * (1 + first + np.arange(neurons)) + 1


def movie(count):
    return np.random.default_rng(0).integers(0, 255, (count, *SHAPE), dtype=np.uint8)


def series(name, times, data):
    return pynwb.TimeSeries(name=name, data=data, unit="a.u.", timestamps=times)


def position(name, times, data):
    return pynwb.behavior.SpatialSeries(name=name, data=data, reference_frame="camera", timestamps=times)


def save(nwb, path):
    with pynwb.NWBHDF5IO(path, "w") as io:
        io.write(nwb)
    return path


def trial_times(gap=0.5):
    starts = 1.0 + np.arange(TRIALS) * (FRAMES / RATE + gap)
    return starts, starts + FRAMES / RATE


def write_film(path, frames):
    """A film without loss."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=60)
        stream.height, stream.width = frames.shape[1:]
        stream.pix_fmt = "gray"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="gray")))
        container.mux(stream.encode())


def write_microns(path, films=("first.avi", "second.avi")):
    """The layout of DANDI 000402: two films of 60 Hz beside the file, radii of the pupil, m/s, a mask per neuron."""
    nwb = start_file()
    ophys = nwb.create_processing_module("ophys", "imaging")
    starts, stops = trial_times()
    times = np.arange(0, stops[-1] + 1, 1 / RATE)
    frames = movie(len(times))
    half = len(frames) // 2
    for name, part in zip(films, [frames[:half], frames[half:]], strict=True):
        write_film(path.parent / name, part)
    nwb.add_acquisition(
        pynwb.image.ImageSeries(
            name="Video",
            external_file=list(films),
            starting_frame=[0, half],
            format="external",
            timestamps=times,
        )
    )
    slow = np.arange(0, stops[-1] + 1, 1 / 6.3)
    counts = {1: 3, 2: 2, 10: 1}
    regions = {index: rois(nwb, count, f"PlaneSegmentation{index}", masks=True) for index, count in counts.items()}
    segmentation(ophys, *(table for table, _ in regions.values()))
    fluorescence = pynwb.ophys.Fluorescence()
    ophys.add(fluorescence)
    first = 0
    for index, (_, region) in regions.items():
        fluorescence.create_roi_response_series(
            name=f"RoiResponseSeries{index}",
            data=responses_at(slow, counts[index], first),
            rois=region,
            unit="n.a.",
            starting_time=0.0,
            rate=6.3,
        )
        first += counts[index]
    nwb.add_acquisition(
        pynwb.TimeSeries(name="treadmill_velocity", data=2 * times, unit="m/s", conversion=0.01, timestamps=times)
    )
    radii = [series(f"pupil_{which}_radius", times, times + more) for which, more in (("minor", 5), ("major", 6))]
    nwb.add_acquisition(pynwb.behavior.PupilTracking(time_series=radii))
    eye = np.stack([times, -times], axis=1)
    nwb.add_acquisition(pynwb.behavior.EyeTracking(spatial_series=[position("eye_position", times, eye)]))
    table = pynwb.epoch.TimeIntervals(name="Clip", description="clips")
    table.add_column("condition_hash", "clip")
    for trial in range(TRIALS):
        clip = "same" if trial in (2, 6) else f"clip{trial}"
        table.add_row(start_time=starts[trial], stop_time=stops[trial], condition_hash=clip)
    nwb.add_time_intervals(table)
    with h5py.File(save(nwb, path), "a") as opened:  # a name that pynwb no longer writes
        opened.move("acquisition/Video", "acquisition/Video: stimulus_17797_4_10_v4")
    return path


def write_table(path):
    nwb = start_file()
    ophys = nwb.create_processing_module("ophys", "imaging")
    templates = np.repeat(np.repeat(movie(FRAMES), 2, axis=1), 2, axis=2)
    nwb.add_stimulus_template(
        pynwb.image.ImageSeries(name="natural_movie", data=templates, unit="n.a.", starting_time=0.0, rate=RATE)
    )
    table = pynwb.epoch.TimeIntervals(name="natural_movie_presentations", description="frames")
    table.add_column("frame", "index of the template")
    table.add_column("repeat", "repeat")
    starts, stops = trial_times()
    for trial in range(TRIALS):
        for frame in range(FRAMES):
            at = starts[trial] + frame / RATE
            table.add_row(start_time=at, stop_time=at + 1 / RATE, frame=frame, repeat=trial)
    nwb.add_time_intervals(table)
    times = np.arange(0, stops[-1] + 1, 1 / 60)
    cells, region = rois(nwb, 4, masks=True)
    segmentation(ophys, cells)
    dff = pynwb.ophys.DfOverF(name="dff")
    ophys.add(dff)
    dff.create_roi_response_series(
        name="traces", data=responses_at(times, 4), rois=region, unit="n.a.", timestamps=times
    )
    running = nwb.create_processing_module("running", "running")
    running.add(series("speed", times, times))
    ellipse = nwb_ellipse(times)
    nwb.add_acquisition(pynwb.behavior.EyeTracking(name="EyeTracking", spatial_series=[ellipse]))
    return save(nwb, path)


def nwb_ellipse(times):
    """A SpatialSeries; the areas that ndx-ellipse-eye-tracking keeps beside the centre are added after writing."""
    return position("pupil_tracking", times, np.stack([times, times + 1], axis=1))


def add_area(path):
    with h5py.File(path, "a") as opened:
        group = opened["acquisition/EyeTracking/pupil_tracking"]
        group["area"] = np.full(len(group["timestamps"]), np.pi * 4)
    return path


def write_indexed(path, gap_in=None, neurons=3, spoil=None):
    nwb = start_file()
    ophys = nwb.create_processing_module("ophys", "imaging")
    starts, stops = trial_times()
    frames = movie(FRAMES)
    template = pynwb.image.ImageSeries(name="frames", data=frames, unit="n.a.", starting_time=0.0, rate=RATE)
    nwb.add_stimulus_template(template)
    image = pynwb.image.GrayscaleImage(name="first", data=frames[0])
    images = pynwb.base.Images(
        name="images", images=[image], order_of_images=pynwb.base.ImageReferences(name="order_of_images", data=[image])
    )
    nwb.add_stimulus_template(images)
    onsets = (starts[:, None] + np.arange(FRAMES) / RATE).ravel()
    shown = np.tile(np.arange(FRAMES, dtype=np.uint32), TRIALS)
    keep = np.arange(len(onsets)) != 10  # the film dropped a frame
    nwb.add_stimulus(
        pynwb.image.IndexSeries(
            name="clips", data=shown[keep], indexed_images=images, unit="N/A", timestamps=onsets[keep]
        )
    )
    times = np.arange(0, stops[-1] + 1, 1 / 15)
    if gap_in is not None:
        times = times[(times < starts[gap_in] + 0.3) | (times > starts[gap_in] + 1.1)]
    order = np.random.default_rng(1).permutation(len(times))  # written in the wrong order
    cells, region = rois(nwb, neurons)
    segmentation(ophys, cells)
    events = pynwb.ophys.Fluorescence(name="events")
    ophys.add(events)
    events.create_roi_response_series(
        name="deconvolved",
        data=responses_at(times, neurons)[order],
        rois=region,
        unit="n.a.",
        timestamps=times[order],
    )
    nwb.add_acquisition(series("wheel", times, 3 * times))
    nwb.add_trial_column("set", "tier")
    for trial in range(TRIALS):
        stop = starts[trial] if spoil == "stop" and trial == 3 else stops[trial]
        nwb.add_trial(start_time=starts[trial], stop_time=stop, set="validation" if trial == 7 else "training")
    return save(nwb, path)


def indexed(**changes):
    return NwbMap.model_validate(INDEXED | changes)


def layout(name, **changes):
    return read_map(ROOT / "conf" / "nwb" / f"{name}.yaml").model_copy(update=changes)


def check_responses(mouse, neurons, first_rate=1):
    starts, _ = trial_times()
    for trial in range(TRIALS):
        grid = starts[trial] + np.arange(FRAMES) / RATE
        expected = grid[None] * (first_rate + np.arange(neurons))[:, None] + 1
        np.testing.assert_allclose(mouse.load("responses", trial), expected, rtol=1e-6)


def test_microns_layout(tmp_path):
    source = write_microns(tmp_path / "a.nwb")
    tiers = import_nwb(source, tmp_path / "raw" / "mouse", layout("microns"))
    mouse = RawMouse(tmp_path / "raw" / "mouse")
    assert [trial for trial, tier in enumerate(tiers) if tier == "oracle"] == [2, 6]
    np.testing.assert_array_equal(mouse.coordinates[:, 0], [0, 1, 2, 0, 1, 0])
    starts, _ = trial_times()
    check_responses(mouse, 6)
    frames = movie(round((starts[-1] + FRAMES / RATE) * RATE) + 1)
    for trial in range(TRIALS):
        first = round(starts[trial] * RATE)
        shown = frames[first : first + FRAMES]
        np.testing.assert_array_equal(mouse.load("videos", trial), shown.transpose(1, 2, 0), f"trial {trial}")
    grid = starts[0] + np.arange(FRAMES) / RATE
    np.testing.assert_allclose(mouse.load("behavior", 0), [grid + 6, 2 * grid])  # major radius, cm/s
    np.testing.assert_allclose(mouse.load("pupil_center", 0), [grid, -grid])
    assert not verify_mouse(mouse.folder, "old").count("error")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda film: film.unlink(), "second.avi: the film of .* is missing"),
        (lambda film: film.write_bytes(b"no film"), "second.avi: not a readable film"),
        (lambda film: write_film(film, movie(3)), "second.avi: ends before frame"),
    ],
)
def test_an_unsound_film_is_named(tmp_path, damage, message):
    source = write_microns(tmp_path / "a.nwb")
    damage(tmp_path / "second.avi")
    with pytest.raises(DataError, match=message):
        import_nwb(source, tmp_path / "raw" / "mouse", layout("microns"))
    assert not list(tmp_path.glob("raw/*"))


def write_visual_coding(path, ordered=True, blank=False):
    """The layout of DANDI 000728: Images shown by an IndexSeries in a loop; epochs; a pixel mask per neuron."""
    nwb = start_file()
    ophys = nwb.create_processing_module("ophys", "imaging")
    behavior = nwb.create_processing_module("behavior", "behaviour")
    pictures = [pynwb.base.Image(name=f"Frame{index}", data=frame) for index, frame in enumerate(movie(FRAMES))]
    order = pynwb.base.ImageReferences(name="order_of_images", data=pictures[::-1])
    more = {"order_of_images": order} if ordered else {}
    images = pynwb.base.Images(name="natural_movie_one", images=pictures, **more)
    nwb.add_stimulus_template(images)
    shown = np.tile(np.arange(FRAMES, dtype=np.uint32), TRIALS)
    if blank:
        shown[3] = 2**32 - 1
    onsets = 1 + np.arange(len(shown)) / RATE
    nwb.add_stimulus(
        pynwb.image.IndexSeries(
            name="natural_movie_one_stimulus", data=shown, indexed_images=images, unit="N/A", timestamps=onsets
        )
    )
    epochs = pynwb.epoch.TimeIntervals(name="epochs", description="stimuli")
    epochs.add_column("stimulus_type", "kind")
    end = onsets[-1] + 1 / RATE
    for start, stop, kind in [(0, 1, "spontaneous"), (1, end, "natural_movie_one"), (end, end + 1, "spontaneous")]:
        epochs.add_row(start_time=start, stop_time=stop, stimulus_type=kind)
    nwb.add_time_intervals(epochs)
    times = np.arange(0, onsets[-1] + 1, 1 / 31)
    table, _ = rois(nwb, 0, masks=True)
    for neuron in range(4):
        table.add_roi(pixel_mask=[(neuron, 5, 1.0), (neuron + 2, 7, 0.5)])
    segmentation(ophys, table)
    dff = pynwb.ophys.DfOverF(name="DfOverF")
    ophys.add(dff)
    region = table.create_roi_table_region(description="all", region=list(range(4)))
    dff.create_roi_response_series(
        name="DfOverFEvents", data=responses_at(times, 4), rois=region, unit="n.a.", timestamps=times
    )
    behavior.add(pynwb.behavior.BehavioralTimeSeries(time_series=series("running_speed", times, times)))
    behavior.add(pynwb.behavior.PupilTracking(time_series=series("pupil_size", times, times + 1)))
    eye = position("pupil_location", times, np.stack([times, -times], axis=1))
    behavior.add(pynwb.behavior.EyeTracking(spatial_series=[eye]))
    return save(nwb, path)


def test_allen_layout(tmp_path):
    source = write_visual_coding(tmp_path / "a.nwb")
    tiers = import_nwb(source, tmp_path / "raw" / "mouse", layout("allen"))
    assert tiers == ["train"] * 6 + ["oracle"] * 2
    mouse = RawMouse(tmp_path / "raw" / "mouse")
    np.testing.assert_array_equal(mouse.coordinates, [[n + 1, 6, 0] for n in range(4)])
    reversed_order = movie(FRAMES)[::-1].transpose(1, 2, 0)
    for trial in range(TRIALS):
        grid = 1 + (trial * FRAMES + np.arange(FRAMES)) / RATE
        np.testing.assert_array_equal(mouse.load("videos", trial), reversed_order)
        np.testing.assert_allclose(mouse.load("behavior", trial), [grid + 1, grid])
        np.testing.assert_allclose(mouse.load("responses", trial)[3], 4 * grid + 1)


def test_images_without_an_order_follow_the_numbers_in_their_names(tmp_path):
    source = write_visual_coding(tmp_path / "a.nwb", ordered=False)
    import_nwb(source, tmp_path / "raw" / "mouse", layout("allen"))
    mouse = RawMouse(tmp_path / "raw" / "mouse")
    np.testing.assert_array_equal(mouse.load("videos", 1), movie(FRAMES).transpose(1, 2, 0))


def test_a_blank_screen_is_refused_or_grey(tmp_path):
    source, mapping = write_visual_coding(tmp_path / "a.nwb", blank=True), layout("allen")
    with pytest.raises(DataError, match="image 4294967295, but there are 45"):
        import_nwb(source, tmp_path / "raw" / "mouse", mapping)
    grey = mapping.model_copy(update={"movie": mapping.movie.model_copy(update={"blank": 127})})
    epochs = TrialsMap(table="intervals/epochs", where={"stimulus_type": "natural_movie_one"}, longest=FRAMES / RATE)
    tiers = import_nwb(source, tmp_path / "raw" / "mouse", grey.model_copy(update={"trials": epochs}))
    assert len(tiers) == TRIALS
    video = RawMouse(tmp_path / "raw" / "mouse").load("videos", 0)
    assert (video[..., 3] == 127).all()
    np.testing.assert_array_equal(np.delete(video, 3, -1), np.delete(movie(FRAMES)[::-1].transpose(1, 2, 0), 3, -1))


def test_a_table_with_a_row_per_frame(tmp_path):
    source = add_area(write_table(tmp_path / "a.nwb"))
    tiers = import_nwb(source, tmp_path / "raw" / "mouse", NwbMap.model_validate(TABLE))
    assert tiers == ["train"] * 6 + ["oracle"] * 2
    mouse = RawMouse(tmp_path / "raw" / "mouse")
    check_responses(mouse, 4)
    np.testing.assert_array_equal(mouse.coordinates, [[n, 2, 0] for n in range(4)])
    np.testing.assert_allclose(mouse.load("behavior", 0)[0], 4.0)
    assert mouse.load("videos", 0).shape == (*SHAPE, FRAMES)
    assert np.abs(mouse.load("videos", 0) - movie(FRAMES).transpose(1, 2, 0)).mean() < 40


def test_an_index_with_wrong_order_and_a_dropped_frame(tmp_path):
    tiers = import_nwb(write_indexed(tmp_path / "a.nwb"), tmp_path / "raw" / "mouse", indexed())
    assert tiers == ["train"] * 7 + ["oracle"]
    mouse = RawMouse(tmp_path / "raw" / "mouse")
    check_responses(mouse, 3)
    expected = movie(FRAMES).transpose(1, 2, 0)
    np.testing.assert_array_equal(mouse.load("videos", 1), expected)
    np.testing.assert_array_equal(mouse.load("videos", 0)[..., 10], expected[..., 9])
    assert (mouse.load("behavior", 0)[0] == 1).all()
    assert (mouse.load("pupil_center", 0) == 0).all()


def test_a_gap_makes_the_trial_unusable_or_is_refused(tmp_path):
    source = write_indexed(tmp_path / "a.nwb", gap_in=2)
    tiers = import_nwb(source, tmp_path / "raw" / "mouse", indexed())
    assert [trial for trial, tier in enumerate(tiers) if tier == "none"] == [2]
    assert RawMouse(tmp_path / "raw" / "mouse").valid_length(2, labelled=True) < 15
    with pytest.raises(DataError, match=r"trial 2: a gap of more than 0\.5 s in responses"):
        import_nwb(source, tmp_path / "raw" / "other", indexed(on_gap="refuse"))
    assert sorted(path.name for path in (tmp_path / "raw").iterdir()) == ["mouse"]
    bridged = import_nwb(source, tmp_path / "raw" / "bridged", indexed(max_gap=2.0))
    assert "none" not in bridged


def test_a_folder_joins_files_of_the_same_neurons(tmp_path):
    (tmp_path / "day").mkdir()
    write_indexed(tmp_path / "day" / "a.nwb")
    write_indexed(tmp_path / "day" / "b.nwb")
    assert len(import_nwb(tmp_path / "day", tmp_path / "raw" / "mouse", indexed())) == 2 * TRIALS
    write_indexed(tmp_path / "day" / "c.nwb", neurons=4)
    with pytest.raises(DataError, match=r"c.nwb: other neurons than in a.nwb"):
        import_nwb(tmp_path / "day", tmp_path / "raw" / "other", indexed())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"responses": ["processing/ophys/events/spikes"]}, "no processing/ophys/events/spikes; .* holds: deconvolved"),
        ({"positions": ["x", "y", "depth"]}, "no processing/ophys/ImageSegmentation/PlaneSegmentation/depth"),
    ],
)
def test_what_a_file_lacks_is_named(tmp_path, change, message):
    source = write_indexed(tmp_path / "a.nwb")
    with pytest.raises(DataError, match=message):
        import_nwb(source, tmp_path / "raw" / "mouse", indexed(**change))
    assert not (tmp_path / "raw" / "mouse").exists()


def test_an_empty_trial_and_a_foreign_file_are_refused(tmp_path):
    with pytest.raises(DataError, match="intervals/trials: row 3 lasts"):
        import_nwb(write_indexed(tmp_path / "a.nwb", spoil="stop"), tmp_path / "mouse", indexed())
    (tmp_path / "text.nwb").write_text("no HDF5", encoding="utf-8")
    with pytest.raises(DataError, match=r"text.nwb: not a readable NWB file"):
        import_nwb(tmp_path / "text.nwb", tmp_path / "mouse", indexed())
    with pytest.raises(DataError, match="no NWB file"):
        import_nwb(tmp_path / "absent.nwb", tmp_path / "mouse", indexed())


def test_a_mapping_with_unknown_keys_is_refused(tmp_path):
    tree = yaml.safe_load((ROOT / "conf" / "nwb" / "lab.yaml").read_text(encoding="utf-8")) | {"pupill": None}
    (tmp_path / "map.yaml").write_text(yaml.safe_dump(tree), encoding="utf-8")
    with pytest.raises(ConfigError, match="pupill"):
        read_map(tmp_path / "map.yaml")


def test_a_value_without_tier_is_refused():
    with pytest.raises(DataError, match="no tier for set 'other'"):
        assign_tiers(["training", "other"], indexed().tier)


def test_the_command_writes_below_the_raw_folder_and_replaces_nothing(tmp_path, capsys):
    source, mapping = write_indexed(tmp_path / "a.nwb"), tmp_path / "map.yaml"
    mapping.write_text(yaml.safe_dump(INDEXED), encoding="utf-8")
    config, paths = make_config(), Paths(tmp_path)
    command.run(config, paths, Path(source), "animal", mapping, frame_size="18x32")
    assert "8 trials (1 oracle, 7 train)" in capsys.readouterr().err
    assert RawMouse(config.raw_folder(tmp_path) / "animal").load("videos", 0).shape == (18, 32, FRAMES)
    with pytest.raises(DataError, match="already there"):
        command.run(config, paths, Path(source), "animal", mapping)
    with pytest.raises(ConfigError, match="cannot name a folder"):
        command.run(config, paths, Path(source), "../animal", mapping)
    with pytest.raises(ConfigError, match="not a size"):
        command.run(config, paths, Path(source), "other", mapping, frame_size="18")


def test_the_sample_of_a_laboratory_is_valid_and_comes_back(tmp_path):
    source = tmp_path / "lab.nwb"
    synthesize_nwb.run(source, neurons=6, trials=16, seed=3)
    assert list(inspect_nwbfile(source)) == []
    with pytest.raises(DataError, match="already there"):
        synthesize_nwb.run(source, neurons=6, trials=16, seed=3)
    tiers = import_nwb(source, tmp_path / "raw" / "mouse", layout("lab"))
    recipe = sample_recipe(6, 16, 3)
    simulation, plan = Simulation(recipe), recipe.plan()
    shown = [trial for trial, video in enumerate(plan) if video.tier in ("train", "oracle")]
    lost = [number for number, tier in enumerate(tiers) if tier == "none"]
    assert len(tiers) == 16
    assert 8 in lost  # the scan was interrupted
    mouse, videos, states, correlations = RawMouse(tmp_path / "raw" / "mouse"), [], [], []
    np.testing.assert_array_equal(mouse.unit_ids, simulation.unit_ids)
    np.testing.assert_allclose(mouse.coordinates, simulation.coordinates)
    for number, trial in enumerate(shown):
        if number not in lost:
            assert tiers[number] == plan[trial].tier
            true, length = simulation.trial(trial), mouse.valid_length(number, labelled=True)
            assert length == len(true.movie)
            imported = mouse.load("videos", number)[..., :length]
            videos.append((imported == true.movie.transpose(1, 2, 0)).all(axis=(0, 1)).mean())
            found = mouse.load("behavior", number)[:, :length]
            states.append(np.abs(found - true.behavior.channels).mean(axis=1) / np.ptp(true.behavior.channels, axis=1))
            pairs = zip(mouse.load("responses", number)[:, :length], true.responses, strict=True)
            correlations += [np.corrcoef(*pair)[0, 1] for pair in pairs]
    assert np.mean(videos) > 0.98  # but for dropped frames
    assert np.max(states) < 0.05
    assert np.median(correlations) > 0.7  # the scan is half as fast as the simulation
