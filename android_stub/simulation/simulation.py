"""A fleet and its aggregator in virtual time: a discrete-event simulation over real calls and real training.

Every call goes to a real aggregator, and every update comes out of the very `.tflite` that it serves; only
time is made up: how long downloads, training and uploads take follows from the devices' profiles (`costs`).
Calls are made in the order of virtual time by this one process, so that what happens depends on the scenario
and its seed and on nothing else: neither on the number of processes that train nor on how fast they are.

A device that would upload into a round that has closed is refused (`round_over`); such a task is not trained,
as nothing would come of it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedfer.android_stub.client import AggregatorClient
from fedfer.android_stub.replies import Stop, Train, Wait
from fedfer.android_stub.simulation import costs
from fedfer.android_stub.simulation.attacks import AttackSettings
from fedfer.android_stub.simulation.breakage import Breakage
from fedfer.android_stub.simulation.jobs import Executor, Ticket
from fedfer.android_stub.simulation.phone import Assignment, Phone
from fedfer.android_stub.simulation.record import Recorder
from fedfer.android_stub.simulation.server_link import ServerLink, Standing
from fedfer.android_stub.simulation.tasks import Task, TaskResult
from fedfer.android_stub.simulation.timeline import Event, Timeline
from fedfer.android_stub.trainer import Seeds, TrainingPlan
from fedfer.android_stub.upload import Update
from fedfer.model.errors import FedferError, RefusedError

MIN_PAUSE_SEC = 0.05
MAX_DROPPED_SEC = 600.0  # how long a device that dropped out stays away at most
REFUSED_SEC = 60.0  # between questions of a device whose update was refused in this round
AHEAD = 64  # tasks trained before their uploads are due; their updates lie on disk
STALLED_SEC = 60 * 86_400.0  # of virtual time in which no round closes
# Virtual time in which no device does anything but ask: longer than an aggregator counts on who is silent,
# if nothing else is said; two periods of the devices' windows and so many of the pauses that they are told
# come on top.
IDLE_SEC, IDLE_PAUSES = 7200.0, 20
_DROP = 41  # first word of the entropy: no stream is shared with profiles, attacks or faults


@dataclass(frozen=True)
class Fleet:
    """`holdings[i]`: places of phone i's images in the fleet's data set; `attackers` do as `attack` says; a
    task takes `memory_bytes` at its peak."""

    seed: int
    phones: Sequence[Phone]
    holdings: Sequence[NDArray[np.intp]]
    attack: AttackSettings | None
    attackers: frozenset[int]
    memory_bytes: float = 0.0


@dataclass(frozen=True)
class Position:
    """Where a simulation stands, for who watches it."""

    now_sec: float
    round: int
    num_updates: int
    num_clients: int
    round_closed: bool


class Simulation:
    """`updates`: directory for trained checkpoints; `on_position` is called as things happen."""

    def __init__(
        self,
        fleet: Fleet,
        server: ServerLink,
        executor: Executor,
        recorder: Recorder,
        updates: Path,
        on_position: Callable[[Position], None],
        breakage: Breakage,
        target_accuracy: float | None = None,
    ) -> None:
        self._fleet, self._server, self._executor = fleet, server, executor
        self._recorder, self._updates, self._on_position = recorder, updates, on_position
        self._breakage, self._target = breakage, target_accuracy
        self._timeline = Timeline()
        self._clients: dict[int, AggregatorClient] = {}
        self._tickets: dict[int, tuple[int, Ticket]] = {}  # by device: its round, its task
        self._standing: Standing | None = None
        self._deadline_at = self._closed_at = self._busy_until = -1.0
        windows = (phone.profile.availability for phone in fleet.phones)
        periods = (each.period_sec for each in windows if not each.is_always)
        self._idle_sec = IDLE_SEC + 2 * max(periods, default=0.0)
        self._longest_pause_sec = 0.0
        self._is_round_untold = False
        self.on_round: Callable[[], None] = lambda: None  # called when a round has been recorded

    def run(self) -> Standing:
        """Until the run is over or the target reached. Raises FedferError."""
        if not self._timeline.events():
            self._enrol()
        self._settle()
        self._tell_rounds()
        while not self._is_over():
            event = self._timeline.next()
            self._server.at(event.at_sec)
            self._require_progress(event.at_sec)
            if event.kind == "deadline":
                self._settle()
            else:
                self._call(self._fleet.phones[event.device], event)
            self._tell_rounds()
        assert self._standing is not None
        return self._standing

    @property
    def now_sec(self) -> float:
        return self._timeline.now_sec

    def state(self) -> dict[str, Any]:
        """All that a simulation needs to go on from here, as JSON can hold it."""
        return {
            "now_sec": self._timeline.now_sec,
            "events": [[event.at_sec, event.kind, event.device] for event in self._timeline.events()],
            "phones": [phone.state() for phone in self._fleet.phones],
            "deadline_at": self._deadline_at,
            "closed_at": self._closed_at,
            "recorder": self._recorder.state(),
            "breakage": self._breakage.state(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Goes on from where `state` was taken; tasks under way are trained again."""
        events = [Event.of(*event) for event in state["events"]]
        self._timeline.restore(state["now_sec"], events)
        for phone, kept in zip(self._fleet.phones, state["phones"], strict=True):
            phone.restore(kept)
        self._deadline_at, self._closed_at = state["deadline_at"], state["closed_at"]
        self._recorder.restore(state["recorder"])
        self._breakage.restore(state["breakage"])
        self._busy_until = state["now_sec"]
        self._server.at(state["now_sec"])

    def _require_progress(self, now_sec: float) -> None:
        """Raises FedferError when nothing more is to be expected."""
        standing = self._standing
        assert standing is not None
        since_sec = max(self._closed_at, 0.0)
        # A deadline may close a round that has updates; one without is given another.
        due_sec = self._deadline_at if standing.num_updates else 0.0
        idle_since_sec = max(since_sec, self._busy_until, due_sec)
        if now_sec - since_sec > STALLED_SEC:
            what = "no round has closed"
        elif now_sec - idle_since_sec > self._idle_sec + IDLE_PAUSES * self._longest_pause_sec:
            what, since_sec = "no device has been given work", idle_since_sec
        else:
            return
        raise FedferError(
            f"{what} in {(now_sec - since_sec) / 3600:.0f} hours of virtual time: round {standing.round} "
            f"has {standing.num_updates} of {standing.num_clients} updates; see run.rounds.min_devices, and "
            "when the devices of [[profiles]] are there",
            code="stalled",
        )

    def _enrol(self) -> None:
        """All devices at time 0: as if the app had been installed before."""
        self._server.at(0.0)
        for phone in self._fleet.phones:
            self._client(phone).enrol(phone.name)
            phone.token = self._client(phone).connection.token
            if costs.fits_memory(phone.profile, self._fleet.memory_bytes):
                self._timeline.add(costs.next_available(phone.profile, 0.0), "ask", phone.index)
            else:
                self._recorder.fault(0.0, phone.name, "memory", "has too little for a task, and never asks")

    def _call(self, phone: Phone, event: Event) -> None:
        """The device's turn, unless it cannot reach the server now."""
        through_sec = self._breakage.reaches_server_at(phone, event.at_sec)
        if through_sec > event.at_sec:
            if phone.assignment is not None:
                phone.assignment.upload_at_sec = through_sec
            self._busy_until = max(self._busy_until, through_sec)
            self._timeline.add(through_sec, event.kind, phone.index)
            return
        self._server.at(event.at_sec, self._breakage.clock_offset_sec(phone))
        if event.kind == "ask":
            self._ask(phone)
        else:
            self._finish_task(phone)

    def _client(self, phone: Phone) -> AggregatorClient:
        if phone.index not in self._clients:
            self._clients[phone.index] = self._server.client(phone.name, phone.token)
        return self._clients[phone.index]

    # A device's life

    def _ask(self, phone: Phone) -> None:
        now_sec = self.now_sec
        available_sec = costs.next_available(phone.profile, now_sec)
        if available_sec > now_sec:
            self._timeline.add(available_sec, "ask", phone.index)
            return
        match self._client(phone).ask_for_work(self._server.run):
            case Wait(retry_after_sec=pause_sec):
                self._longest_pause_sec = max(self._longest_pause_sec, pause_sec)
                self._timeline.add(now_sec + max(MIN_PAUSE_SEC, pause_sec), "ask", phone.index)
            case Train(round=number) if number == phone.refused_round:
                self._timeline.add(now_sec + REFUSED_SEC, "ask", phone.index)
            case Train() as work:
                self._begin_task(phone, work)
            case Stop():
                self._settle()

    def _begin_task(self, phone: Phone, work: Train) -> None:
        client, now_sec, profile = self._client(phone), self.now_sec, phone.profile
        model_bytes = client.fetch_model(work.model).stat().st_size
        checkpoint_bytes = self._weights(phone, work).stat().st_size
        num_bytes = model_bytes * (phone.model != work.model) + checkpoint_bytes * (
            phone.weights != work.weights
        )
        phone.model, phone.weights = work.model, work.weights
        phone.counters.received_bytes += num_bytes
        phone.counters.num_tasks += 1
        self._recorder.downloaded(num_bytes)
        train_sec = costs.train_sec(profile, phone.num_examples, work.local_epochs)
        work_sec = costs.download_sec(profile, num_bytes) + train_sec
        upload_sec = costs.upload_sec(profile, checkpoint_bytes)
        delay_sec = self._breakage.delay_sec(phone, work)
        sends_from_sec = costs.finish_at(profile, now_sec, work_sec) + delay_sec
        end_sec = costs.finish_at(profile, now_sec, work_sec + upload_sec) + delay_sec
        rng = self._rng(phone, work.round)
        drops_out = rng.random() < profile.drop_out_probability
        if drops_out:
            end_sec = now_sec + rng.random() * (end_sec - now_sec)
        phone.assignment = Assignment(work, end_sec, sends_from_sec, train_sec, drops_out)
        self._busy_until = max(self._busy_until, end_sec)
        phone.counters.busy_sec += end_sec - now_sec
        self._timeline.add(end_sec, "upload", phone.index)
        self._note_deadline(work.deadline_sec)
        self._train_ahead()

    def _finish_task(self, phone: Phone) -> None:
        task = phone.assignment
        assert task is not None
        pause_sec = MIN_PAUSE_SEC
        if task.drops_out:
            phone.counters.num_dropped += 1
            pause_sec += MAX_DROPPED_SEC * self._rng(phone, -1).random()
        elif self._is_closed(task.work):
            if self._recorder.rounds[task.work.round]["closed_sec"] > task.sends_from_sec:
                # It comes to its end and is turned away there; one that begins later is at its head.
                self._breakage.sent(phone, self._weights(phone, task.work).stat().st_size)
            self._refused(phone, "round_over")
        else:
            self._upload(phone, task)
        phone.assignment = None
        self._breakage.forget(phone, task.work)
        self._timeline.add(self.now_sec + pause_sec, "ask", phone.index)

    def _upload(self, phone: Phone, task: Assignment) -> None:
        result = self._result(phone, task)
        update = Update(
            path=self._output(phone),
            sha256=result.sha256,
            base_weights=task.work.weights,
            num_examples=result.num_examples,
            loss=result.loss,
            accuracy=result.accuracy,
            train_sec=task.train_sec,
        )
        try:
            self._breakage.upload(self.now_sec, phone, self._client(phone), task.work, update)
            phone.counters.num_accepted += 1
        except RefusedError as error:
            if error.status in (401, 403):
                raise
            self._refused(phone, error.code)
            phone.refused_round = task.work.round  # it would train the same again
        update.path.unlink(missing_ok=True)
        self._settle()

    def _refused(self, phone: Phone, code: str) -> None:
        phone.counters.num_rejected += 1
        self._recorder.refused(code)

    # Training ahead of time

    def _result(self, phone: Phone, task: Assignment) -> TaskResult:
        self._train_ahead()
        if phone.index not in self._tickets:
            self._submit(phone, task)
        return self._tickets.pop(phone.index)[1].result()

    def _train_ahead(self) -> None:
        """Hands in the tasks whose updates will count, by what is known now; takes others back."""
        standing = self._standing
        assert standing is not None
        wanted = AHEAD if standing.is_async else min(AHEAD, standing.num_clients - standing.num_updates)
        open_ = [
            (task.upload_at_sec, phone.index)
            for phone in self._fleet.phones
            if (task := phone.assignment) and not task.drops_out and not self._is_closed(task.work)
        ]
        soonest = {index for _, index in sorted(open_)[:wanted]}
        for index in [index for index in self._tickets if index not in soonest]:
            if self._tickets[index][1].cancel():
                del self._tickets[index]
        for index in soonest - self._tickets.keys():
            phone = self._fleet.phones[index]
            assert phone.assignment is not None
            self._submit(phone, phone.assignment)

    def _submit(self, phone: Phone, task: Assignment) -> None:
        work, client = task.work, self._client(phone)
        is_attacker = phone.index in self._fleet.attackers
        ticket = self._executor.submit(
            Task(
                device=phone.name,
                model=client.fetch_model(work.model),
                contract=work.contract,
                weights=self._weights(phone, work),
                indices=self._fleet.holdings[phone.index],
                plan=TrainingPlan(work.local_epochs, work.batch_size, work.learning_rate, work.proximal_mu),
                seeds=Seeds(self._fleet.seed, phone.index, work.round),
                output=self._output(phone),
                attack=self._fleet.attack if is_attacker else None,
                killing=self._breakage.killing(phone, work),
            ),
            urgency=task.upload_at_sec,
        )
        self._tickets[phone.index] = work.round, ticket

    def _weights(self, phone: Phone, work: Train) -> Path:
        return self._client(phone).fetch_weights(work.weights, self._recorder.max_checkpoint_bytes)

    def _output(self, phone: Phone) -> Path:
        return self._updates / phone.name

    def _is_closed(self, work: Train) -> bool:
        standing = self._standing
        return standing is not None and not standing.is_async and work.round < standing.round

    # Rounds

    def _settle(self) -> None:
        """Lets the server finish what is due, and takes down the rounds that have closed."""
        self._standing = standing = self._server.settle()
        if standing.deadline_sec is not None:
            self._note_deadline(standing.deadline_sec)
        closed = False
        while self._recorder.next_round < standing.round + standing.is_over:
            self._recorder.round(self._server.round(self._recorder.next_round), self.now_sec)
            self._closed_at, closed = self.now_sec, True
        self._on_position(
            Position(self.now_sec, standing.round, standing.num_updates, standing.num_clients, closed)
        )
        self._is_round_untold |= closed

    def _tell_rounds(self) -> None:
        """Between two events: within one, the device whose update closes a round has nothing ahead of it, and
        would never be heard of again by who goes on from there."""
        if self._is_round_untold:
            self._is_round_untold = False
            self.on_round()

    def _note_deadline(self, deadline_sec: float) -> None:
        at_sec = self.now_sec + max(deadline_sec, 0.0) + 0.002  # replies give milliseconds
        if abs(at_sec - self._deadline_at) > 0.1:
            self._deadline_at = at_sec
            self._timeline.add(at_sec, "deadline")

    def _is_over(self) -> bool:
        assert self._standing is not None
        return self._standing.is_over or self._recorder.has_reached(self._target)

    def _rng(self, phone: Phone, round_number: int) -> np.random.Generator:
        """Of one attempt at one task; -1 stands for what comes after it."""
        attempt = phone.counters.num_tasks + phone.counters.num_dropped
        entropy = (_DROP, self._fleet.seed, phone.index, round_number + 1, attempt)
        return np.random.Generator(np.random.PCG64(np.random.SeedSequence(entropy)))
