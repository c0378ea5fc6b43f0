"""Responses to a video of one's own: any size and rate, and what is refused."""

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from sensorium.commands import predict_video as respond
from sensorium.errors import PredictionError, TrackingError
from sensorium.inference.video import read_clip, resample
from sensorium.model import checkpoint
from sensorium.model.dwiseneuro import DwiseNeuro

STUDENT = "distillation_001"


def write_gif(path, frames, milliseconds):
    pictures = [Image.fromarray(frame.astype(np.uint8)) for frame in frames]
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=milliseconds, loop=0)
    return path


@pytest.fixture
def levels():
    """Twelve frames of one grey level each."""
    return np.full((12, 20, 40), 20.0) + 15 * np.arange(12)[:, None, None]


def test_an_array_is_shown_frame_by_frame(tmp_path, levels):
    np.save(tmp_path / "clip.npy", levels)
    shown = resample(read_clip(tmp_path / "clip.npy", None), (20, 40))
    np.testing.assert_array_equal(shown, levels)


def test_a_slower_video_shows_each_frame_for_longer(tmp_path, levels):
    path = write_gif(tmp_path / "clip.gif", levels, 100)
    shown = resample(read_clip(path, None), (20, 40))
    assert len(shown) == 36
    np.testing.assert_allclose(shown[:, 10, 10], np.repeat(levels[:, 10, 10], 3), atol=1)


def test_a_faster_video_drops_frames(tmp_path, levels):
    np.save(tmp_path / "clip.npy", levels)
    shown = resample(read_clip(tmp_path / "clip.npy", 60), (20, 40))
    np.testing.assert_array_equal(shown[:, 0, 0], levels[1::2, 0, 0])


def test_another_size_is_cut_to_the_aspect_and_scaled(tmp_path):
    wide = np.zeros((2, 40, 160))
    wide[:, :, 40:120] = 100  # the middle half has the aspect of the recordings
    np.save(tmp_path / "clip.npy", wide)
    shown = resample(read_clip(tmp_path / "clip.npy", None), (20, 40))
    assert shown.shape == (2, 20, 40)
    np.testing.assert_allclose(shown, 100, rtol=1e-5)


def test_colours_become_grey(tmp_path):
    np.save(tmp_path / "clip.npy", np.full((3, 4, 4, 3), [255, 0, 0]))
    np.testing.assert_allclose(read_clip(tmp_path / "clip.npy", None).frames, 255 * 0.299, rtol=1e-5)


def test_a_film(tmp_path, levels):
    av = pytest.importorskip("av", reason="films need the extra `video`")
    with av.open(str(tmp_path / "clip.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height = 40, 20
        for level in levels:
            frame = av.VideoFrame.from_ndarray(np.repeat(level[..., None], 3, -1).astype(np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    shown = resample(read_clip(tmp_path / "clip.mp4", None), (20, 40))
    assert len(shown) == 36
    np.testing.assert_allclose(shown[:, 10, 10], np.repeat(levels[:, 10, 10], 3), atol=12)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((5, 4)), "shape"),
        (np.full((5, 4, 4), 300.0), "values from 300 to 300"),
        (np.full((5, 4, 4), -1.0), "grey levels from 0 to 255"),
        (np.full((5, 4, 4), np.nan), "values from nan"),
        (np.zeros((0, 4, 4)), "no frame"),
    ],
)
def test_arrays_that_are_no_video(tmp_path, array, message):
    np.save(tmp_path / "clip.npy", array)
    with pytest.raises(PredictionError, match=message):
        read_clip(tmp_path / "clip.npy", None)


def test_damaged_and_missing_videos(tmp_path):
    with pytest.raises(PredictionError, match="does not exist"):
        read_clip(tmp_path / "none.gif", None)
    (tmp_path / "clip.gif").write_bytes(b"GIF89a")
    with pytest.raises(PredictionError, match=r"not a readable \.gif"):
        read_clip(tmp_path / "clip.gif", None)
    (tmp_path / "clip.npy").write_bytes(b"nothing")
    with pytest.raises(PredictionError, match=r"not a readable \.npy"):
        read_clip(tmp_path / "clip.npy", None)


@pytest.fixture
def registered(tiny_config, project, stores, monkeypatch):
    """Two folds of a student, as the registry hands them over."""
    settings = tiny_config.experiments[STUDENT].model
    neurons = {store.name: store.neurons for store in stores}
    for fold in (0, 1):
        torch.manual_seed(fold)
        info = checkpoint.ModelInfo(
            experiment=STUDENT, fold=fold, model=settings, window=tiny_config.window, mice=neurons
        )
        checkpoint.save(project.fold(STUDENT, fold), DwiseNeuro(settings, list(neurons.values())), info)
    monkeypatch.setattr(respond, "load_pair", lambda pin, paths: {STUDENT: [paths.fold(STUDENT, k) for k in (0, 1)]})
    return project


def test_responses_of_every_neuron_are_written(registered, tiny_config, stores, levels, tmp_path):
    video = write_gif(tmp_path / "clip.gif", levels, 100)
    respond.run(tiny_config, registered, video, stores[0].name, output=tmp_path / "out")
    responses = np.load(tmp_path / "out" / "responses.npy")
    assert responses.shape == (stores[0].neurons, 36)
    assert (responses >= 0).all()
    table = pd.read_parquet(tmp_path / "out" / "responses.parquet")
    assert table.columns.tolist() == ["seconds", *map(str, stores[0].unit_ids)]
    np.testing.assert_array_equal(table.to_numpy()[:, 1:].T, responses)
    assert (tmp_path / "out" / "responses.png").stat().st_size > 10_000


def test_behaviour_matters_and_is_checked(registered, tiny_config, stores, levels, tmp_path):
    np.save(tmp_path / "clip.npy", np.tile(levels, (4, 1, 1)))
    video, mouse = tmp_path / "clip.npy", stores[0].name
    respond.run(tiny_config, registered, video, mouse, output=tmp_path / "means")
    np.save(tmp_path / "behavior.npy", np.full((4, 48), 50.0))
    respond.run(tiny_config, registered, video, mouse, tmp_path / "behavior.npy", output=tmp_path / "running")
    assert not np.allclose(*(np.load(tmp_path / name / "responses.npy") for name in ("means", "running")))
    for bad in (np.zeros((4, 47)), np.zeros((3, 48)), np.full((4, 48), np.nan)):
        np.save(tmp_path / "behavior.npy", bad)
        with pytest.raises(PredictionError, match=r"shape \(4, 48\)"):
            respond.run(tiny_config, registered, video, mouse, tmp_path / "behavior.npy", output=tmp_path / "bad")
    assert not (tmp_path / "bad").exists()


def test_no_pair_is_registered(tiny_config, project, stores, levels, tmp_path):
    video = write_gif(tmp_path / "clip.gif", levels, 100)
    with pytest.raises(TrackingError, match=r"pair\.json: the file does not exist") as caught:
        respond.run(tiny_config, project, video, stores[0].name, output=tmp_path / "out")
    assert "sensorium register" in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("shape", "rate", "frames"), [((30, 60, 44), 12.5, 72), ((90, 9, 200), 60, 45)])
def test_any_size_and_rate_gives_responses_at_the_rate_of_the_recordings(
    registered, tiny_config, stores, tmp_path, shape, rate, frames
):
    np.save(tmp_path / "clip.npy", np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8))
    respond.run(tiny_config, registered, tmp_path / "clip.npy", stores[0].name, fps=rate, output=tmp_path / "out")
    assert np.load(tmp_path / "out" / "responses.npy").shape == (stores[0].neurons, frames)


def test_a_video_shorter_than_the_window(registered, tiny_config, stores, levels, tmp_path):
    np.save(tmp_path / "clip.npy", levels)
    with pytest.raises(PredictionError, match="12 frames, at least"):
        respond.run(tiny_config, registered, tmp_path / "clip.npy", stores[0].name, output=tmp_path / "out")
    assert not (tmp_path / "out").exists()
