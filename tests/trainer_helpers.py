"""Local training in a process of its own, for tests: light to import, the interpreter comes inside."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from fedfer.export.checkpoint import Weights
from fedfer.model.data import LabelledImages


@dataclass(frozen=True)
class Task:
    """One device in one round; equal `device` means equal images."""

    device: int = 0
    round: int = 1
    fleet_seed: int = 0
    num_examples: int = 7
    batch_size: int = 3
    local_epochs: int = 2
    learning_rate: float = 0.05
    proximal_mu: float = 0.0


@dataclass(frozen=True)
class Outcome:
    """`before` and `after`: the weights that the task started from and left."""

    before: Weights
    after: Weights
    loss: float
    accuracy: float
    num_examples: int


def noise(num_examples: int, seed: int) -> LabelledImages:
    """Random grey noise with random labels."""
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (num_examples, 48, 48, 1), np.uint8)
    return LabelledImages(images, rng.integers(0, 7, num_examples, np.uint8))


def run_tasks(model_path: Path, tasks: list[Task]) -> list[Outcome]:
    """All tasks in one interpreter, one after the other, each from the model's first weights."""
    from fedfer.android_stub.trainer import Seeds, TrainingPlan, train_locally
    from fedfer.export.runtime import Model

    model = Model(model_path)
    first = model.save()
    outcomes = []
    for task in tasks:
        plan = TrainingPlan(task.local_epochs, task.batch_size, task.learning_rate, task.proximal_mu)
        seeds = Seeds(task.fleet_seed, task.device, task.round)
        examples = noise(task.num_examples, 100 + task.device)
        result = train_locally(model, first, examples, plan, seeds)
        outcomes.append(Outcome(first, result.weights, result.loss, result.accuracy, result.num_examples))
    return outcomes


def three_steps_by_hand(model_path: Path, task: Task) -> tuple[Weights, list[tuple[float, float]]]:
    """One epoch over 7 examples in batches of 3, 3 and 1, without the trainer: the weights, and loss and
    accuracy of each step."""
    from fedfer.android_stub.trainer import Seeds
    from fedfer.export.runtime import Model
    from fedfer.model.data import to_float

    model = Model(model_path)
    seeds = Seeds(task.fleet_seed, task.device, task.round)
    examples = noise(7, 100 + task.device)
    order = seeds.shuffle(epoch=0).permutation(7)
    measures = []
    for step, batch in enumerate((order[:3], order[3:6], order[6:])):
        images, labels = to_float(examples.images[batch]), examples.labels[batch]
        result = model.train(images, labels, learning_rate=task.learning_rate, seed=seeds.dropout(step))
        measures.append((result.loss, result.accuracy))
    return model.save(), measures


def losses_by_divisor(model_path: Path, divisors: list[float]) -> list[float]:
    """The loss of one task for each pixel divisor that the contract may name."""
    from fedfer.android_stub.trainer import Seeds, TrainingPlan, train_locally
    from fedfer.export.runtime import Model

    model = Model(model_path)
    first, contract = model.save(), model.contract
    losses = []
    for divisor in divisors:
        model.contract = replace(contract, pixel_divisor=divisor)
        result = train_locally(model, first, noise(4, 0), TrainingPlan(1, 4, 0.01), Seeds(0, 0, 1))
        losses.append(result.loss)
    return losses


def first_checkpoint(model_path: Path) -> bytes:
    """The checkpoint that a model file starts from."""
    from fedfer.export.checkpoint import checkpoint_bytes
    from fedfer.export.runtime import Model

    model = Model(model_path)
    return checkpoint_bytes(model.save(), model.contract)
