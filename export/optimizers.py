"""Optimizer steps in TensorFlow operators that phones have, as Keras 3 computes them.

An optimizer's slots (momentum, Adam's moments, the number of steps, FedProx's anchor) are variables of the
`.tflite` beside the weights. `restore` sets them as they are in a fresh file, so that every round starts
clean; they are never uploaded. `save_state` and `restore_state` carry them over the death of a process. All
arithmetic is float32. Sources: momentum and Nesterov, Sutskever et al. 2013; Adam, Kingma & Ba 2015 (arXiv
1412.6980), with the bias correction folded into the learning rate as in its section 2 and Keras's place of
epsilon; AdamW, Loshchilov & Hutter 2019 (arXiv 1711.05101); FedProx, Li et al. 2020 (arXiv 1812.06127).
"""

from collections.abc import Sequence

import tensorflow as tf

from fedfer.export.normalization import sum_all_but_last
from fedfer.export.optimizer_settings import OptimizerSettings


class Optimizer(tf.Module):  # type: ignore[misc]
    """Steps for `variables`; a learning rate and proximal mu are f32[1] and may differ from step to step."""

    def __init__(
        self, settings: OptimizerSettings, variables: Sequence[tf.Variable], proximal: bool = False
    ) -> None:
        super().__init__(name="optimizer")
        self.settings = settings
        self._variables = list(variables)
        self._slots = [
            [tf.Variable(tf.zeros(v.shape), name=f"slot{i}") for i in range(settings.num_slots)]
            for v in variables
        ]
        self._num_steps = tf.Variable([0.0], name="num_steps") if settings.counts_steps else None
        self._anchors = [tf.Variable(v, name="anchor") for v in variables] if proximal else []

    @property
    def state(self) -> list[tf.Variable]:
        """What steps change beside the weights, in the order of the contract's `optimizer_state`."""
        slots = [slot for by_weight in zip(*self._slots, strict=True) for slot in by_weight]
        return slots if self._num_steps is None else [*slots, self._num_steps]

    def slope_of_loss(self, learning_rate: tf.Tensor) -> tf.Tensor:
        """f32[], by which the gradients of `apply` are multiplied. Where the step is a multiple of them it is
        the rate: one product at the loss, from where the gradients come, instead of one for each weight."""
        return tf.reduce_sum(learning_rate) if self._is_linear else tf.constant(1.0)

    @property
    def _is_linear(self) -> bool:
        return self.settings.name == "sgd" and self.settings.clip_norm is None

    def apply(
        self, gradients: Sequence[tf.Tensor], learning_rate: tf.Tensor, proximal_mu: tf.Tensor | None = None
    ) -> None:
        """One step: the proximal term joins the gradients (those of the loss times `slope_of_loss`), then
        clipping, weight decay, the step itself."""
        gradients = list(gradients)
        if proximal_mu is not None:  # gradient of mu/2 * |w - anchor|^2, equation 2 of FedProx
            share = proximal_mu * self.slope_of_loss(learning_rate)
            pulls = [(v - anchor) * share for v, anchor in zip(self._variables, self._anchors, strict=True)]
            gradients = [g + _like(pull, g) for g, pull in zip(gradients, pulls, strict=True)]
        if self.settings.clip_norm is not None:
            scale = clip_scale(gradients, self.settings.clip_norm)
            gradients = [_like(g * scale, g) for g in gradients]
        rate = self._corrected(learning_rate)
        for variable, gradient, slots in zip(self._variables, gradients, self._slots, strict=True):
            if self.settings.weight_decay:
                decay = _like(variable * self.settings.weight_decay * learning_rate, variable)
                variable.assign(variable - decay)
            if self.settings.name == "sgd":
                self._sgd(variable, gradient, slots, rate)
            else:
                self._adam(variable, gradient, slots, rate)

    def reset(self, variables: Sequence[tf.Tensor] | None = None) -> None:
        """Slots as at the start of a round, whose weights `variables` are (those of now, if not given)."""
        for slot in [slot for slots in self._slots for slot in slots]:
            slot.assign(tf.zeros(slot.shape))
        if self._num_steps is not None:
            self._num_steps.assign([0.0])
        for anchor, start in zip(self._anchors, variables or self._variables, strict=False):
            anchor.assign(start)

    def _corrected(self, learning_rate: tf.Tensor) -> tf.Tensor:
        """Adam's alpha_t = alpha * sqrt(1 - beta_2^t) / (1 - beta_1^t), counting the step; else the rate."""
        if self._num_steps is None:
            return learning_rate
        self._num_steps.assign(self._num_steps + 1.0)
        powers = [
            tf.pow(tf.constant([b]), self._num_steps) for b in (self.settings.beta_1, self.settings.beta_2)
        ]
        return learning_rate * tf.sqrt(1.0 - powers[1]) / (1.0 - powers[0])

    def _sgd(
        self, variable: tf.Variable, gradient: tf.Tensor, slots: list[tf.Variable], rate: tf.Tensor
    ) -> None:
        step = gradient if self._is_linear else _like(gradient * rate, variable)
        if not slots:
            variable.assign(variable - step)
            return
        velocity = slots[0] * self.settings.momentum - step
        slots[0].assign(velocity)
        variable.assign(
            variable + (velocity * self.settings.momentum - step if self.settings.nesterov else velocity)
        )

    def _adam(
        self, variable: tf.Variable, gradient: tf.Tensor, slots: list[tf.Variable], rate: tf.Tensor
    ) -> None:
        first = slots[0] + (gradient - slots[0]) * (1.0 - self.settings.beta_1)
        second = slots[1] + (gradient * gradient - slots[1]) * (1.0 - self.settings.beta_2)
        slots[0].assign(first)
        slots[1].assign(second)
        variable.assign(variable - _like(first * rate, variable) / (tf.sqrt(second) + self.settings.epsilon))


def clip_scale(gradients: Sequence[tf.Tensor], clip_norm: float) -> tf.Tensor:
    """f32[1] that brings the norm of all gradients, as one vector, down to at most `clip_norm`."""
    squares = [tf.reshape(tf.reduce_sum(sum_all_but_last(g * g)), [1]) for g in gradients]
    return clip_norm / tf.maximum(tf.sqrt(tf.add_n(squares)), clip_norm)


def _like(product: tf.Tensor, tensor: tf.Tensor) -> tf.Tensor:
    """A product with an f32[1] in the shape of `tensor`: of a scalar it would have become f32[1] too."""
    return product if tensor.shape.rank else tf.reshape(product, [])
