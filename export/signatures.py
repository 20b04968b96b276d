"""The signatures of an exported model, as TensorFlow functions over a plain Keras model.

See fedfer.export.contract for what each takes and gives. The model is not changed: training is traced with
other gradients (fedfer.export.gradients), layers (fedfer.export.layers) and dropout
(fedfer.export.dropout) than Keras uses.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import keras
import tensorflow as tf

from fedfer.export.contract import STATE_SIGNATURES, Contract, WeightSpec
from fedfer.export.dropout import seeded_dropout
from fedfer.export.gradients import builtin_gradients
from fedfer.export.layers import phone_layers
from fedfer.export.losses import predictions, training_loss
from fedfer.export.optimizers import Optimizer
from fedfer.export.trainable import frozen_as_constants, travelling_weights, weight_name
from fedfer.model.errors import ExportError


class TrainableModel(tf.Module):  # type: ignore[misc]
    """A Keras model with the signatures of its contract.

    TFLite takes signature inputs by Python argument names, which cannot hold the "/" of weight names, so
    `save` and `restore` speak of w0, w1, ... here, of slots as s0, s1, ...;
    fedfer.export.packing puts the names in place.
    """

    def __init__(self, model: keras.Model, contract: Contract) -> None:
        super().__init__(name="fedfer")
        self.model = model
        self.contract = contract
        self.state = [weight.value for weight in travelling_weights(model)]
        trained = [weight.value for weight in model.trainable_weights]
        self.optimizer = Optimizer(contract.training.optimizer, trained, contract.training.proximal)

    def signatures(self) -> dict[str, tf.types.experimental.ConcreteFunction]:
        """Concrete functions by signature name."""
        shape = self.model.input_shape
        images = tf.TensorSpec([None, *shape[1:]], tf.float32, name="images")
        target = self.contract.target
        step = {
            target.name: tf.TensorSpec([None, *target.shape], target.dtype, name=target.name),
            "learning_rate": tf.TensorSpec([1], tf.float32, name="learning_rate"),
            "seed": tf.TensorSpec([1], tf.int32, name="seed"),
            "proximal_mu": tf.TensorSpec([1], tf.float32, name="proximal_mu"),
        }
        step = {name: spec for name, spec in step.items() if name in self.contract.train_inputs}
        weights = {
            short_name(i): tf.TensorSpec(w.shape, tf.float32) for i, w in enumerate(self.contract.weights)
        }
        request = tf.TensorSpec([1], tf.int32, name="request")
        found = {
            "train": _traced(self.train).get_concrete_function(images, **step),
            "infer": _traced(self.infer).get_concrete_function(images),
            "save": _traced(self.save).get_concrete_function(request),
            "restore": _traced(self.restore).get_concrete_function(**weights),
        }
        if set(STATE_SIGNATURES) <= set(self.contract.signatures):
            slots = {
                short_slot_name(i): tf.TensorSpec(slot.shape, tf.float32)
                for i, slot in enumerate(self.optimizer.state)
            }
            found["save_state"] = _traced(self.save_state).get_concrete_function(request)
            found["restore_state"] = _traced(self.restore_state).get_concrete_function(**weights, **slots)
        return found

    def train(
        self,
        images: tf.Tensor,
        learning_rate: tf.Tensor,
        seed: tf.Tensor,
        labels: tf.Tensor | None = None,
        targets: tf.Tensor | None = None,
        proximal_mu: tf.Tensor | None = None,
    ) -> dict[str, tf.Tensor]:
        """One optimizer step on the mean loss of the batch and the layers' regularisers; BatchNorm's
        statistics move as in Keras. The loss that it gives is without the proximal term."""
        settings = self.contract.training.loss
        right = labels if targets is None else targets
        with self._training_forms(), seeded_dropout(seed, one_a_sample(right)):
            step = training_loss(self._outputs(images, training=True), right, settings)
            loss = tf.add_n([step.loss, *self.model.losses])
            trained = [weight.value for weight in self.model.trainable_weights]
            gradients = tf.gradients(loss, trained, self.optimizer.slope_of_loss(learning_rate))
        for variable, gradient in zip(trained, gradients, strict=True):
            if gradient is None:
                raise ExportError(
                    f"{variable.name} has no gradient; expected every trainable weight to be used"
                )
        gradients = [tf.convert_to_tensor(gradient) for gradient in gradients]  # in TensorFlow some are rows
        self.optimizer.apply(gradients, learning_rate, proximal_mu)
        return {"loss": tf.reshape(loss, [1]), settings.metric: tf.reshape(step.metric, [1])}

    def infer(self, images: tf.Tensor) -> dict[str, tf.Tensor]:
        with self._inference_forms():
            outputs = predictions(self._outputs(images, training=False), self.contract.training.loss)
        return {self.contract.infer_output: outputs}

    @contextmanager
    def _inference_forms(self) -> Iterator[None]:
        """How layers are traced: for phones."""
        with phone_layers(), frozen_as_constants(self.model):
            yield

    @contextmanager
    def _training_forms(self) -> Iterator[None]:
        """And how they are differentiated."""
        with builtin_gradients(tf.compat.v1.get_default_graph()), self._inference_forms():
            yield

    def _outputs(self, images: tf.Tensor, training: bool) -> tf.Tensor:
        """Of a model that takes integers too: the phone gives every input as float32."""
        (taken,) = self.model.inputs
        return self.model(tf.cast(images, taken.dtype), training=training)

    def save(self, request: tf.Tensor) -> dict[str, tf.Tensor]:
        """`request` is ignored: Java's runSignature refuses a call without inputs."""
        return {short_name(i): tf.identity(variable) for i, variable in enumerate(self.state)}

    def restore(self, **weights: tf.Tensor) -> dict[str, tf.Tensor]:
        for i, variable in enumerate(self.state):
            variable.assign(weights[short_name(i)])
        trained = [
            weights[short_name(i)] for i, spec in enumerate(self.contract.weights) if spec.role == "trainable"
        ]
        self.optimizer.reset(trained)
        return {"restored": tf.constant([len(self.state)], tf.int32)}

    def save_state(self, request: tf.Tensor) -> dict[str, tf.Tensor]:
        """Weights and what the optimizer remembers of its steps; `request` is ignored."""
        return {name: tf.identity(variable) for name, variable in self._changing().items()}

    def restore_state(self, **state: tf.Tensor) -> dict[str, tf.Tensor]:
        """Undoes neither what `restore` did to FedProx's anchor nor anything else that steps leave alone."""
        changing = self._changing()
        for name, variable in changing.items():
            variable.assign(state[name])
        return {"restored": tf.constant([len(changing)], tf.int32)}

    def _changing(self) -> dict[str, tf.Variable]:
        """All that a step changes, by the names that TensorFlow is told."""
        weights = {short_name(i): variable for i, variable in enumerate(self.state)}
        return weights | {short_slot_name(i): slot for i, slot in enumerate(self.optimizer.state)}


def one_a_sample(targets: tf.Tensor) -> tf.Tensor:
    """Any i32[B], of labels i32[B] or targets f32[B,K]: as long as the batch."""
    return targets if targets.shape.rank == 1 else tf.cast(targets[:, 0], tf.int32)


def weight_specs(model: keras.Model) -> list[WeightSpec]:
    """The checkpoint's tensors in the model's order. Raises ExportError for what cannot travel."""
    trainable = {id(weight) for weight in model.trainable_weights}
    specs = [
        WeightSpec(
            name=weight_name(weight, model),
            shape=tuple(weight.shape),
            dtype="float32",
            role="trainable" if id(weight) in trainable else "statistic",
            nonnegative=weight.path.endswith("moving_variance"),
        )
        for weight in travelling_weights(model)
    ]
    shared = sorted(name for name, times in Counter(spec.name for spec in specs).items() if times > 1)
    if shared:
        raise ExportError(
            f"weights share names, {shared[0]} for one; give the model's layers different names"
        )
    wrong = [weight.path for weight in travelling_weights(model) if weight.dtype != "float32"]
    if wrong:
        raise ExportError(f"weights {wrong[:3]} are not float32; expected a float32 model")
    return specs


def full_names(contract: Contract) -> dict[str, str]:
    """Of weights and optimizer state, by the names that they have inside TensorFlow."""
    weights = {short_name(i): weight.name for i, weight in enumerate(contract.weights)}
    return weights | {short_slot_name(i): name for i, name in enumerate(contract.optimizer_state)}


def short_slot_name(index: int) -> str:
    """What tensor number `index` of the optimizer's state is called inside TensorFlow."""
    return f"s{index}"


def short_name(index: int) -> str:
    """What weight number `index` is called inside TensorFlow."""
    return f"w{index}"


def _traced(method: Callable[..., Any]) -> Any:
    """A function to trace as it is. TensorFlow's rewriting of Python's control flow (autograph) would read
    the source of everything that it calls, Keras's included, for nothing: no branch depends on a tensor."""
    return tf.function(method, autograph=False)
