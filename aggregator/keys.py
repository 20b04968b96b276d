"""Keys and tokens as the server holds them: by their sha256 only, compared in constant time.

A key is shown once by who made it (`fedfer keys new`) and a token once to the device it was made for, so
neither a log, a dump of memory's objects nor the database can give one away. Both have at least 128 bits,
so a plain hash of them cannot be guessed back (no salt, no stretching needed: NIST SP 800-63B, 5.1.2).
"""

import hmac
import secrets
from dataclasses import dataclass, field
from hashlib import sha256

from fedfer.model.errors import RefusedError

TOKEN_BYTES = 32


@dataclass(frozen=True)
class Key:
    """A secret that callers must know."""

    digest: bytes = field(repr=False)

    @classmethod
    def of(cls, text: str) -> "Key":
        return cls(sha256_of(text))

    def matches(self, given: str) -> bool:
        """Whether this is the key; takes the same time for every wrong one."""
        return hmac.compare_digest(self.digest, sha256_of(given))


@dataclass(frozen=True)
class Keyring:
    """The keys of an aggregator. Without `enrol` anybody may enrol; without `admin` nobody is the admin."""

    enrol: Key | None = None
    admin: Key | None = None

    def check_enrolment(self, authorization: str) -> None:
        """Raises RefusedError (401 bad_enrol_key) unless the header holds the enrolment key."""
        if self.enrol is not None and not self.enrol.matches(bearer(authorization)):
            raise RefusedError(
                "expected `Authorization: Bearer <enrolment key>` with this aggregator's enrolment key",
                code="bad_enrol_key",
                status=401,
            )

    def is_admin(self, authorization: str) -> bool:
        """Whether the header holds the admin key, if there is one."""
        return self.admin is not None and self.admin.matches(bearer(authorization))

    def check_admin(self, authorization: str) -> None:
        """Raises RefusedError (403 admin_disabled, 401 bad_admin_key) unless the header has the admin key."""
        if self.admin is None:
            raise RefusedError(
                "this aggregator was started without an admin key, so nobody may make this call; "
                "start it with --admin-key-file or FEDFER_ADMIN_KEY",
                code="admin_disabled",
                status=403,
            )
        if not self.is_admin(authorization):
            raise RefusedError(
                "expected `Authorization: Bearer <admin key>` with this aggregator's admin key",
                code="bad_admin_key",
                status=401,
            )


def bearer(authorization: str) -> str:
    """What follows `Bearer` in an Authorization header, empty for any other scheme (RFC 6750, 2.1)."""
    scheme, _, given = authorization.partition(" ")
    return given.strip() if scheme.lower() == "bearer" else ""


def new_token() -> str:
    """A device's token: 256 random bits in characters that fit a header."""
    return secrets.token_urlsafe(TOKEN_BYTES)


def token_sha256(token: str) -> str:
    """Hex sha256 of a token: what the database keeps of it."""
    return sha256_of(token).hex()


def sha256_of(text: str) -> bytes:
    return sha256(text.encode(errors="replace")).digest()
