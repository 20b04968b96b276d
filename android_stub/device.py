"""One emulated phone: a state machine that takes one step of "a device's life" (docs/protocol.md) at a time.

    enrol -> ask -> train -> upload -> ask -> ... -> finished

It holds its own images and nobody else's. `step` never waits for a round: it returns how long to pause, so
that one process can carry many devices.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum, auto

from fedfer.android_stub.client import AggregatorClient
from fedfer.android_stub.device_files import DeviceFiles
from fedfer.android_stub.events import Event, Finished, Note, RoundSeen, Trained
from fedfer.android_stub.progress import Progress
from fedfer.android_stub.replies import Stop, Train, Wait
from fedfer.android_stub.trainer import LocalResult, Seeds, TrainingPlan, task_name, train_locally
from fedfer.android_stub.upload import Update
from fedfer.android_stub.workbench import Workbench
from fedfer.export.checkpoint import checkpoint_bytes, digest_of
from fedfer.export.contract import Contract
from fedfer.export.engine import Engine
from fedfer.model.data import LabelledImages
from fedfer.model.errors import RefusedError

MIN_PAUSE_SEC = 0.05  # whatever a server says, a waiting device does not spin
CANNOT_RESUME = (
    "this model cannot give out what its optimizer remembers; killed in a training, the phone begins it "
    "again: export the model again"
)
# Answers to an upload that came too late: nothing is wrong with the device, there is other work.
# Answers to a token that enrolling again replaces.
_NO_TOKEN = ("bad_token", "expired_token")
_TOO_LATE = ("round_over", "not_assigned", "training_over")


class State(Enum):
    ENROL = auto()
    ASK = auto()
    TRAIN = auto()
    UPLOAD = auto()
    FINISHED = auto()


@dataclass(frozen=True)
class DeviceSpec:
    """Who a device is: its name, its place in the fleet (0, 1, ...), and its images."""

    name: str
    index: int
    examples: LabelledImages


class Device:
    """`report` is told what happens; `fleet_seed` seeds all training of the fleet. Without `run` the server
    chooses what to work for. With `files` it is the device that an earlier process was, and goes on with
    what that one left."""

    def __init__(
        self,
        spec: DeviceSpec,
        fleet_seed: int,
        client: AggregatorClient,
        workbench: Workbench,
        report: Callable[[Event], None],
        run: str | None = None,
        files: DeviceFiles | None = None,
    ) -> None:
        self.name = spec.name
        self.state = State.ENROL
        self._spec = spec
        self._fleet_seed = fleet_seed
        self._client = client
        self._workbench = workbench
        self._report = report
        self._run = run
        self._files = files
        self._work: Train | None = None
        self._update: Update | None = None
        self._reported: tuple[str, int] | None = None  # run and round
        self._enrolled_again = False
        self._told_of_restarts = False
        token = None if files is None else files.token()
        if token is not None:
            client.connection.token = token
            self.state = State.ASK

    def step(self) -> float | None:
        """Does the next thing; returns seconds to pause before the next step, None when finished.

        Raises FedferError when the device cannot go on.
        """
        try:
            return self._step()
        except RefusedError as error:
            if error.code in _NO_TOKEN and not self._enrolled_again:
                self._enrolled_again = True  # until an update is accepted: no endless loop of enrolments
                return self._go_on_from(State.ENROL, f"{error}; enrolling again")
            if self.state is State.UPLOAD and error.code in _TOO_LATE:
                return self._go_on_from(State.ASK, f"{error}; asking for other work")
            raise

    def _step(self) -> float | None:
        match self.state:
            case State.ENROL:
                self._enrol()
            case State.ASK:
                return self._ask()
            case State.TRAIN:
                self._train()
                self._upload()  # at once: the next step may come after another device's training
            case State.FINISHED:
                return None
        return 0.0

    def _enrol(self) -> None:
        enrolment = self._client.enrol(self.name)
        if self._files is not None:
            self._files.keep_token(enrolment.token)
        self.state = State.ASK

    def _ask(self) -> float | None:
        work = self._client.ask_for_work(self._run)
        if isinstance(work, Wait):
            return max(MIN_PAUSE_SEC, work.retry_after_sec)
        self._see_result(before=work)
        if isinstance(work, Stop):
            self.state = State.FINISHED
            traffic = self._client.connection
            self._report(Finished(self.name, work.weights, traffic.received_bytes, traffic.sent_bytes))
            return None
        self._work = work
        self.state = State.TRAIN
        return 0.0

    def _see_result(self, before: Train | Stop) -> None:
        """New work, or none any more, means that the round reported for is over."""
        done = self._reported
        if done is None or (isinstance(before, Train) and (before.run, before.round) == done):
            return
        if self._workbench.is_first_to_see(*done):
            self._report(RoundSeen(self.name, self._client.round_result(*done)))

    def _train(self) -> None:
        assert self._work is not None
        work = self._work
        model = self._workbench.model(self._client, work)
        weights = self._workbench.weights(self._client, work, model)
        plan = TrainingPlan(work.local_epochs, work.batch_size, work.learning_rate, work.proximal_mu)
        seeds = Seeds(self._fleet_seed, self._spec.index, work.round)
        with self._progress(model, plan, seeds) as progress:
            result = train_locally(model, weights, self._spec.examples, plan, seeds, progress)
        if result.resumed_at:
            self._tell(f"went on with round {work.round} after its step {result.resumed_at}")
        self._update = self._keep(result, work, model.contract)
        self.state = State.UPLOAD

    @contextmanager
    def _progress(self, model: Engine, plan: TrainingPlan, seeds: Seeds) -> Iterator[Progress | None]:
        """The file in which the training is kept; None where there is none, or the model cannot go on."""
        assert self._work is not None
        if self._files is None or not model.can_resume:
            if self._files is not None and not self._told_of_restarts:
                self._told_of_restarts = True
                self._tell(CANNOT_RESUME)
            yield None
            return
        runtime = f"{model.runtime} {model.runtime_version}"
        work = self._work
        task = task_name(work.model, runtime, work.weights, plan, seeds, self._spec.examples)
        with Progress(self._files.progress, task, model.contract.state_shapes) as progress:
            yield progress

    def _keep(self, result: LocalResult, work: Train, contract: Contract) -> Update:
        """Puts the trained checkpoint on disk, from where the upload streams it."""
        data = checkpoint_bytes(result.weights, contract)
        cache, files = self._workbench.cache, self._files
        return Update(
            path=cache.write_update(self.name, data) if files is None else files.write_update(data),
            sha256=digest_of(data),
            base_weights=work.weights,
            num_examples=result.num_examples,
            loss=result.loss,
            accuracy=result.accuracy,
            train_sec=result.train_sec,
            is_begun=result.resumed_at == result.num_steps,
        )

    def _upload(self) -> None:
        assert self._work is not None
        assert self._update is not None
        work, update = self._work, self._update
        receipt = self._client.upload_update(work.run, work.round, update)
        self._forget_update()
        self._reported = (work.run, work.round)
        self._enrolled_again = False
        self.state = State.ASK
        self._report(
            Trained(
                device=self.name,
                round=work.round,
                num_examples=update.num_examples,
                loss=update.loss,
                accuracy=update.accuracy,
                train_sec=update.train_sec,
                update_bytes=receipt.received_bytes,
            )
        )

    def _go_on_from(self, state: State, why: str) -> float:
        self.state = state
        self._forget_update()
        self._tell(why)
        return MIN_PAUSE_SEC

    def _forget_update(self) -> None:
        if self._update is not None:
            self._update.path.unlink(missing_ok=True)
            if self._files is not None:
                self._files.forget_progress()

    def _tell(self, text: str) -> None:
        self._report(Note(self.name, text))
