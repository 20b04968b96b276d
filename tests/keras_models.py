"""Small Keras models and their export, for tests. Imports TensorFlow: call from `call_isolated` only."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras

LABELS = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")


def tiny_model(dropout: float = 0.3) -> keras.Model:
    """Two convolutions with BatchNorm, pooling and dropout: 48x48x1 -> 7 probabilities, 16,007 parameters."""
    keras.utils.set_random_seed(0)
    layers = [
        keras.layers.Input((48, 48, 1)),
        keras.layers.Conv2D(4, 3, activation="relu", name="conv1"),
        keras.layers.BatchNormalization(name="bn1"),
        keras.layers.MaxPooling2D(3, 2, name="pool1"),
        keras.layers.Dropout(dropout, name="drop1"),
        keras.layers.Conv2D(8, 3, padding="same", activation="relu", name="conv2"),
        keras.layers.BatchNormalization(name="bn2"),
        keras.layers.MaxPooling2D(3, 2, padding="same", name="pool2"),
        keras.layers.Flatten(name="flatten"),
        keras.layers.Dense(16, activation="relu", name="dense1"),
        keras.layers.Dense(7, activation="softmax", name="probabilities"),
    ]
    return keras.Sequential(layers, name="tiny")
