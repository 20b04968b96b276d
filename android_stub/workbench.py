"""What the devices of one process share, so that memory grows with processes and not with devices:
the engine with the served model, the checkpoint that was loaded last, the cache of files."""

from fedfer.android_stub.cache import Cache
from fedfer.android_stub.client import AggregatorClient
from fedfer.android_stub.fields import bad_reply
from fedfer.android_stub.replies import Train
from fedfer.export.checkpoint import Weights, load_checkpoint, max_checkpoint_bytes
from fedfer.export.engine import Engine
from fedfer.export.engines import EngineChoice, open_engine


class Workbench:
    """Holds one engine and one checkpoint at a time; devices use it in turn."""

    def __init__(self, cache: Cache, engine: EngineChoice) -> None:
        self.cache = cache
        self._engine = engine
        self._model: tuple[str, Engine] | None = None
        self._weights: tuple[str, Weights] | None = None
        self._newest_seen: dict[str, int] = {}  # round by run

    def model(self, client: AggregatorClient, work: Train) -> Engine:
        """The engine with this work's model. Raises as `open_engine`, and RefusedError."""
        if self._model is None or self._model[0] != work.model:
            self._model = self._weights = None  # before the next is loaded: memory of one
            loaded = open_engine(client.fetch_model(work.model), self._engine)
            if loaded.contract.digest != work.contract:
                raise bad_reply(f"its model has contract {loaded.contract.digest}, not the one it names", 200)
            self._model = (work.model, loaded)
        return self._model[1]

    def weights(self, client: AggregatorClient, work: Train, model: Engine) -> Weights:
        """The checkpoint that this work starts from, checked. Raises CheckpointError, RefusedError."""
        if self._weights is None or self._weights[0] != work.weights:
            self._weights = None
            path = client.fetch_weights(work.weights, max_checkpoint_bytes(model.contract))
            self._weights = (work.weights, load_checkpoint(path, model.contract))
        return self._weights[1]

    def is_first_to_see(self, run: str, round_number: int) -> bool:
        """True once per round: one device of the process asks what became of it, not every one."""
        newest = self._newest_seen.get(run, 0)
        self._newest_seen[run] = max(round_number, newest)
        return round_number > newest
