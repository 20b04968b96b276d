"""What stands between the network and the application, from the outside in.

SecurityHeaders   on every answer, refusals included
BodyLimits        size, time and type of what comes in
CallRates         who calls too often
"""

from collections.abc import Callable

from fastapi import FastAPI

from fedfer.aggregator.body_limits import BodyLimits
from fedfer.aggregator.call_rates import CallRates
from fedfer.aggregator.limits import Limits
from fedfer.aggregator.security_headers import SecurityHeaders, add_docs


def install(app: FastAPI, limits: Limits, max_upload_bytes: Callable[[], int]) -> None:
    """`max_upload_bytes()`: of the largest upload that the application takes."""
    for middleware, settings in (
        (CallRates, {"limits": limits}),
        (BodyLimits, {"max_upload_bytes": max_upload_bytes}),
        (SecurityHeaders, {}),
    ):  # each is put around those before it
        app.add_middleware(middleware, **settings)
    add_docs(app)
