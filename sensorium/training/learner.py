"""One optimizer step: what learns, and everything it carries from step to step."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from lightning_fabric.fabric import Fabric
from torch import Tensor

from sensorium.config import TrainingConfig
from sensorium.data.inputs import Batch
from sensorium.errors import UntrainableError
from sensorium.model.architecture import AnyModel
from sensorium.seeding import torch_seed
from sensorium.training.devices import average_buffers
from sensorium.training.schedule import make_schedule
from sensorium.training.task import Student, Supervised
from sensorium.training.transfer import freeze

_CPU_MEMORY_FULL = "can't allocate memory"  # of PyTorch's CPU allocator, which raises a plain RuntimeError


def _parameters(model: AnyModel, recipe: TrainingConfig) -> list[Any]:
    """What is to be learnt: one list, or a group per part where the parts have learning rates of their own."""
    learnt = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    if recipe.learning_rate_scale is None:
        return [parameter for _, parameter in learnt]
    groups = [
        {"params": [parameter for name, parameter in learnt if name.partition(".")[0] == part], "scale": scale}
        for part, scale in recipe.learning_rate_scale
    ]
    return [group for group in groups if group["params"]]


class ExponentialMovingAverage:
    """The weights that are validated and published: every state entry averaged, buffers too; counters are copied.

    The average starts at the model's first weights, as published.
    """

    def __init__(self, model: AnyModel, decay: float) -> None:
        self.decay = decay
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        source, average = model.state_dict(), self.model.state_dict()
        floating = [name for name, value in average.items() if value.is_floating_point()]
        counters = [name for name in average if name not in set(floating)]
        # State entries share memory with the parameters for as long as the module lives: looked up once.
        self._floating = ([average[name] for name in floating], [source[name] for name in floating])
        self._counters = [(average[name], source[name]) for name in counters]

    @torch.no_grad()
    def update(self) -> None:
        """Move the average by 1 - decay towards the model's present state."""
        averages, sources = self._floating
        torch._foreach_lerp_(averages, sources, 1.0 - self.decay)
        for average, source in self._counters:
            average.copy_(source)

    def state_dict(self) -> dict[str, Tensor]:
        """State entries of the average."""
        return self.model.state_dict()

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore the average in place."""
        self.model.load_state_dict(state)


class Learner:
    """A student with its optimizer, schedule and moving average.

    AdamW (arXiv:1711.05101) decays every parameter alike, as published. Readouts of mice that a batch
    lacks have no gradient, and AdamW leaves them alone.
    """

    def __init__(
        self,
        fabric: Fabric,
        model: AnyModel,
        task: Supervised,
        recipe: TrainingConfig,
        seed: int,
        steps: int,
        frozen: Sequence[str] = (),
    ) -> None:
        """Set up a model with its first weights.

        Args:
            fabric: device, precision and processes.
            model: with the weights to begin with.
            task: what it learns.
            recipe: how it learns.
            seed: of dropout.
            steps: optimizer steps per epoch.
            frozen: parts that keep their weights: `core`, `cortex`.
        """
        self.fabric, self.task, self.recipe, self.seed, self.steps = fabric, task, recipe, seed, steps
        student = Student(freeze(model, frozen)) if frozen else Student(model)
        model.to(fabric.device)  # frozen parts of it are not in the student
        self.optimizer = torch.optim.AdamW(
            _parameters(model, recipe),
            lr=recipe.learning_rate,
            weight_decay=recipe.weight_decay,
            fused=recipe.gradient_clip is None,  # the fused step unscales by itself, so nothing could be clipped
        )
        self._student, self._optimizer = fabric.setup(student, self.optimizer)
        self.model = model
        self.schedule = make_schedule(recipe, steps)
        self.ema = ExponentialMovingAverage(model, recipe.ema_decay)  # after setup, which may move the model
        self._statistics = [
            buffer
            for name, buffer in model.named_buffers()
            if buffer.is_floating_point() and name.partition(".")[0] not in frozen
        ]

    def learning_rate(self, epoch: int, step: int) -> float:
        """Learning rate of a step."""
        return self.schedule(epoch * self.steps + step)

    def step(self, batch: Batch, epoch: int, step: int) -> Tensor:
        """Learn from one batch.

        Args:
            batch: this process's share, on the CPU.
            epoch: counted from 0.
            step: of the epoch, counted from 0.

        Returns:
            This process's part of the batch's loss, on the device.

        Raises:
            UntrainableError: the memory is full.
        """
        try:
            return self._step(batch, epoch, step)
        except (torch.OutOfMemoryError, MemoryError) as fault:
            raise self._memory_full(str(fault)) from fault
        except RuntimeError as fault:
            if _CPU_MEMORY_FULL not in str(fault):
                raise
            raise self._memory_full(str(fault)) from fault

    def _step(self, batch: Batch, epoch: int, step: int) -> Tensor:
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate(epoch, step) * group.get("scale", 1.0)
        loss = self._accumulate(batch, epoch, step)
        if self.recipe.gradient_clip is not None:
            self.fabric.clip_gradients(self._student, self._optimizer, max_norm=self.recipe.gradient_clip)
        self._optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        average_buffers(self.fabric, self._statistics)
        self.ema.update()
        return loss

    def _accumulate(self, batch: Batch, epoch: int, step: int) -> Tensor:
        """Add up the gradients of the batch's chunks."""
        chunks = list(batch.split(self.recipe.iter_size))
        loss = torch.zeros((), device=self.fabric.device)
        for index, chunk in enumerate(chunks):
            share = self.fabric.global_rank * self.recipe.iter_size + index
            torch.manual_seed(torch_seed(self.seed, "step", epoch, step, share))
            with self.fabric.no_backward_sync(self._student, enabled=index < len(chunks) - 1):
                part = self.task.loss(self._student, chunk.to(self.fabric.device), self.recipe.batch_size)
                self.fabric.backward(part * self.fabric.world_size)  # DistributedDataParallel takes the mean
            loss += part.detach()
        return loss

    def _memory_full(self, message: str) -> UntrainableError:
        size, chunks = self.recipe.batch_size, self.recipe.iter_size
        return UntrainableError(
            f"memory of {self.fabric.device} is full with batch_size {size} in {chunks} chunk(s): "
            f"{message.splitlines()[0]}",
            f"Raise the experiment's training.iter_size in params.yaml from {chunks} to {2 * chunks}.",
        )

    def state_dict(self) -> dict[str, Any]:
        """Everything that changes from step to step."""
        return {
            "model": self.model.state_dict(),
            "ema": self.ema.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "precision": self.fabric.strategy.precision.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict`."""
        self.model.load_state_dict(state["model"])
        self.ema.load_state_dict(state["ema"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.fabric.strategy.precision.load_state_dict(state["precision"])
