"""The aggregator's database tables, in SQL that SQLite and PostgreSQL share.

devices   who enrolled; of a token only its sha256
models    every `.tflite` that runs may use
runs      a model, settings (JSON) and a state each
rounds    one row a round of a run, number 0 the initial checkpoint; times in seconds since the epoch
places    who may take, holds, or held, a place in a round
updates   accepted updates in the order of their arrival; the checkpoints are files
rejections updates that a gate turned away, with the reason
refusals  uploads that were refused when they came, by the newest round then, with the last reason
versions  committed models with what they came of, by the round that they came of; the checkpoints are files
tags      names that operators gave to versions
"""

from sqlalchemy import (
    BigInteger,
    Column,
    Float,
    ForeignKey,
    ForeignKeyConstraint,
    Integer,
    MetaData,
    String,
    Table,
    Text,
)

metadata = MetaData()

devices = Table(
    "devices",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("name", String(64), nullable=False),
    Column("contract", String(64)),
    Column("token_sha256", String(64), nullable=False, unique=True),
    Column("token_expires_at", Float, nullable=False),
    Column("revoked_at", Float),
    Column("enrolled_at", Float, nullable=False),
    Column("seen_at", Float, nullable=False),
)

models = Table(
    "models",
    metadata,
    Column("sha256", String(64), primary_key=True),
    Column("contract", String(64), nullable=False),
    Column("added_at", Float, nullable=False),
)

runs = Table(
    "runs",
    metadata,
    Column("name", String(40), primary_key=True),
    Column("model", String(64), ForeignKey("models.sha256"), nullable=False),
    Column("settings", Text, nullable=False),
    Column("state", String(16), nullable=False),
    Column("stop_reason", String(16)),
    Column("stop_text", Text),
    Column("created_at", Float, nullable=False),
)

rounds = Table(
    "rounds",
    metadata,
    Column("run", String(40), ForeignKey("runs.name"), primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("phase", String(16), nullable=False),
    Column("outcome", String(16)),
    Column("base_weights", String(64)),
    Column("base_round", Integer, nullable=False, default=0),
    Column("base_state", String(64)),
    Column("candidate_weights", String(64)),
    Column("result_weights", String(64)),
    Column("reason", Text),
    Column("settings", Text, nullable=False),
    Column("opened_at", Float, nullable=False),
    Column("selected_at", Float),
    Column("deadline_at", Float, nullable=False),
    Column("closed_at", Float),
    Column("bytes_down", BigInteger, nullable=False, default=0),
    Column("holdout_loss", Float),
    Column("holdout_accuracy", Float),
)

places = Table(
    "places",
    metadata,
    Column("run", String(40), primary_key=True),
    Column("round", Integer, primary_key=True),
    Column("device_id", String(32), ForeignKey("devices.id"), primary_key=True),
    Column("state", String(16), nullable=False),
    ForeignKeyConstraint(["run", "round"], ["rounds.run", "rounds.number"]),
)

updates = Table(
    "updates",
    metadata,
    Column("run", String(40), primary_key=True),
    Column("work_round", Integer, primary_key=True),
    Column("device_id", String(32), ForeignKey("devices.id"), primary_key=True),
    Column("round", Integer, nullable=False, index=True),
    Column("arrival", Integer, nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("num_examples", Integer, nullable=False),
    Column("received_bytes", BigInteger, nullable=False),
    Column("loss", Float, nullable=False),
    Column("accuracy", Float, nullable=False),
    Column("train_sec", Float),
    ForeignKeyConstraint(["run", "round"], ["rounds.run", "rounds.number"]),
)

rejections = Table(
    "rejections",
    metadata,
    Column("run", String(40), primary_key=True),
    Column("work_round", Integer, primary_key=True),
    Column("device_id", String(32), ForeignKey("devices.id"), primary_key=True),
    Column("round", Integer, nullable=False, index=True),
    Column("code", String(32), nullable=False),
    Column("reason", Text, nullable=False),
    ForeignKeyConstraint(["run", "round"], ["rounds.run", "rounds.number"]),
)

refusals = Table(
    "refusals",
    metadata,
    Column("run", String(40), primary_key=True),
    Column("round", Integer, primary_key=True),
    Column("device_id", String(32), ForeignKey("devices.id"), primary_key=True),
    Column("code", String(32), primary_key=True),
    Column("reason", Text, nullable=False),
    Column("times", Integer, nullable=False),
    Column("last_at", Float, nullable=False),
    ForeignKeyConstraint(["run", "round"], ["rounds.run", "rounds.number"]),
)

versions = Table(
    "versions",
    metadata,
    Column("run", String(40), primary_key=True),
    Column("round", Integer, primary_key=True),
    Column("weights", String(64), nullable=False, index=True),
    Column("parent_round", Integer),
    Column("state", String(64)),
    Column("committed_at", Float, nullable=False),
    Column("holdout_loss", Float),
    Column("holdout_accuracy", Float),
    Column("dropped_at", Float),
    ForeignKeyConstraint(["run", "round"], ["rounds.run", "rounds.number"]),
)

tags = Table(
    "tags",
    metadata,
    Column("run", String(40), primary_key=True),
    Column("tag", String(40), primary_key=True),
    Column("round", Integer, nullable=False),
    ForeignKeyConstraint(["run", "round"], ["versions.run", "versions.round"]),
)
