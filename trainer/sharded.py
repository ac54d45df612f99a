"""Several GPUs that train one model together, each with a part of it: FSDP through accelerate, whose launcher started this process (trainer.process).

Rules: every process walks through the same steps, each with its share of the micro-batches; the loss of a step is still the sum over all its trained tokens
divided by their number; only the first process writes files and speaks. Alone, all of this is nothing.

What was run: two processes on a CPU (gloo), against one. On GPUs, and with NF4, it was not run here.
"""

from collections.abc import Sequence
from typing import Any

import torch

from trainer.recipe import Recipe


class Alone:
    """One process that has the whole model."""

    size = 1
    rank = 0

    def prepare(self, model: Any, optimizer: torch.optim.Optimizer) -> tuple[Any, torch.optim.Optimizer]:
        """The model and the optimizer as they are trained."""
        return model, optimizer

    def share(self, batches: Sequence[tuple[int, ...]]) -> list[tuple[int, ...]]:
        """The micro-batches of a step that fall to this process."""
        return list(batches)

    def total(self, value: float) -> float:
        """The sum over the processes."""
        return value

    def whole(self, tensor: torch.Tensor) -> torch.Tensor:
        """A tensor, put together from the processes' parts. Every process must ask for the same ones in the same order."""
        return tensor

    def optimizer_state(self, _model: Any, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        """The optimizer's whole state."""
        return optimizer.state_dict()

    def set_optimizer_state(self, _model: Any, optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
        """Put a whole state back."""
        optimizer.load_state_dict(state)

    def set_weights(self, parameter: torch.Tensor, value: torch.Tensor) -> None:
        """Put a whole tensor back."""
        parameter.copy_(value)


class Sharded(Alone):
    """One of several processes; accelerate's launcher left its settings in the environment."""

    def __init__(self) -> None:
        """Join the others."""
        from accelerate.accelerator import Accelerator

        self.accelerator = Accelerator()
        self.size = self.accelerator.num_processes
        self.rank = self.accelerator.process_index

    def prepare(self, model: Any, optimizer: torch.optim.Optimizer) -> tuple[Any, torch.optim.Optimizer]:
        """Shard the model's layers, and make the optimizer's parameters those shards."""
        model, wrapped = self.accelerator.prepare(model, optimizer)  # type: ignore[no-untyped-call]
        return model, wrapped.optimizer

    def share(self, batches: Sequence[tuple[int, ...]]) -> list[tuple[int, ...]]:
        """Every size-th micro-batch. Where there are too few, the first is computed again and counts nothing: all must take part in every exchange."""
        rounds = -(-len(batches) // self.size)
        mine = list(batches[self.rank :: self.size])
        return mine + [()] * (rounds - len(mine))

    def total(self, value: float) -> float:
        """The sum over the processes."""
        tensor = torch.tensor([value], dtype=torch.float64, device=self.accelerator.device)
        return float(self.accelerator.reduce(tensor, "sum"))  # type: ignore[no-untyped-call]

    def whole(self, tensor: torch.Tensor) -> torch.Tensor:
        """Gather a sharded tensor."""
        from torch.distributed.tensor import DTensor

        return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor

    def optimizer_state(self, model: Any, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        """Gather the optimizer's state on the first process."""
        from torch.distributed.checkpoint.state_dict import StateDictOptions, get_optimizer_state_dict

        return get_optimizer_state_dict(model, optimizer, options=StateDictOptions(full_state_dict=True, cpu_offload=True))

    def set_optimizer_state(self, model: Any, optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
        """Give every process its part."""
        from torch.distributed.checkpoint.state_dict import StateDictOptions, set_optimizer_state_dict

        set_optimizer_state_dict(model, optimizer, state, options=StateDictOptions(full_state_dict=True))

    def set_weights(self, parameter: torch.Tensor, value: torch.Tensor) -> None:
        """Keep this process's part of a whole tensor."""
        from torch.distributed.tensor import DTensor, distribute_tensor

        if isinstance(parameter, DTensor):
            value = distribute_tensor(value.to(parameter.device), parameter.device_mesh, parameter.placements)
        parameter.copy_(value)


def team(recipe: Recipe) -> Alone:
    """The processes of a recipe."""
    return Sharded() if recipe.processes > 1 else Alone()
