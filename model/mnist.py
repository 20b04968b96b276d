"""The two networks for handwritten digits of the paper that federated averaging comes from, in plain Keras.

images f32[B,28,28,1] in 0..1 -> probabilities f32[B,10]. McMahan et al., "Communication-Efficient Learning
of Deep Networks from Decentralized Data", AISTATS 2017 (arXiv 1602.05629), section 3: "two 5x5 convolution
layers (the first with 32 channels, the second with 64, each followed with 2x2 max pooling), a fully connected
layer with 512 units and ReLu activation, and a final softmax output layer (1,663,370 total parameters)":

    conv1 pool1    32 filters of 5x5, 'same'      14x14        832
    conv2 pool2    64 filters of 5x5, 'same'        7x7     51,264
    dense          512 units                             1,606,144
    digit          10, softmax                               5,130

Export it by `fedfer export fedfer.model.mnist:fedavg_cnn`.
"""

import keras
from keras import layers


def fedavg_cnn(seed: int = 0) -> keras.Model:
    """The CNN, not compiled. The same seed gives the same weights bit for bit."""
    initial = [keras.initializers.GlorotUniform(seed * 4 + number) for number in range(4)]
    filters = {"kernel_size": 5, "padding": "same", "activation": "relu"}
    return keras.Sequential(
        [
            keras.Input((28, 28, 1), name="images"),
            layers.Conv2D(32, **filters, kernel_initializer=initial[0], name="conv1"),
            layers.MaxPooling2D(2, name="pool1"),
            layers.Conv2D(64, **filters, kernel_initializer=initial[1], name="conv2"),
            layers.MaxPooling2D(2, name="pool2"),
            layers.Flatten(name="flatten"),
            layers.Dense(512, activation="relu", kernel_initializer=initial[2], name="dense"),
            layers.Dense(10, activation="softmax", kernel_initializer=initial[3], name="digit"),
        ],
        name="fedavg_mnist",
    )


def fedavg_2nn(seed: int = 0) -> keras.Model:
    """The multilayer perceptron, not compiled. The same seed gives the same weights bit for bit."""
    initial = [keras.initializers.GlorotUniform(seed * 3 + number) for number in range(3)]
    return keras.Sequential(
        [
            keras.Input((28, 28, 1), name="images"),
            layers.Flatten(name="flatten"),
            layers.Dense(200, activation="relu", kernel_initializer=initial[0], name="dense1"),
            layers.Dense(200, activation="relu", kernel_initializer=initial[1], name="dense2"),
            layers.Dense(10, activation="softmax", kernel_initializer=initial[2], name="digit"),
        ],
        name="fedavg_2nn",
    )
