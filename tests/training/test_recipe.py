"""The recipe against figures of the published solution, and the rules that the figures do not show."""

import contextlib

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lightning_fabric.fabric import Fabric
from training_parity import CANVAS, NEURONS, Figures, group, parity_batch, parity_inputs, parity_model

from sensorium.config import CutMixConfig, TrainingConfig
from sensorium.published import to_published
from sensorium.training import task as task_module
from sensorium.training.learner import ExponentialMovingAverage, Learner
from sensorium.training.losses import pair_weights, poisson, weight_per_window
from sensorium.training.schedule import WarmupDecay, cosine
from sensorium.training.task import Distillation, Student, Supervised

RECIPE = TrainingConfig(
    samples_per_epoch=3,
    batch_size=3,
    iter_size=1,
    warmup_epochs=0,
    cosine_epochs=1,
    learning_rate=1e-3,
    final_learning_rate=1.0,
    weight_decay=0.05,
    ema_decay=0.9,
    cutmix=CutMixConfig(alpha=1.0, probability=0.0),
    precision="32-true",
)


@pytest.fixture
def published_input(figures: Figures, monkeypatch: pytest.MonkeyPatch) -> torch.Tensor:
    """The fixture's input, in place of the one that would be put together from the batch."""
    inputs = parity_inputs(figures)
    monkeypatch.setattr(task_module, "assemble", lambda batch, canvas: inputs)
    return inputs


def make_learner(figures: Figures, task: Supervised, recipe: TrainingConfig = RECIPE) -> Learner:
    learner = Learner(Fabric(accelerator="cpu", devices=1), parity_model(figures), task, recipe, seed=0, steps=3)
    learner.model.train()
    return learner


def assert_entries(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], rtol: float, atol: float) -> None:
    assert expected.keys() <= found.keys()
    for name, value in expected.items():
        if value.is_floating_point():
            torch.testing.assert_close(
                found[name], value, rtol=rtol, atol=atol, msg=lambda m, name=name: f"{name}: {m}"
            )


def test_three_steps_give_the_published_losses_weights_and_average(
    figures: Figures, published_input: torch.Tensor
) -> None:
    learner = make_learner(figures, Supervised(CANVAS, len(NEURONS), poisson))
    batch = parity_batch(figures)
    losses = [float(learner.step(batch, 0, step)) for step in range(3)]
    assert losses == pytest.approx(figures["loss|values_3_adamw_steps"].tolist(), rel=1e-4)
    # Adam divides by the gradient's own size, so rounding of a vanishing gradient moves a weight by up to a step.
    assert_entries(to_published(learner.model.state_dict()), group(figures, "step3|"), rtol=1e-3, atol=1e-4)
    assert_entries(to_published(learner.ema.state_dict()), group(figures, "ema3|"), rtol=1e-3, atol=3e-5)


def test_gradients_are_the_published_ones(figures: Figures, published_input: torch.Tensor) -> None:
    model = parity_model(figures).train()
    Supervised(CANVAS, len(NEURONS), poisson).loss(Student(model), parity_batch(figures), 3).backward()
    gradients = to_published({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    for name, expected in group(figures, "loss|grad|").items():
        scale = float(expected.abs().max())
        torch.testing.assert_close(gradients[name], expected, rtol=1e-3, atol=1e-4 * scale)


def test_distillation_fills_what_has_no_label(figures: Figures, published_input: torch.Tensor) -> None:
    task = Distillation(CANVAS, parity_model(figures), 0.36, contextlib.nullcontext, poisson)
    targets = task.targets(parity_batch(figures), published_input)
    for mouse, target in enumerate(targets):
        expected = torch.tensor(figures[f"distill|target_mouse{mouse}"])
        torch.testing.assert_close(target.responses, expected, rtol=1e-4, atol=1e-4)
        weights = torch.tensor(figures["distill|mice_weights"])[:, mouse]
        torch.testing.assert_close(target.weights, weights)


def test_distillation_never_moves_the_teacher(figures: Figures, published_input: torch.Tensor) -> None:
    teacher = parity_model(figures)
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    learner = make_learner(figures, Distillation(CANVAS, teacher, 0.36, contextlib.nullcontext, poisson))
    for step in range(2):
        learner.step(parity_batch(figures), 0, step)
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
    assert not torch.equal(learner.model.state_dict()["core.stem.conv.weight"], before["core.stem.conv.weight"])


def test_loss_weights_of_a_batch_sum_to_one(figures: Figures) -> None:
    labelled = torch.tensor(figures["loss|mice_weights"]).bool()
    for ratio in (None, 0.36):
        total = float(pair_weights(labelled, ratio).sum())
        assert total == pytest.approx(len(labelled) * weight_per_window(len(NEURONS), ratio))


@given(mice=st.integers(1, 6), sizes=st.lists(st.integers(1, 9), min_size=1, max_size=4), ratio=st.floats(0.01, 0.99))
def test_shares_are_normalised_as_the_whole(mice: int, sizes: list[int], ratio: float) -> None:
    """What one process computes for its windows equals its rows of what the whole batch gives."""
    labelled = torch.nn.functional.one_hot(torch.arange(sum(sizes)) % mice, mice).bool()
    whole = pair_weights(labelled, ratio)
    parts = torch.cat([pair_weights(part, ratio) for part in labelled.split(sizes)])
    torch.testing.assert_close(parts, whole)
    assert float(whole.sum()) == pytest.approx(sum(sizes) * weight_per_window(mice, ratio), rel=1e-5)


def test_learning_rate_follows_the_published_curve(figures: Figures) -> None:
    schedule = WarmupDecay(peak=2.4e-3, final_ratio=0.01, warmup=30, iterations=60, decay=cosine)
    expected = figures["schedule|lr_warmup3_cosine6_10iters"].tolist()
    assert [schedule(iteration) for iteration in range(90)] == pytest.approx(expected, abs=1e-15)
    assert schedule(90) == pytest.approx(2.4e-5)


def test_learning_rate_without_warmup_starts_at_the_peak() -> None:
    assert WarmupDecay(1.0, 0.1, warmup=0, iterations=4, decay=cosine)(0) == 1.0


def test_average_holds_every_entry_and_copies_counters() -> None:
    model = torch.nn.BatchNorm1d(2)
    average = ExponentialMovingAverage(model, decay=0.75)
    with torch.no_grad():
        model.running_mean += 4.0
        model.weight += 4.0
        model.num_batches_tracked += 7
    average.update()
    assert average.model.running_mean.tolist() == [1.0, 1.0]
    assert average.model.weight.tolist() == [2.0, 2.0]
    assert int(average.model.num_batches_tracked) == 7


def test_chunks_add_up_to_the_whole_batch(figures: Figures, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without batch norm in the way, gradient accumulation changes rounding only."""
    inputs = parity_inputs(figures)
    batch = parity_batch(figures)
    model = parity_model(figures).eval()
    task = Supervised(CANVAS, len(NEURONS), poisson)
    monkeypatch.setattr(task_module, "assemble", lambda batch, canvas: inputs)
    whole = task.loss(Student(model), batch, 3)
    parts = []
    for index, part in enumerate(batch.split(3)):
        monkeypatch.setattr(task_module, "assemble", lambda batch, canvas, i=index: inputs[i : i + 1])
        parts.append(task.loss(Student(model), part, 3))
    assert float(sum(parts).detach()) == pytest.approx(float(whole.detach()), rel=1e-5)


def test_absent_mice_keep_their_readouts(figures: Figures, published_input: torch.Tensor) -> None:
    learner = make_learner(figures, Supervised(CANVAS, len(NEURONS), poisson))
    batch = parity_batch(figures)
    del batch.targets[2]
    before = learner.model.readouts[2].linear.weight.clone()
    learner.step(batch, 0, 1)
    assert torch.equal(learner.model.readouts[2].linear.weight, before)


def test_gradient_clip_limits_the_step(figures: Figures, published_input: torch.Tensor) -> None:
    recipe = RECIPE.model_copy(update={"gradient_clip": 1e-12})
    learner = make_learner(figures, Supervised(CANVAS, len(NEURONS), poisson), recipe)
    before = learner.model.readouts[0].linear.weight.clone()
    learner.step(parity_batch(figures), 0, 1)
    moved = (learner.model.readouts[0].linear.weight - before * (1 - 1e-3 * 0.05)).detach()
    assert 0 < float(moved.abs().max()) < 1e-6
