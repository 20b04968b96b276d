"""The aggregator's database tables, in SQL that SQLite and PostgreSQL share.

meta      key, value: which model this data directory serves
devices   who enrolled; of a token only its sha256
rounds    one row a round, number 0 the initial checkpoint; times in seconds since the epoch
places    who holds, or held, a place in a round
updates   accepted updates in the order of their arrival; the checkpoints are files
"""

from sqlalchemy import BigInteger, Boolean, Column, Float, ForeignKey, Integer, MetaData, String, Table

SCHEMA_VERSION = "1"
metadata = MetaData()

meta = Table(
    "meta",
    metadata,
    Column("key", String(64), primary_key=True),
    Column("value", String(256), nullable=False),
)

devices = Table(
    "devices",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("name", String(64), nullable=False),
    Column("token_sha256", String(64), nullable=False, unique=True),
    Column("enrolled_at", Float, nullable=False),
)

rounds = Table(
    "rounds",
    metadata,
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("phase", String(16), nullable=False),
    Column("base_weights", String(64)),
    Column("result_weights", String(64), index=True),
    Column("num_clients", Integer, nullable=False),
    Column("min_clients", Integer, nullable=False),
    Column("deadline_sec", Float, nullable=False),
    Column("local_epochs", Integer, nullable=False),
    Column("batch_size", Integer, nullable=False),
    Column("learning_rate", Float),
    Column("opened_at", Float, nullable=False),
    Column("deadline_at", Float, nullable=False),
    Column("closed_at", Float),
    Column("bytes_down", BigInteger, nullable=False, default=0),
    Column("holdout_loss", Float),
    Column("holdout_accuracy", Float),
)

places = Table(
    "places",
    metadata,
    Column("round", Integer, ForeignKey("rounds.number"), primary_key=True),
    Column("device_id", String(32), ForeignKey("devices.id"), primary_key=True),
    Column("released", Boolean, nullable=False),
)

updates = Table(
    "updates",
    metadata,
    Column("round", Integer, ForeignKey("rounds.number"), primary_key=True),
    Column("device_id", String(32), ForeignKey("devices.id"), primary_key=True),
    Column("arrival", Integer, nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("num_examples", Integer, nullable=False),
    Column("received_bytes", BigInteger, nullable=False),
    Column("loss", Float, nullable=False),
    Column("accuracy", Float, nullable=False),
    Column("train_sec", Float),
)
