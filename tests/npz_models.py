"""Classifiers of tokens, rows and sequences, for tests. Imports TensorFlow: from `call_isolated` only."""

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


def nested_tokens_model() -> keras.Model:
    """The same behind a model inside it, with more words than int8 tells apart, and masked ones."""
    keras.utils.set_random_seed(0)
    table = keras.layers.Embedding(1000, 8, mask_zero=True, name="table")
    body = keras.Sequential([keras.Input((STEPS,)), table, keras.layers.GRU(6, name="gru")], name="body")
    last = keras.layers.Dense(NUM_CLASSES, activation="softmax", name="last")
    return keras.Sequential([keras.Input((STEPS,)), body, last], name="nested_tokens")


def rows_model() -> keras.Model:
    """Yes or no of 5 columns, by one sigmoid, as compiled."""
    keras.utils.set_random_seed(0)
    hidden = keras.layers.Dense(8, activation="relu", name="hidden")
    layers = [keras.Input((5,)), hidden, keras.layers.Dense(1, activation="sigmoid", name="last")]
    model = keras.Sequential(layers, name="rows")
    model.compile(loss="binary_crossentropy")
    return model


def sequences_model() -> keras.Model:
    """3 logits of 6 steps of 2 numbers, as compiled."""
    keras.utils.set_random_seed(0)
    layers = [
        keras.Input((STEPS, 2)),
        keras.layers.Conv1D(4, 3, name="conv"),
        keras.layers.LSTM(4, name="lstm"),
    ]
    model = keras.Sequential([*layers, keras.layers.Dense(NUM_CLASSES, name="last")], name="sequences")
    model.compile(loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


def rows_regressor() -> keras.Model:
    layers = [keras.Input((5,)), keras.layers.Dense(2, name="last")]
    model = keras.Sequential(layers, name="rows_regressor")
    model.compile(loss="mean_squared_error")
    return model
