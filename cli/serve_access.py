"""Who may reach `fedfer serve`: the options for keys, TLS, proxies and limits, and what they forbid."""

import argparse
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from fedfer.aggregator.config import ServerConfig
from fedfer.aggregator.keys import Key, Keyring
from fedfer.aggregator.limits import Limits
from fedfer.aggregator.rate_limits import is_loopback
from fedfer.cli.key_files import ADMIN_VARIABLE, ENROL_VARIABLE, read_key
from fedfer.cli.settings import add_numbers
from fedfer.model.errors import UsageError


@dataclass(frozen=True)
class Access:
    """What stands before the application. `tls` None is plain HTTP."""

    keyring: Keyring
    limits: Limits
    tls: ssl.SSLContext | None
    token_days: float


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Defaults are those of `Limits`."""
    add = parser.add_argument
    add(
        "--enrol-key-file",
        type=Path,
        metavar="FILE",
        help=f"key that devices enrol with; {ENROL_VARIABLE} if not given; `fedfer keys new` makes one",
    )
    add("--open-enrolment", action="store_true", help="let anybody enrol, also from other machines")
    add(
        "--admin-key-file",
        type=Path,
        metavar="FILE",
        help=f"key for admin calls; {ADMIN_VARIABLE} if not given; without any, such calls are refused",
    )
    add("--token-days", type=float, default=ServerConfig.token_days, help="days that a device's token holds")
    add("--tls-certificate", type=Path, metavar="FILE", help="certificate chain in PEM: serves HTTPS")
    add("--tls-key", type=Path, metavar="FILE", help="the certificate's key in PEM")
    add(
        "--trusted-proxy",
        action="append",
        metavar="ADDRESS",
        help="address or network of a proxy whose X-Forwarded-For and -Proto are believed; may be repeated",
    )
    limits = (
        ("--device-rate", float, "calls a second of one device; 0 is no limit"),
        ("--address-rate", float, "calls a second from one address; 0 is no limit"),
        ("--enrol-rate", float, "enrolments a second from one address; 0 is no limit"),
        ("--address-connections", int, "connections at a time from one address"),
        ("--min-upload-bytes-per-sec", float, "slower uploads are given up; 0 is no limit"),
    )
    add_numbers(add, Limits, limits)


def access_of(args: argparse.Namespace, environ: Mapping[str, str], warn: Callable[[str], None]) -> Access:
    """The access that the arguments stand for. Raises UsageError, also for what would let anybody in."""
    enrol = read_key(args.enrol_key_file, ENROL_VARIABLE, environ, warn)
    admin = read_key(args.admin_key_file, ADMIN_VARIABLE, environ, warn)
    if enrol is not None and enrol == admin:
        raise UsageError("the enrolment key is also the admin key; every device would be the admin")
    if enrol is not None and args.open_enrolment:
        raise UsageError("--open-enrolment lets anybody in; leave it out, or leave the enrolment key out")
    proxies = tuple(args.trusted_proxy or ())
    tls = _tls(args.tls_certificate, args.tls_key)
    _check_reach(args.host, bool(enrol), args.open_enrolment, bool(proxies))
    if not is_local(args.host) and tls is None and not proxies:
        warn(
            f"listening on {args.host} without TLS: tokens and weights can be read on the way; "
            "give --tls-certificate and --tls-key, or put a TLS proxy in front and name it by --trusted-proxy"
        )
    return Access(
        Keyring(enrol=Key.of(enrol) if enrol else None, admin=Key.of(admin) if admin else None),
        Limits(
            args.device_rate,
            args.address_rate,
            args.enrol_rate,
            args.address_connections,
            args.min_upload_bytes_per_sec,
            tuple(map(_network, proxies)),
        ),
        tls,
        args.token_days,
    )


def is_local(host: str) -> bool:
    """Whether only this machine can reach a server that listens there."""
    return host == "localhost" or is_loopback(host)


def _check_reach(host: str, has_key: bool, is_open: bool, has_proxy: bool) -> None:
    if has_key or is_open or (is_local(host) and not has_proxy):
        return
    where = "through a proxy" if is_local(host) else f"on {host}, where others can reach it,"
    raise UsageError(
        f"serving {where} without an enrolment key would let anybody in; "
        "give --enrol-key-file (`fedfer keys new enrol.key` makes one), or --open-enrolment if that is meant"
    )


def _tls(certificate: Path | None, key: Path | None) -> ssl.SSLContext | None:
    if certificate is None and key is None:
        return None
    if certificate is None or key is None:
        raise UsageError("--tls-certificate and --tls-key belong together; expected both or none")
    from fedfer.aggregator.tls import server_context

    return server_context(certificate, key)


def _network(text: str) -> str:
    import ipaddress

    try:
        return str(ipaddress.ip_network(text, strict=False))
    except ValueError:
        raise UsageError(f"--trusted-proxy is {text!r}; expected an IP address or network") from None
