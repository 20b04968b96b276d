"""The four signatures of an exported model, as TensorFlow functions over a plain Keras model.

See fedfer.export.contract for what each takes and gives. The model is not changed: training is traced with
other gradients (fedfer.export.gradients), layers (fedfer.export.layers) and dropout
(fedfer.export.dropout) than Keras uses.
"""

from collections.abc import Callable

import keras
import tensorflow as tf

from fedfer.export.contract import TrainingSettings, WeightSpec
from fedfer.export.dropout import seeded_dropout
from fedfer.export.gradients import builtin_gradients
from fedfer.export.layers import phone_layers
from fedfer.model.errors import ExportError

Gradient = Callable[[tf.Tensor], tuple[tf.Tensor | None, ...]]
EPSILON = 1e-7  # keras.config.epsilon(): probabilities are clipped to EPSILON..1-EPSILON before the logarithm


class TrainableModel(tf.Module):  # type: ignore[misc]
    """A Keras model with the signatures `train`, `infer`, `save` and `restore`.

    TFLite takes signature inputs by Python argument names, which cannot hold the "/" of weight names, so
    `save` and `restore` speak of w0, w1, ... here; fedfer.export.tflite puts the names in place.
    """

    def __init__(self, model: keras.Model, settings: TrainingSettings) -> None:
        super().__init__(name="fedfer")
        self.model = model
        self.settings = settings
        self.specs = weight_specs(model)
        self.state = [weight.value for weight in model.weights]

    def signatures(self) -> dict[str, Callable[..., dict[str, tf.Tensor]]]:
        """Concrete functions by signature name."""
        shape = self.model.input_shape
        images = tf.TensorSpec([None, *shape[1:]], tf.float32, name="images")
        labels = tf.TensorSpec([None], tf.int32, name="labels")
        rate = tf.TensorSpec([1], tf.float32, name="learning_rate")
        seed = tf.TensorSpec([1], tf.int32, name="seed")
        weights = {short_name(i): tf.TensorSpec(w.shape, tf.float32) for i, w in enumerate(self.specs)}
        request = tf.TensorSpec([1], tf.int32, name="request")
        return {
            "train": tf.function(self.train).get_concrete_function(images, labels, rate, seed),
            "infer": tf.function(self.infer).get_concrete_function(images),
            "save": tf.function(self.save).get_concrete_function(request),
            "restore": tf.function(self.restore).get_concrete_function(**weights),
        }

    def train(
        self, images: tf.Tensor, labels: tf.Tensor, learning_rate: tf.Tensor, seed: tf.Tensor
    ) -> dict[str, tf.Tensor]:
        """One step of SGD on the mean loss of the batch and the layers' regularisers; BatchNorm's statistics
        move as in Keras."""
        graph = tf.compat.v1.get_default_graph()
        with builtin_gradients(graph), seeded_dropout(seed, labels), phone_layers():
            probabilities = self.model(images, training=True)
            loss = tf.add_n([mean_cross_entropy(probabilities, labels), *self.model.losses])
            trained = [weight.value for weight in self.model.trainable_weights]
            gradients = tf.gradients(loss, trained)
        for variable, gradient in zip(trained, gradients, strict=True):
            if gradient is None:
                raise ExportError(
                    f"{variable.name} has no gradient; expected every trainable weight to be used"
                )
            variable.assign(variable - learning_rate * gradient)
        hits = tf.equal(tf.argmax(probabilities, axis=-1, output_type=tf.int32), labels)
        accuracy = tf.reduce_mean(tf.cast(hits, tf.float32))
        return {"loss": tf.reshape(loss, [1]), "accuracy": tf.reshape(accuracy, [1])}

    def infer(self, images: tf.Tensor) -> dict[str, tf.Tensor]:
        with phone_layers():
            return {"probabilities": self.model(images, training=False)}

    def save(self, request: tf.Tensor) -> dict[str, tf.Tensor]:
        """`request` is ignored: Java's runSignature refuses a call without inputs."""
        return {short_name(i): tf.identity(variable) for i, variable in enumerate(self.state)}

    def restore(self, **weights: tf.Tensor) -> dict[str, tf.Tensor]:
        for i, variable in enumerate(self.state):
            variable.assign(weights[short_name(i)])
        return {"restored": tf.constant([len(self.state)], tf.int32)}


def mean_cross_entropy(probabilities: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    """Keras's sparse categorical cross-entropy of probabilities [B,K], mean over the batch.

    As Keras does, the logits are used where a softmax made the probabilities (it leaves them on its output);
    other probabilities are clipped before the logarithm. Either way Keras ends in softmax cross-entropy with
    logits, an op that phones lack; it is spelled out here.
    """
    logits = getattr(probabilities, "_keras_logits", None)
    if logits is None:
        logits = tf.math.log(tf.clip_by_value(probabilities, EPSILON, 1.0 - EPSILON))
    return _mean_cross_entropy_of_logits(logits, tf.one_hot(labels, probabilities.shape[-1]))


@tf.custom_gradient  # type: ignore[untyped-decorator]
def _mean_cross_entropy_of_logits(logits: tf.Tensor, targets: tf.Tensor) -> tuple[tf.Tensor, Gradient]:
    log_probabilities = tf.nn.log_softmax(logits)
    loss = -tf.reduce_mean(tf.reduce_sum(log_probabilities * targets, axis=-1))

    def gradient(scale: tf.Tensor) -> tuple[tf.Tensor | None, ...]:
        batch_size = tf.cast(tf.shape(targets)[0], tf.float32)
        return (tf.exp(log_probabilities) - targets) * (scale / batch_size), None

    return loss, gradient


def weight_specs(model: keras.Model) -> list[WeightSpec]:
    """The checkpoint's tensors in the model's order. Raises ExportError for what cannot travel."""
    trainable = {id(weight) for weight in model.trainable_weights}
    prefix = f"{model.name}/"  # Keras puts it before the names in some models, not in others
    specs = [
        WeightSpec(
            name=weight.path.removeprefix(prefix),
            shape=tuple(weight.shape),
            dtype="float32",
            role="trainable" if id(weight) in trainable else "statistic",
            nonnegative=weight.path.endswith("moving_variance"),
        )
        for weight in model.weights
    ]
    if len({spec.name for spec in specs}) < len(specs):
        raise ExportError("two weights share a name; give the model's layers different names")
    wrong = [weight.path for weight in model.weights if weight.dtype != "float32"]
    if wrong:
        raise ExportError(f"weights {wrong[:3]} are not float32; expected a float32 model")
    return specs


def short_name(index: int) -> str:
    """What weight number `index` is called inside TensorFlow."""
    return f"w{index}"
