"""The first schema. Nothing has been released with it: until then a change to tables.py is made here too.

Later changes get a file of their own (v0002_..., with `down_revision = "0001"`), which keeps what there is.
"""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    _devices()
    _models()
    _runs()
    _rounds()
    _places()
    _rejections()
    _refusals()
    _updates()
    _versions()
    _tags()


def _devices() -> None:
    op.create_table(
        "devices",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("contract", sa.String(length=64), nullable=True),
        sa.Column("token_sha256", sa.String(length=64), nullable=False),
        sa.Column("token_expires_at", sa.Float(), nullable=False),
        sa.Column("revoked_at", sa.Float(), nullable=True),
        sa.Column("enrolled_at", sa.Float(), nullable=False),
        sa.Column("seen_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("token_sha256"),
    )


def _models() -> None:
    op.create_table(
        "models",
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("contract", sa.String(length=64), nullable=False),
        sa.Column("added_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("sha256"),
    )


def _runs() -> None:
    op.create_table(
        "runs",
        sa.Column("name", sa.String(length=40), nullable=False),
        sa.Column("model", sa.String(length=64), nullable=False),
        sa.Column("settings", sa.Text(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("stop_reason", sa.String(length=16), nullable=True),
        sa.Column("stop_text", sa.Text(), nullable=True),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.ForeignKeyConstraint(["model"], ["models.sha256"]),
        sa.PrimaryKeyConstraint("name"),
    )


def _rounds() -> None:
    op.create_table(
        "rounds",
        sa.Column("run", sa.String(length=40), nullable=False),
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("phase", sa.String(length=16), nullable=False),
        sa.Column("outcome", sa.String(length=16), nullable=True),
        sa.Column("base_weights", sa.String(length=64), nullable=True),
        sa.Column("base_round", sa.Integer(), nullable=False),
        sa.Column("base_state", sa.String(length=64), nullable=True),
        sa.Column("candidate_weights", sa.String(length=64), nullable=True),
        sa.Column("result_weights", sa.String(length=64), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("settings", sa.Text(), nullable=False),
        sa.Column("opened_at", sa.Float(), nullable=False),
        sa.Column("selected_at", sa.Float(), nullable=True),
        sa.Column("deadline_at", sa.Float(), nullable=False),
        sa.Column("closed_at", sa.Float(), nullable=True),
        sa.Column("bytes_down", sa.BigInteger(), nullable=False),
        sa.Column("holdout_loss", sa.Float(), nullable=True),
        sa.Column("holdout_accuracy", sa.Float(), nullable=True),
        sa.ForeignKeyConstraint(["run"], ["runs.name"]),
        sa.PrimaryKeyConstraint("run", "number"),
    )


def _places() -> None:
    op.create_table(
        "places",
        sa.Column("run", sa.String(length=40), nullable=False),
        sa.Column("round", sa.Integer(), nullable=False),
        sa.Column("device_id", sa.String(length=32), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.ForeignKeyConstraint(["device_id"], ["devices.id"]),
        sa.ForeignKeyConstraint(["run", "round"], ["rounds.run", "rounds.number"]),
        sa.PrimaryKeyConstraint("run", "round", "device_id"),
    )


def _rejections() -> None:
    op.create_table(
        "rejections",
        sa.Column("run", sa.String(length=40), nullable=False),
        sa.Column("work_round", sa.Integer(), nullable=False),
        sa.Column("device_id", sa.String(length=32), nullable=False),
        sa.Column("round", sa.Integer(), nullable=False),
        sa.Column("code", sa.String(length=32), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["device_id"], ["devices.id"]),
        sa.ForeignKeyConstraint(["run", "round"], ["rounds.run", "rounds.number"]),
        sa.PrimaryKeyConstraint("run", "work_round", "device_id"),
    )
    op.create_index(op.f("ix_rejections_round"), "rejections", ["round"], unique=False)


def _refusals() -> None:
    op.create_table(
        "refusals",
        sa.Column("run", sa.String(length=40), nullable=False),
        sa.Column("round", sa.Integer(), nullable=False),
        sa.Column("device_id", sa.String(length=32), nullable=False),
        sa.Column("code", sa.String(length=32), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("times", sa.Integer(), nullable=False),
        sa.Column("last_at", sa.Float(), nullable=False),
        sa.ForeignKeyConstraint(["device_id"], ["devices.id"]),
        sa.ForeignKeyConstraint(["run", "round"], ["rounds.run", "rounds.number"]),
        sa.PrimaryKeyConstraint("run", "round", "device_id", "code"),
    )


def _updates() -> None:
    op.create_table(
        "updates",
        sa.Column("run", sa.String(length=40), nullable=False),
        sa.Column("work_round", sa.Integer(), nullable=False),
        sa.Column("device_id", sa.String(length=32), nullable=False),
        sa.Column("round", sa.Integer(), nullable=False),
        sa.Column("arrival", sa.Integer(), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("num_examples", sa.Integer(), nullable=False),
        sa.Column("received_bytes", sa.BigInteger(), nullable=False),
        sa.Column("loss", sa.Float(), nullable=False),
        sa.Column("accuracy", sa.Float(), nullable=False),
        sa.Column("train_sec", sa.Float(), nullable=True),
        sa.ForeignKeyConstraint(["device_id"], ["devices.id"]),
        sa.ForeignKeyConstraint(["run", "round"], ["rounds.run", "rounds.number"]),
        sa.PrimaryKeyConstraint("run", "work_round", "device_id"),
    )
    op.create_index(op.f("ix_updates_round"), "updates", ["round"], unique=False)


def _versions() -> None:
    op.create_table(
        "versions",
        sa.Column("run", sa.String(length=40), nullable=False),
        sa.Column("round", sa.Integer(), nullable=False),
        sa.Column("weights", sa.String(length=64), nullable=False),
        sa.Column("parent_round", sa.Integer(), nullable=True),
        sa.Column("state", sa.String(length=64), nullable=True),
        sa.Column("committed_at", sa.Float(), nullable=False),
        sa.Column("holdout_loss", sa.Float(), nullable=True),
        sa.Column("holdout_accuracy", sa.Float(), nullable=True),
        sa.Column("dropped_at", sa.Float(), nullable=True),
        sa.ForeignKeyConstraint(["run", "round"], ["rounds.run", "rounds.number"]),
        sa.PrimaryKeyConstraint("run", "round"),
    )
    op.create_index(op.f("ix_versions_weights"), "versions", ["weights"], unique=False)


def _tags() -> None:
    op.create_table(
        "tags",
        sa.Column("run", sa.String(length=40), nullable=False),
        sa.Column("tag", sa.String(length=40), nullable=False),
        sa.Column("round", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["run", "round"], ["versions.run", "versions.round"]),
        sa.PrimaryKeyConstraint("run", "tag"),
    )
