"""The HTTP server before the application, as `fedfer serve` runs it: uvicorn, and what is changed of it."""

import gc
import ipaddress
import ssl
import sys
from contextlib import suppress

import uvicorn
from fastapi import FastAPI

from fedfer.aggregator.body_limits import MAX_HEAD_BYTES
from fedfer.aggregator.connections import ConnectionCounter, counted, raise_open_files
from fedfer.aggregator.limits import Limits
from fedfer.aggregator.rate_limits import is_loopback

KEEP_ALIVE_SEC = 60  # longer than devices pause between asking for work
GARBAGE_THRESHOLDS = 700, 10, 100  # Python's own but for the last: some hundred ended connections may wait
SWITCH_SEC = (
    0.5e-3  # how long the loop that answers waits for the interpreter; Python's own is ten times that
)


def settle_process() -> None:
    """Once everything is loaded: answers are not held up by what goes on besides. Looking through all objects
    for garbage stops everything for 50 ms; what is there by now will stay, and is not looked through. What
    comes is: 500 open connections alone take 20 ms, so that is done more seldom."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GARBAGE_THRESHOLDS)
    sys.setswitchinterval(SWITCH_SEC)


def uvicorn_config(
    app: FastAPI, limits: Limits, tls: ssl.SSLContext | None, grace_sec: int
) -> uvicorn.Config:
    """The HTTP server before the application: believes no headers but a trusted proxy's. `grace_sec` is for
    calls that are being answered when the server is stopped."""
    proxies = limits.trusted_proxies
    networks = [ipaddress.ip_network(text) for text in proxies]

    def is_exempt(host: str) -> bool:
        if is_loopback(host):
            return True
        with suppress(ValueError):  # no IP address
            return any(ipaddress.ip_address(host) in network for network in networks)
        return False

    counter = ConnectionCounter(limits.address_connections, raise_open_files(), is_exempt)
    return uvicorn.Config(
        app,
        http=counted(counter),  # on h11: httptools, the other parser, takes headers without end into memory
        ws="none",
        h11_max_incomplete_event_size=MAX_HEAD_BYTES,
        proxy_headers=bool(proxies),
        forwarded_allow_ips=list(proxies),
        ssl_context_factory=None if tls is None else lambda *_: tls,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_SEC,
        timeout_graceful_shutdown=grace_sec,
    )
