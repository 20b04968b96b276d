"""Devices and their tokens: one each, kept by its sha256, for a time; renewed by enrolling again.

enrol          -> a token that holds for `token_days`
enrol again    with the last token, expired or not -> the same device, another token; the last one is void
revoke         its token is refused, and it cannot enrol again with it
"""

import hmac
import logging
import uuid
from collections.abc import Callable
from dataclasses import dataclass

from fedfer.aggregator.device_store import Device, DeviceStore, KnownDevice
from fedfer.aggregator.faults import reach
from fedfer.aggregator.keys import new_token, token_sha256
from fedfer.aggregator.logs import about
from fedfer.model.errors import RefusedError

logger = logging.getLogger("fedfer.aggregator")
DAY_SEC = 24 * 3600.0


@dataclass(frozen=True)
class Enrolled:
    """The only place where a token is: on its way to its device. `expires_at`: seconds since the epoch."""

    device: Device
    token: str
    expires_at: float


class Enrolment:
    """Methods raise RefusedError, StoreError."""

    def __init__(
        self, devices: DeviceStore, clock: Callable[[], float], token_days: float, max_devices: int
    ) -> None:
        self._devices, self._clock = devices, clock
        self._token_sec, self._max_devices = token_days * DAY_SEC, max_devices

    def enrol(self, name: str, contract: str | None, last_token: str | None) -> Enrolled:
        """A new device, or the one that `last_token` was given to; and its token, which is kept nowhere."""
        now, token = self._clock(), new_token()
        expires_at = now + self._token_sec
        known = self._find(last_token) if last_token else None
        if known is not None:
            _check_not_revoked(known)
            if self._devices.renew(known.device.id, known.token_sha256, token_sha256(token), expires_at):
                words, known_id = "device %s has a new token: %s", known.device.id
                logger.info(words, known.device.name, known_id, extra=about(device=known_id))
                return Enrolled(known.device, token, expires_at)
        device = Device(uuid.uuid4().hex, name, contract)
        if not self._devices.add(device, token_sha256(token), expires_at, now, self._max_devices):
            raise RefusedError(
                f"{self._max_devices} devices have enrolled, as many as this aggregator takes",
                code="too_many_devices",
                status=409,
            )
        reach("device_added")
        logger.info("device %s enrolled as %s", name, device.id, extra=about(device=device.id))
        return Enrolled(device, token, expires_at)

    def recognise(self, token: str) -> Device | None:
        """The device, if it was authenticated before and nothing has changed: at once, without the database.
        None says nothing: `authenticate` then says what is wrong, if anything is."""
        digest = token_sha256(token)
        known = self._devices.remembered(digest)
        if known is None or not hmac.compare_digest(known.token_sha256, digest):
            return None
        return known.device if known.expires_at > self._clock() else None

    def authenticate(self, token: str) -> Device:
        """The device that this token was given to."""
        known = self._find(token)
        if known is None:
            raise RefusedError(
                "expected `Authorization: Bearer <token>` with a token that this server gave; enrol first",
                code="bad_token",
                status=401,
            )
        _check_not_revoked(known)
        if known.expires_at <= self._clock():
            raise RefusedError(
                "this token has expired; enrol again, with it as `token`", code="expired_token", status=401
            )
        return known.device

    def revoke(self, device_id: str) -> None:
        """Refuses the device from now on; what it reported before stays counted."""
        if not self._devices.revoke(device_id, self._clock()):
            raise RefusedError(f"no device {ascii(device_id)[:80]}", code="unknown_device", status=404)
        logger.warning("device %s revoked", device_id, extra=about(device=device_id))

    def _find(self, token: str) -> KnownDevice | None:
        """By the sha256, which tells nothing of the token by how long it takes; compared once more whole."""
        digest = token_sha256(token)
        known = self._devices.by_token(digest)
        return known if known is not None and hmac.compare_digest(known.token_sha256, digest) else None


def _check_not_revoked(known: KnownDevice) -> None:
    if known.revoked_at is not None:
        raise RefusedError(
            "this device has been revoked by the aggregator's operator", code="device_revoked", status=403
        )
