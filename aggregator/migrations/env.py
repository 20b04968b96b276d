"""How alembic runs the migrations: on the connection, and in the transaction, that `schema` gives it."""

from alembic import context

from fedfer.aggregator import tables

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=tables.metadata,
    render_as_batch=True,  # SQLite cannot alter a column in place
)
context.run_migrations()
