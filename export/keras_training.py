"""Optimizer settings from and as Keras optimizers: what a compiled model says, and what to compare with."""

from dataclasses import replace

import keras

from fedfer.export.optimizer_settings import Kind, OptimizerSettings, optimizer_faults
from fedfer.model.errors import ExportError

# What Keras optimizers can be told that phones are not: attribute -> its value when it is not used.
UNSUPPORTED = {
    "clipnorm": None,
    "clipvalue": None,
    "use_ema": False,
    "loss_scale_factor": None,
    "gradient_accumulation_steps": None,
    "amsgrad": False,
}
# Where `exclude_from_weight_decay` leaves what it was told.
EXCLUSIONS = ("_exclude_from_weight_decay", "_exclude_from_weight_decay_pattern")


def settings_of(optimizer: keras.optimizers.Optimizer) -> tuple[OptimizerSettings, float]:
    """Of a compiled model's optimizer, with its learning rate. Raises ExportError for what phones lack."""
    kinds: dict[type, Kind] = {
        keras.optimizers.SGD: "sgd",
        keras.optimizers.Adam: "adam",
        keras.optimizers.AdamW: "adamw",
    }
    name, config = kinds.get(type(optimizer)), optimizer.get_config()
    used = [key for key, unused in UNSUPPORTED.items() if config.get(key, unused) != unused]
    used += [key for key in EXCLUSIONS if getattr(optimizer, key, None)]
    if name is None or used:
        what = type(optimizer).__name__ + (f" with {used[0].strip('_')}" if used else "")
        raise ExportError(
            f"the model's optimizer is {what}; expected SGD, Adam or AdamW, at most with momentum, "
            "weight_decay and global_clipnorm: choose one by --optimizer"
        )
    numbers = {
        key: float(config[key]) for key in ("momentum", "beta_1", "beta_2", "epsilon") if key in config
    }
    settings = OptimizerSettings(
        name=name,
        nesterov=bool(config.get("nesterov")),
        weight_decay=float(config["weight_decay"] or 0),
        clip_norm=float(config["global_clipnorm"]) if config["global_clipnorm"] else None,
        **numbers,
    )
    if settings.nesterov and not settings.momentum:  # Keras takes it and does nothing
        settings = replace(settings, nesterov=False)
    for fault in optimizer_faults(settings):
        raise ExportError(f"the model's optimizer does not do: {fault}")
    return settings, float(optimizer.learning_rate)


def keras_optimizer(settings: OptimizerSettings, learning_rate: float) -> keras.optimizers.Optimizer:
    """Keras's own optimizer with these settings."""
    common = {
        "learning_rate": learning_rate,
        "weight_decay": settings.weight_decay or None,
        "global_clipnorm": settings.clip_norm,
    }
    if settings.name == "sgd":
        return keras.optimizers.SGD(momentum=settings.momentum, nesterov=settings.nesterov, **common)
    kind = {"adam": keras.optimizers.Adam, "adamw": keras.optimizers.AdamW}[settings.name]
    moments = {"beta_1": settings.beta_1, "beta_2": settings.beta_2, "epsilon": settings.epsilon}
    return kind(**moments, **common)
