"""The server's side of TLS: a certificate and its key, checked before anything listens."""

import ssl
from pathlib import Path

from fedfer.model.errors import UsageError


def server_context(certificate: Path, key: Path) -> ssl.SSLContext:
    """TLS 1.2 and newer with the chain in `certificate` (PEM). Raises UsageError: cannot be read, is no
    certificate, or the key is another's or behind a passphrase."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    for path in (certificate, key):
        try:
            path.open("rb").close()
        except OSError as error:
            raise UsageError(f"cannot read {path}: {error.strerror}") from None
    try:
        context.load_cert_chain(certificate, key, password=_no_passphrase)
    except ssl.SSLError as error:
        raise UsageError(
            f"{certificate} and {key} are not a certificate and its key in PEM ({error.reason or error})"
        ) from None
    return context


def _no_passphrase() -> str:
    """Asked for by OpenSSL when the key is encrypted; a server has nobody to ask."""
    raise UsageError("the TLS key is behind a passphrase; expected one without, readable by its owner only")
