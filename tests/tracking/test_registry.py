import hashlib
import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from dvc_objects.fs import generic, localfs

from sensorium.commands import restore
from sensorium.errors import PredictionError, TrackingError
from sensorium.files import write_json
from sensorium.registry.manifest import PAIR, STUDENT, TEACHER
from sensorium.registry.pair import load_pair, pinned_weights, register_pair
from sensorium.stages import register
from sensorium.tracking import start_training_run


def versions(project, name):
    return sorted(int(v.version) for v in project.store.client().search_model_versions(f"name = '{name}'"))


def cached_object(project, path):
    digest = hashlib.md5(path.read_bytes()).hexdigest()
    return project.paths.root / ".dvc" / "cache" / "files" / "md5" / digest[:2] / digest[2:]


def forget_copies(project):
    """As on another machine: nothing of a version was loaded before."""
    shutil.rmtree(project.paths.state / "registry", ignore_errors=True)


@pytest.fixture
def registered(trained):
    register.run(trained.config, trained.paths)
    return trained


def test_the_pin_names_versions_and_digests_and_no_run(registered):
    pin = json.loads(registered.paths.pair_pin.read_text())
    assert pin["pair"]["name"] == PAIR
    assert {role: entry["name"] for role, entry in pin["models"].items()} == {"teacher": TEACHER, "student": STUDENT}
    assert pin["models"]["teacher"]["version"] == 1
    files = pin["models"]["teacher"]["files"]
    assert {path for path in files if path.endswith("safetensors")} == {f"fold_{k}/model.safetensors" for k in range(3)}
    assert "run" not in registered.paths.pair_pin.read_text()


def test_equal_content_keeps_its_versions_and_its_pin(registered):
    pin = registered.paths.pair_pin
    before = pin.read_bytes()
    pin.with_name(f".{pin.name}.0a1b2c3d.partial").touch()  # of a run that was killed
    register.run(registered.config, registered.paths)
    assert pin.read_bytes() == before
    assert [path.name for path in pin.parent.iterdir()] == [pin.name]
    assert [versions(registered, name) for name in (TEACHER, STUDENT, PAIR)] == [[1], [1], [1]]


def test_fitted_weights_are_pinned_and_make_a_version_of_the_pair(registered):
    assert pinned_weights(registered.paths.pair_pin) is None
    before = registered.paths.pair_pin.read_bytes()
    ensemble = registered.config.ensemble.model_copy(update={"weights": "fitted"})
    fitted = registered.config.model_copy(update={"ensemble": ensemble})
    weights = {"distillation_001": 0.75, "true_batch_001": 0.25}
    with pytest.raises(PredictionError, match=r"weights\.json: the file does not exist"):
        register.run(fitted, registered.paths)
    write_json(registered.paths.evaluation / "weights.json", {"method": "fitted", "weights": weights})
    register.run(fitted, registered.paths)
    assert pinned_weights(registered.paths.pair_pin) == weights
    assert [versions(registered, name) for name in (TEACHER, STUDENT, PAIR)] == [[1], [1], [1, 2]]
    register.run(registered.config, registered.paths)
    assert registered.paths.pair_pin.read_bytes() == before


def test_pinned_weights_that_are_none(registered):
    pin = json.loads(registered.paths.pair_pin.read_text())
    write_json(registered.paths.pair_pin, pin | {"weights": {"distillation_001": 2.0, "true_batch_001": -1.0}})
    with pytest.raises(PredictionError, match=r"-1\.0 is no weight for true_batch_001"):
        pinned_weights(registered.paths.pair_pin)
    write_json(registered.paths.pair_pin, pin | {"weights": {"distillation_001": 1.0}})
    with pytest.raises(TrackingError, match="weights of distillation_001, not of the pair"):
        pinned_weights(registered.paths.pair_pin)


def test_other_weights_make_a_version_of_their_model_and_of_the_pair(registered):
    registered.train("distillation_001", seed=1)
    register.run(registered.config, registered.paths)
    assert [versions(registered, name) for name in (TEACHER, STUDENT, PAIR)] == [[1], [1, 2], [1, 2]]


def test_registering_in_parallel_makes_one_version(trained):
    with ThreadPoolExecutor(4) as pool:
        pins = list(pool.map(lambda _: register_pair(trained.config, trained.paths), range(4)))
    assert len({pin.pair.version for pin in pins}) == 1
    assert versions(trained, PAIR) == [1]


def test_the_pair_loads_from_the_registry_and_not_from_the_training_folders(registered):
    wanted = registered.paths.fold("true_batch_001", 1).joinpath("model.safetensors").read_bytes()
    shutil.rmtree(registered.paths.experiments)
    pair = load_pair(registered.paths.pair_pin, registered.paths)
    assert set(pair) == {"true_batch_001", "distillation_001"}
    assert [folder.name for folder in pair["true_batch_001"]] == ["fold_0", "fold_1", "fold_2"]
    assert pair["true_batch_001"][1].joinpath("model.safetensors").read_bytes() == wanted


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_bytes(b"other weights")])
def test_a_lost_or_damaged_weight_is_refused_and_mended_by_restore(registered, damage):
    forget_copies(registered)
    cached = cached_object(registered, registered.paths.fold("true_batch_001", 2) / "model.safetensors")
    cached.chmod(0o644)
    damage(cached)
    told = r"sensorium-teacher version 1: fold_2/model\.safetensors: neither in DVC's cache at .* nor in a remote"
    with pytest.raises(TrackingError, match=told) as told:
        load_pair(registered.paths.pair_pin, registered.paths)
    assert "`dvc push`" in told.value.remedy
    assert "`sensorium registry restore`" in told.value.remedy
    restore.run(registered.config, registered.paths)
    assert load_pair(registered.paths.pair_pin, registered.paths)
    assert versions(registered, TEACHER) == [1]


def test_a_damaged_link_to_a_weight_is_made_anew(registered):
    weights = load_pair(registered.paths.pair_pin, registered.paths)["distillation_001"][0] / "model.safetensors"
    content = weights.read_bytes()
    weights.unlink()
    weights.write_bytes(b"other weights")
    load_pair(registered.paths.pair_pin, registered.paths)
    assert weights.read_bytes() == content


def test_versions_of_earlier_releases_go_on_to_load_and_are_mended(trained, register_copies):
    register_copies(trained)
    register.run(trained.config, trained.paths)
    assert [versions(trained, name) for name in (TEACHER, STUDENT, PAIR)] == [[1], [1], [1]]
    weights = load_pair(trained.paths.pair_pin, trained.paths)["true_batch_001"][2] / "model.safetensors"
    assert weights.is_relative_to(trained.paths.root / "mlartifacts")
    weights.write_bytes(b"other weights")
    with pytest.raises(
        TrackingError, match=r"sensorium-teacher version 1.*fold_2/model.safetensors is damaged"
    ) as told:
        load_pair(trained.paths.pair_pin, trained.paths)
    assert "sensorium registry restore" in told.value.remedy
    restore.run(trained.config, trained.paths)
    assert load_pair(trained.paths.pair_pin, trained.paths)
    assert versions(trained, TEACHER) == [1]
    weights.unlink()
    with pytest.raises(TrackingError, match=r"fold_2/model\.safetensors is missing"):
        load_pair(trained.paths.pair_pin, trained.paths)
    assert not (trained.paths.root / ".dvc").exists()


@pytest.mark.parametrize("name", [TEACHER, STUDENT, PAIR])
def test_a_deleted_version_is_refused_and_found_by_digest_after_restore(registered, name):
    registered.store.client().delete_model_version(name, "1")
    with pytest.raises(TrackingError, match=f"{name} version 1: not in the model registry") as told:
        load_pair(registered.paths.pair_pin, registered.paths)
    assert "sensorium registry restore" in told.value.remedy
    restore.run(registered.config, registered.paths)
    assert load_pair(registered.paths.pair_pin, registered.paths)


def test_a_lost_store_is_rebuilt_and_the_old_pin_holds(registered, fresh_database):
    registered.train("true_batch_001", seed=5)
    register.run(registered.config, registered.paths)  # teacher and pair are at version 2
    pin = registered.paths.pair_pin.read_bytes()
    shutil.copyfile(fresh_database, registered.paths.root / "mlflow.db")
    shutil.rmtree(registered.paths.root / "mlartifacts")
    with pytest.raises(TrackingError, match="not in the model registry"):
        load_pair(registered.paths.pair_pin, registered.paths)
    restore.run(registered.config, registered.paths)
    assert versions(registered, PAIR) == [1]
    assert load_pair(registered.paths.pair_pin, registered.paths)
    assert registered.paths.pair_pin.read_bytes() == pin


def test_restore_refuses_folds_that_are_not_those_of_the_pin(registered):
    registered.train("true_batch_001", seed=9)
    with pytest.raises(TrackingError, match="not those that the pin names") as told:
        restore.run(registered.config, registered.paths)
    assert "dvc checkout" in told.value.remedy


def test_a_version_that_holds_something_else_does_not_serve_the_pin(registered):
    client = registered.store.client()
    client.set_model_version_tag(TEACHER, "1", "sensorium.digest", "0" * 64)
    with pytest.raises(TrackingError, match="sensorium-teacher version 1"):
        load_pair(registered.paths.pair_pin, registered.paths)


@pytest.mark.parametrize("content", [b"", b"other weights"])
def test_damaged_weights_are_refused_and_nothing_is_registered(trained, content):
    (trained.paths.fold("true_batch_001", 1) / "model.safetensors").write_bytes(content)
    with pytest.raises(TrackingError, match=r"fold_1/model\.safetensors: its SHA-256 is not the one in config\.json"):
        register_pair(trained.config, trained.paths)
    assert trained.store.client().search_registered_models() == []


def test_a_description_that_links_to_nowhere_is_refused(trained):
    path = trained.paths.fold("true_batch_001", 1) / "config.json"
    path.unlink()
    path.symlink_to("nowhere")
    with pytest.raises(TrackingError, match=r"fold_1/config\.json: the file does not exist"):
        register_pair(trained.config, trained.paths)


def test_an_untrained_fold_is_refused_and_nothing_is_registered(trained):
    shutil.rmtree(trained.paths.fold("true_batch_001", 1))
    with pytest.raises(TrackingError, match=r"fold_1: the fold is not trained") as told:
        register.run(trained.config, trained.paths)
    assert "dvc repro train@true_batch_001-1" in told.value.remedy
    assert not trained.paths.pair_pin.exists()
    assert versions(trained, TEACHER) == []


def test_missing_scores_are_refused(trained):
    (trained.paths.evaluation / "metrics.json").unlink()
    with pytest.raises(TrackingError, match=r"metrics.json: the file does not exist") as told:
        register.run(trained.config, trained.paths)
    assert "dvc repro evaluate" in told.value.remedy


@pytest.mark.parametrize("text", ["{}", "[]", "nonsense", '{"pair": {}, "models": {}}'])
def test_a_foreign_pin_is_refused(registered, text):
    registered.paths.pair_pin.write_text(text)
    with pytest.raises(TrackingError, match=r"pair\.json"):
        load_pair(registered.paths.pair_pin, registered.paths)


def test_a_forged_pin_is_refused(registered):
    pin = json.loads(registered.paths.pair_pin.read_text())
    pin["models"]["teacher"]["files"]["fold_0/model.safetensors"] = "0" * 64
    registered.paths.pair_pin.write_text(json.dumps(pin))
    with pytest.raises(TrackingError, match="does not fit its files"):
        load_pair(registered.paths.pair_pin, registered.paths)
    write_json(registered.paths.pair_pin, pin | {"surplus": 1})
    with pytest.raises(TrackingError, match=r"pair\.json: .*surplus: Extra inputs are not permitted"):
        load_pair(registered.paths.pair_pin, registered.paths)


def test_an_unreachable_server_is_told_without_a_traceback(trained, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(TrackingError, match="MLflow") as told:
        register.run(trained.config, trained.paths)
    assert "MLFLOW_TRACKING_URI" in told.value.remedy
    assert not trained.paths.pair_pin.exists()


def test_weights_are_stored_once_in_dvcs_cache(registered):
    """DVC keeps its objects read-only, so that a link to one cannot be written through."""
    source = registered.paths.fold("true_batch_001", 0) / "model.safetensors"
    cached = cached_object(registered, source)
    placed = load_pair(registered.paths.pair_pin, registered.paths)["true_batch_001"][0] / "model.safetensors"
    here = (localfs, str(registered.paths.root))
    assert placed.samefile(cached) or generic.test_links(["reflink"], *here, *here)
    assert not cached.stat().st_mode & 0o222
    assert not placed.samefile(source)
    assert not list(registered.paths.root.glob("mlartifacts/**/*.safetensors"))
    with source.open("r+b") as stream:  # an edit of the output reaches no registered version
        stream.write(b"XXXX")
    assert load_pair(registered.paths.pair_pin, registered.paths)


def runs(project, experiment):
    client = project.store.client()
    found = client.get_experiment_by_name("sensorium-demo")
    return client.search_runs([found.experiment_id], f"tags.`sensorium.experiment` = '{experiment}'")


def test_scores_stand_on_runs_versions_and_the_parent(trained):
    client = trained.store.client()
    experiment = trained.store.experiment_id(client, "sensorium-demo")
    tags = {"sensorium.role": "experiment", "sensorium.experiment": "true_batch_001"}
    parent = client.create_run(experiment, tags=tags).info.run_id
    fold = client.create_run(experiment, tags={"mlflow.parentRunId": parent}).info.run_id
    for number, run_id in enumerate([fold, None, "0" * 32]):  # told, waiting on disk, lost
        write_json(trained.paths.run_link("true_batch_001", number), {"run_id": run_id, "journal": None})
    for _ in range(2):  # the second time nothing is new
        register.run(trained.config, trained.paths)
    (evaluation,) = [run for run in runs(trained, "true_batch_001") if run.info.run_name == "evaluation"]
    assert evaluation.data.tags["mlflow.parentRunId"] == parent
    assert evaluation.data.metrics["oof/single_trial_correlation"] == pytest.approx(0.28)
    assert evaluation.data.metrics["oof/single_trial_correlation/29515-10-12"] == pytest.approx(0.28)
    assert client.get_run(parent).data.metrics["oof/single_trial_correlation"] == pytest.approx(0.28)
    assert len(client.get_metric_history(parent, "oof/single_trial_correlation")) == 1
    (ensemble,) = runs(trained, "distillation_001,true_batch_001")
    assert ensemble.info.run_name == "ensemble"
    held = {
        part: [entry.path for entry in client.list_artifacts(ensemble.info.run_id, part)] for part in ("", "figures")
    }
    assert held[""] == ["figures", "metrics.json", "model_card.md"]
    assert held["figures"] == ["figures/learning_curves.png", "figures/scores.png"]
    assert ensemble.data.metrics["oof/published_variant"] == pytest.approx(0.3)
    assert "Mean of the predictions of distillation_001 and true_batch_001" in ensemble.data.tags["mlflow.note.content"]
    card = client.get_model_version(PAIR, "1").description
    assert "| single trial correlation | 0.2800 | 0.2900 | 0.3000 |" in card
    model = client.get_logged_model(client.get_model_version(PAIR, "1").source.split("/")[-2])
    assert {metric.key for metric in model.metrics} >= {"oof/single_trial_correlation"}


def test_a_row_tells_score_and_difference_with_intervals(trained):
    """The student is 0.02 better on every mouse and fold; the folds lie 0.01 apart."""
    rows = ["source,mouse,fold,tier,single_trial_correlation"]
    for source, value in (("true_batch_001", 0.28), ("distillation_001", 0.30)):
        for fold in range(3):
            rows += [
                f"{source},{mouse},{fold},all,{value + fold / 100}" for mouse in (*trained.config.dataset.mice, "all")
            ]
    (trained.paths.evaluation / "scores.csv").write_text("\n".join(rows) + "\n")
    register.run(trained.config, trained.paths)
    (student,) = runs(trained, "distillation_001")
    half = 4.302653 * 0.01 / 3**0.5  # Student's t, 2 degrees of freedom
    told = {key: value for key, value in student.data.metrics.items() if key.startswith("score")}
    assert told == pytest.approx(
        {
            "score": 0.29,
            "score/ci_low": 0.29 - half,
            "score/ci_high": 0.29 + half,
            "score/vs_true_batch_001": 0.02,
            "score/vs_true_batch_001/ci_low": 0.02,
            "score/vs_true_batch_001/ci_high": 0.02,
        },
        abs=1e-4,
    )
    assert "Difference to true_batch_001: +0.0200 [+0.0200, +0.0200]." in student.data.tags["mlflow.note.content"]
    (teacher,) = runs(trained, "true_batch_001")
    assert {key for key in teacher.data.metrics if key.startswith("score")} == {
        "score",
        "score/ci_low",
        "score/ci_high",
    }


def test_scores_of_another_evaluation_replace_those_of_a_row(trained, inline):
    for fold in range(3):
        run = start_training_run(trained.config, trained.paths, "true_batch_001", fold, f"{fold}" * 64)
        run.close("FINISHED")
    register.run(trained.config, trained.paths)
    trained.score(0.4)
    register.run(trained.config, trained.paths)
    (row,) = [run for run in runs(trained, "true_batch_001") if run.data.tags["sensorium.role"] == "experiment"]
    assert row.data.metrics["score"] == row.data.metrics["oof/single_trial_correlation"] == pytest.approx(0.38)
    assert "Score **0.380" in row.data.tags["mlflow.note.content"]


def link(project, fold, **content):
    write_json(project.paths.run_link("true_batch_001", fold), {"run_id": None, "journal": None, **content})


def test_pulled_folds_are_registered_with_what_is_known_of_their_training(trained):
    """Their runs are in the store of whoever trained them."""
    link(trained, 0, tracking_uri="sqlite:///mlflow.db", run_id="a" * 32)
    link(trained, 1, tracking_uri="http://elsewhere:5000", run_id="b" * 32)
    link(trained, 2, source="published weights")
    register.run(trained.config, trained.paths)
    tags = trained.store.client().get_model_version(TEACHER, "1").tags
    assert tags["sensorium.trained"] == "elsewhere"
    assert tags["sensorium.runs"] == f"fold_0: {'a' * 32}, fold_1: {'b' * 32}, fold_2: published weights"
    (evaluation,) = runs(trained, "true_batch_001")
    assert evaluation.data.tags["sensorium.trained"] == "elsewhere"
    assert "mlflow.parentRunId" not in evaluation.data.tags
    restore.run(trained.config, trained.paths)
    assert load_pair(trained.paths.pair_pin, trained.paths)


@pytest.mark.parametrize("text", ["[]", "no JSON"])
def test_a_damaged_link_is_told(trained, text):
    path = trained.paths.run_link("true_batch_001", 0)
    path.parent.mkdir(parents=True)
    path.write_text(text)
    with pytest.raises(TrackingError, match=r"fold_0\.json") as told:
        register.run(trained.config, trained.paths)
    assert "dvc pull" in told.value.remedy
    assert not trained.paths.pair_pin.exists()


def test_restore_records_the_trainings_of_pulled_folds_again(trained, inline):
    """From the histories of the folds, under a parent, once; the links on disk stay as they are."""
    for experiment in ("true_batch_001", "distillation_001"):
        for fold in range(3):
            rows = [f"{epoch},1.0,{epoch / 10 + fold / 100}\n" for epoch in range(2)]
            history = trained.paths.fold(experiment, fold) / "history.csv"
            history.write_text("epoch,train_loss,val_correlation\n" + "".join(rows))
            link = {"tracking_uri": "sqlite:///mlflow.db", "run_id": f"{fold}" * 32}
            write_json(trained.paths.run_link(experiment, fold), link)
    register.run(trained.config, trained.paths)
    for _ in range(2):
        restore.run(trained.config, trained.paths)
    found = runs(trained, "true_batch_001")
    folds = [run for run in found if run.data.tags["sensorium.role"] == "fold"]
    (parent,) = [run for run in found if run.data.tags["sensorium.role"] == "experiment"]
    assert "sensorium.rebuilt_from" not in parent.data.tags
    assert sorted(run.info.run_name for run in folds) == ["fold_0", "fold_1", "fold_2"]
    for run in folds:
        fold = int(run.data.tags["sensorium.fold"])
        assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
        assert run.data.tags["sensorium.rebuilt_from"] == f"{fold}" * 32
        assert "sensorium.hardware" not in run.data.tags
        curve = trained.store.client().get_metric_history(run.info.run_id, "val/correlation")
        assert [point.value for point in curve] == [fold / 100, 0.1 + fold / 100]
    assert parent.data.metrics["val/correlation/mean"] == pytest.approx(0.11)
    assert parent.data.metrics["oof/single_trial_correlation"] == pytest.approx(0.28)


def test_weights_are_found_by_their_digest(registered):
    from sensorium.files import sha256
    from sensorium.registry.pair import find_weights

    digest = sha256(registered.paths.fold("distillation_001", 2) / "model.safetensors")
    found = find_weights(registered.paths, "distillation_001", 2, digest)
    assert found is not None
    assert sha256(found) == digest
    assert registered.paths.experiments not in found.parents
    assert find_weights(registered.paths, "distillation_001", 1, digest) is None
    forget_copies(registered)  # a version that is lost is nothing to compare with
    cached_object(registered, registered.paths.fold("distillation_001", 2) / "model.safetensors").unlink()
    assert find_weights(registered.paths, "distillation_001", 2, digest) is None


@pytest.mark.parametrize(
    "content", ["{}", "[]", '{"mice": {}}', '{"single_trial_correlation": {"a": "b"}, "mice": {}}']
)
def test_scores_of_another_form_are_named_and_no_pair_is_registered(trained, content):
    file = trained.paths.evaluation / "metrics.json"
    file.write_text(content)
    with pytest.raises(TrackingError, match=r"metrics\.json: holds no single_trial_correlation"):
        register.run(trained.config, trained.paths)
    assert not trained.paths.pair_pin.exists()
