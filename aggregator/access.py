"""Dependencies of calls that need a key: `enrolling` and `admin`, after the server's `Keyring`."""

from fastapi import Request

from fedfer.aggregator.keys import Keyring


def enrolling(request: Request) -> None:
    """Lets pass who shows the enrolment key, if there is one. Raises RefusedError."""
    keyring_of(request).check_enrolment(request.headers.get("authorization", ""))


def admin(request: Request) -> None:
    """Lets pass who shows the admin key. Raises RefusedError."""
    keyring_of(request).check_admin(request.headers.get("authorization", ""))


def keyring_of(request: Request) -> Keyring:
    keyring: Keyring = request.app.state.keyring
    return keyring
