"""Reading raw mice: what is sound is returned, what is not is named."""

from pathlib import Path

import numpy as np
import pytest

from sensorium.errors import DataError
from sensorium.mice import MODALITIES
from sensorium.recordings.raw import RawMouse


@pytest.fixture
def mouse(copy_raw, tiny_config):
    """Folder of a private old mouse."""
    name = list(tiny_config.dataset.mice)[-1]
    return copy_raw(name) / name


def rewrite(path: Path, change) -> Path:
    """Replace a .npy file by a changed version of itself."""
    np.save(path, change(np.load(path)))
    return path


def become_archive(path: Path) -> None:
    """Put an .npz in a .npy file's place."""
    array = np.load(path)
    with path.open("wb") as stream:
        np.savez(stream, array)


def become_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def test_shapes_follow_the_format(raw_dataset, tiny_config):
    settings = tiny_config.synthetic
    for name in tiny_config.dataset.mice:
        mouse = RawMouse(raw_dataset / name)
        assert mouse.name == name
        assert mouse.neurons == settings.neurons[name] == len(mouse.coordinates)
        assert mouse.unit_ids.dtype == np.uint32
        assert mouse.frame_shape == (settings.frame_height, settings.frame_width)
        assert mouse.padded_frames == settings.padded_frames
        for modality in MODALITIES:
            array = mouse.load(modality, 0)
            assert array.dtype == np.float64
            assert array.shape == mouse.shape(modality)
            np.testing.assert_array_equal(mouse.open(modality, 0), array)
            assert mouse.statistics(modality, "median").shape == mouse.shape(modality)


def test_valid_length_stops_before_the_first_nan_of_any_modality(mouse):
    raw = RawMouse(mouse)
    length = raw.valid_length(3, labelled=True)
    assert np.isnan(raw.load("responses", 3)[0]).argmax() == length

    def cut(array):
        array[..., length - 4 :] = np.nan
        return array

    rewrite(raw.file("pupil_center", 3), cut)
    assert raw.valid_length(3, labelled=True) == raw.valid_length(3, labelled=False) == length - 4


def test_withheld_responses_do_not_count(mouse):
    raw = RawMouse(mouse)
    length = raw.valid_length(0, labelled=True)
    rewrite(raw.file("responses", 0), lambda a: np.full_like(a, np.nan))
    assert raw.valid_length(0, labelled=False) == length
    with pytest.raises(DataError, match=r"responses/0.npy: not one valid frame"):
        raw.valid_length(0, labelled=True)


def test_a_trial_without_padding_is_valid_to_its_end(mouse):
    raw = RawMouse(mouse)
    for modality in MODALITIES:
        rewrite(raw.file(modality, 1), np.nan_to_num)
    assert raw.valid_length(1, labelled=True) == raw.padded_frames


def test_a_missing_mouse_is_named(tmp_path):
    with pytest.raises(DataError, match="the mouse's folder does not exist") as fault:
        RawMouse(tmp_path / "dynamic0")
    assert "dynamic0" in fault.value.problem
    assert "dataset.raw" in fault.value.remedy


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda p: p.unlink(), "does not exist"),
        (lambda p: p.write_bytes(p.read_bytes()[:-100]), "truncated"),
        (lambda p: p.write_bytes(p.read_bytes()[:30]), "truncated"),
        (lambda p: p.write_bytes(b""), "truncated"),
        (lambda p: p.write_bytes(b"<html>404</html>" * 100), "truncated, or not a .npy file"),
        (lambda p: p.write_bytes(b"PK\x03\x04" + bytes(100)), "truncated, or not a .npy file"),
        (become_archive, "truncated, or not a .npy file"),
        (become_folder, "a folder, expected a .npy file"),
        (lambda p: rewrite(p, lambda a: a.astype(np.float16)), "dtype float16, expected float64"),
        (lambda p: rewrite(p, lambda a: a.astype(np.float32)), "dtype float32, expected float64"),
        (lambda p: rewrite(p, lambda a: a[..., :-1]), "expected"),
        (lambda p: rewrite(p, lambda a: a[:-1]), "expected"),
        (lambda p: rewrite(p, lambda a: a[None]), "expected"),
        (lambda p: np.save(p, np.array([{}], dtype=object), allow_pickle=True), "truncated, or not a .npy file"),
    ],
)
@pytest.mark.parametrize("modality", MODALITIES)
def test_an_unsound_file_is_named_with_a_remedy(mouse, modality, damage, message):
    raw = RawMouse(mouse)
    path = raw.file(modality, 2)
    damage(path)
    for read in (raw.load, raw.open):
        with pytest.raises(DataError, match=message) as fault:
            read(modality, 2)
        assert str(path) in fault.value.problem
        assert fault.value.remedy
        assert "load it unsafely" not in str(fault.value)


def test_a_file_that_may_not_be_read_is_not_called_damaged(mouse, monkeypatch):
    original = np.lib.format.open_memmap

    def refuse(path, *arguments, **options):
        if path.parent.name == "behavior":
            raise PermissionError(13, "Permission denied", str(path))
        return original(path, *arguments, **options)

    monkeypatch.setattr("numpy.lib.format.open_memmap", refuse)
    with pytest.raises(DataError, match=r"behavior/2.npy: your user may not read it.\nGive your user the right"):
        RawMouse(mouse).open("behavior", 2)


def test_a_mouse_that_is_a_link_is_followed(mouse, tmp_path):
    (tmp_path / "links").symlink_to(mouse.parent)
    assert RawMouse(tmp_path / "links" / mouse.name).load("responses", 2).shape == (9, 80)


@pytest.mark.parametrize("link", ["raw", "raw/dynamic0"])
def test_a_link_to_nowhere_is_named(tmp_path, link):
    (tmp_path / link).parent.mkdir(exist_ok=True)
    (tmp_path / link).symlink_to("/not/mounted")
    with pytest.raises(DataError, match=rf"{link}: a link to /not/mounted, which does not exist.\nMount the disk"):
        RawMouse(tmp_path / "raw" / "dynamic0")


def test_responses_that_do_not_match_the_neurons_say_so(mouse):
    rewrite(mouse / "data/responses/0.npy", lambda a: a[:-2])
    with pytest.raises(DataError, match=r"responses/0.npy: shape \(7, 80\), expected \(9, 80\).*unit_ids.npy lists 9"):
        RawMouse(mouse).load("responses", 0)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("trials/tiers", np.array(["train", "tarin"]), "unknown tier 'tarin' of trial 1"),
        ("trials/tiers", np.arange(3), "expected one string per trial"),
        ("neurons/unit_ids", np.array([1, 3, 3]), "more than once"),
        ("neurons/unit_ids", np.array([-1, 3]), "no 32-bit integers"),
        ("neurons/unit_ids", np.array([2**40, 3]), "no 32-bit integers"),
        ("neurons/unit_ids", np.array([1.5, 3]), "expected one integer per neuron"),
        ("neurons/cell_motor_coordinates", np.zeros((4, 3)), r"lists 9 neurons: expected shape \(9, 3\)"),
    ],
)
def test_meta_files_are_checked_when_opening(mouse, name, value, message):
    path = mouse / "meta" / f"{name}.npy"
    np.save(path, value)
    with pytest.raises(DataError, match=message) as fault:
        RawMouse(mouse)
    assert str(path) in fault.value.problem


@pytest.mark.parametrize(
    "name", ["meta/trials/tiers.npy", "meta/neurons/unit_ids.npy", "meta/neurons/cell_motor_coordinates.npy"]
)
def test_missing_meta_files_are_named(mouse, name):
    (mouse / name).unlink()
    with pytest.raises(DataError, match=f"{name}: the file does not exist"):
        RawMouse(mouse)


def test_a_missing_modality_is_named(mouse):
    (mouse / "data/behavior").rename(mouse / "data/behaviour")
    with pytest.raises(DataError, match="data/behavior: the folder does not exist"):
        RawMouse(mouse)


def test_statistics_must_have_the_shape_of_a_trial(mouse):
    rewrite(mouse / "meta/statistics/responses/all/std.npy", lambda a: a[:, 0])
    with pytest.raises(DataError, match=r"std.npy: shape \(9,\), expected \(9, 80\)"):
        RawMouse(mouse).statistics("responses", "std")
