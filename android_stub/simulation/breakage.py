"""The faults of a simulation as it runs: whom they strike, the calls they make, what is recorded of them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from fedfer.android_stub.backoff import RetryPolicy
from fedfer.android_stub.client import AggregatorClient
from fedfer.android_stub.replies import Train
from fedfer.android_stub.simulation.dying import Killing, killing_of
from fedfer.android_stub.simulation.faults import (
    Fault,
    FaultKind,
    FaultSettings,
    back_at_sec,
    clock_offset_sec,
    faults_of,
)
from fedfer.android_stub.simulation.faulty_uploads import (
    of_another_model,
    refusal_of,
    stale,
    upload_again,
    upload_cut,
    with_nan,
)
from fedfer.android_stub.simulation.phone import Phone
from fedfer.android_stub.simulation.record import Recorder
from fedfer.android_stub.upload import Update
from fedfer.export.contract import Contract

SERVER_CUT_SHARE = 0.5  # of the update during which the aggregator is killed
_BACK = 23  # first word of the entropy; faults.py has those before it
_REFUSED: dict[FaultKind, str] = {
    "stale_upload": "its update of another version",
    "wrong_model": "a checkpoint of another model",
    "nan": "an update with NaN",
}


class Breakage:
    """`restart_server` kills the aggregator and returns when another answers in its place; `directory` is for
    files that are sent and forgotten."""

    def __init__(
        self,
        settings: FaultSettings,
        seed: int,
        contract: Contract,
        recorder: Recorder,
        directory: Path,
        restart_server: Callable[[], None],
    ) -> None:
        self._settings, self._seed, self._contract = settings, seed, contract
        self._recorder, self._directory, self._restart_server = recorder, directory, restart_server
        self._server_kills = 0

    def state(self) -> dict[str, Any]:
        """As JSON can hold it."""
        return {"server_kills": self._server_kills}

    def restore(self, state: dict[str, Any]) -> None:
        self._server_kills = state["server_kills"]

    def delay_sec(self, phone: Phone, work: Train) -> float:
        """How long the device is silent between training and upload."""
        return sum(fault.delay_sec for fault in self._faults(phone, work).values())

    def clock_offset_sec(self, phone: Phone) -> float:
        """By how much the device's clock is ahead."""
        offset_sec = clock_offset_sec(self._settings, self._seed, phone.index)
        return phone.profile.clock_offset_sec + offset_sec

    def reaches_server_at(self, phone: Phone, at_sec: float) -> float:
        """When a call that the device would make at this moment comes through: at once, or after the gap and
        a pause that differs from device to device."""
        back_sec = back_at_sec(self._settings, at_sec)
        if back_sec == at_sec:
            return at_sec
        text = f"nobody reaches the aggregator until {back_sec:g} s"
        if text not in [fault["text"] for fault in self._recorder.faults]:
            self._recorder.fault(at_sec, None, "network_down", text)
        entropy = np.random.SeedSequence((_BACK, self._seed, phone.index, int(back_sec)))
        pause_sec = np.random.Generator(np.random.PCG64(entropy)).random() * RetryPolicy.max_pause_sec
        return back_sec + float(pause_sec)

    def killing(self, phone: Phone, work: Train) -> Killing | None:
        """Where in the task its process is killed; None if it is left alone."""
        fault = self._faults(phone, work).get("kill")
        if fault is None:
            return None
        num_steps = work.local_epochs * -(-phone.num_examples // work.batch_size)
        return killing_of(fault.share, num_steps, self._progress(phone, work))

    def forget(self, phone: Phone, work: Train) -> None:
        """The task is over, whatever came of it."""
        self._progress(phone, work).unlink(missing_ok=True)

    def upload(
        self, now_sec: float, phone: Phone, client: AggregatorClient, work: Train, update: Update
    ) -> None:
        """Hands the update in, with all that goes wrong. Raises RefusedError for the update itself."""
        faults = self._faults(phone, work)
        if "kill" in faults:
            self._tell(now_sec, phone, "killed", f"in round {work.round}, in the middle of a step")
        if "delay" in faults:
            self._tell(now_sec, phone, "delay", f"silent for {faults['delay'].delay_sec:.1f} s")
        for kind in _REFUSED:
            if kind in faults:
                self._send_refused(now_sec, phone, client, work, update, kind)
        place, num_bytes = (client, work.run, work.round, update), update.path.stat().st_size
        self.sent(phone, num_bytes)
        if self._server_dies(now_sec):
            self._server_kills += 1
            self._tell(now_sec, None, "aggregator_killed", f"during an update of {phone.name}; started again")
            receipt = upload_cut(*place, SERVER_CUT_SHARE, self._restart_server)
        elif "cut_upload" in faults:
            share = faults["cut_upload"].share
            self._tell(now_sec, phone, "cut_upload", f"after {share:.0%} of its update, then gone on with")
            receipt = upload_cut(*place, share)
        else:
            receipt = client.upload_update(work.run, work.round, update)
        if "repeat_upload" in faults:
            self.sent(phone, num_bytes)
            upload_again(*place, receipt)
            self._tell(now_sec, phone, "repeat_upload", "its update was sent twice, and counted once")

    def _send_refused(
        self,
        now_sec: float,
        phone: Phone,
        client: AggregatorClient,
        work: Train,
        update: Update,
        kind: FaultKind,
    ) -> None:
        scratch = self._directory / f"{phone.name}.{kind}"
        match kind:
            case "stale_upload":
                sent = stale(update)
            case "wrong_model":
                sent = of_another_model(update, self._contract, scratch)
            case _:
                sent = with_nan(update, self._contract, scratch)
        self.sent(phone, sent.path.stat().st_size)
        code = refusal_of(client, work.run, work.round, sent)
        scratch.unlink(missing_ok=True)
        phone.counters.num_rejected += 1
        self._recorder.refused(code)
        self._tell(now_sec, phone, kind, f"{_REFUSED[kind]} was refused: {code}")

    def _faults(self, phone: Phone, work: Train) -> dict[FaultKind, Fault]:
        if self._settings.is_calm:
            return {}
        return {f.kind: f for f in faults_of(self._settings, self._seed, phone.index, work.round)}

    def _server_dies(self, now_sec: float) -> bool:
        moments = sorted(self._settings.aggregator_kill_at_sec)
        return len(moments) > self._server_kills and moments[self._server_kills] <= now_sec

    def sent(self, phone: Phone, num_bytes: int) -> None:
        """Counts bytes that a device sent."""
        phone.counters.sent_bytes += num_bytes
        self._recorder.uploaded(num_bytes)

    def _tell(self, now_sec: float, phone: Phone | None, kind: str, text: str) -> None:
        self._recorder.fault(now_sec, phone.name if phone else None, kind, text)

    def _progress(self, phone: Phone, work: Train) -> Path:
        return self._directory / f"{phone.name}.{work.round}.progress"
