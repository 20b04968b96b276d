"""A classifier of token sequences, for tests. Imports TensorFlow: call from `call_isolated` only."""

import keras

STEPS, NUM_TOKENS, NUM_CLASSES = 6, 20, 3


def tokens_model() -> keras.Model:
    """Embedding, mean over the steps, softmax: tokens (6,) of 20 kinds -> 3 probabilities."""
    keras.utils.set_random_seed(0)
    layers = [
        keras.Input((STEPS,)),
        keras.layers.Embedding(NUM_TOKENS, 8, name="table"),
        keras.layers.GlobalAveragePooling1D(name="mean"),
        keras.layers.Dense(NUM_CLASSES, activation="softmax", name="last"),
    ]
    return keras.Sequential(layers, name="tokens")
