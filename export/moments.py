"""What a first step of Adam says about the gradients behind it, and the step that Keras takes by them.

The step divides each gradient by its own size: where the true one is nearly zero, rounding decides the step's
sign, in Keras as on a phone. The first moment says more. From nothing it becomes (1 - beta_1) times the
gradient, which differs from Keras's by rounding alone, as with SGD. So gradients are held against Keras's,
and the step against what Keras's own optimizer makes of the phone's gradients.
"""

import keras
import numpy as np

from fedfer.export.check import relative_difference
from fedfer.export.checkpoint import Weights
from fedfer.export.contract import Contract
from fedfer.export.keras_training import keras_optimizer


def first_gradients(state: Weights, contract: Contract) -> Weights:
    """By trained weight, after clipping, from what `save_state` gives after the first step."""
    kept = np.float32(1.0 - contract.training.optimizer.beta_1)
    return {name: state[f"slot0:{name}"] / kept for name in _trained(contract)}


def step_by_keras(initial: Weights, gradients: Weights, contract: Contract) -> Weights:
    """The trained weights after the first step by these gradients."""
    variables = {name: keras.Variable(initial[name]) for name in gradients}
    settings = contract.training
    keras_optimizer(settings.optimizer, settings.learning_rate).apply(
        [keras.ops.convert_to_tensor(gradient) for gradient in gradients.values()], list(variables.values())
    )
    return {name: np.array(variable) for name, variable in variables.items()}


def moments_apart(state: Weights, gradients: Weights, contract: Contract) -> float:
    """By how much, relative to each tensor's largest number, the second moments differ from (1 - beta_2)
    times the squared gradients, or the number of steps from 1."""
    share = np.float32(1.0 - contract.training.optimizer.beta_2)
    apart = [relative_difference(state[f"slot1:{name}"], g * g * share) for name, g in gradients.items()]
    return max(*apart, abs(float(state["num_steps:"][0]) - 1.0))


def _trained(contract: Contract) -> list[str]:
    return [weight.name for weight in contract.weights if weight.role == "trainable"]
