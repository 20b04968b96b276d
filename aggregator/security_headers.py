"""Headers that tell browsers, and caches on the way, to do nothing with an answer but show it.

After OWASP's HTTP Headers Cheat Sheet. What a call sets itself (Cache-Control of files) stays.
"""

import base64
import hashlib
import re

from fastapi import FastAPI
from fastapi.openapi.docs import get_swagger_ui_html
from starlette.datastructures import MutableHeaders
from starlette.responses import HTMLResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

SECURITY_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",  # answers carry tokens, and what a training is like at this moment
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
}
HSTS = "max-age=31536000"
SCRIPTS = "https://cdn.jsdelivr.net"  # where the page of calls has its scripts from
INLINE_SCRIPT = re.compile(r"<script>(.*?)</script>", re.DOTALL)


class SecurityHeaders:
    """Adds SECURITY_HEADERS to every answer, and over TLS that it is to stay so."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in SECURITY_HEADERS.items():
                    headers.setdefault(name, value)
                if scope.get("scheme") == "https":
                    headers.setdefault("Strict-Transport-Security", HSTS)
            await send(message)

        await self._app(scope, receive, send_with_headers)


def add_docs(app: FastAPI) -> None:
    """`/docs`, the page that shows the calls: FastAPI's own, in a browser allowed to run just its scripts."""
    page = get_swagger_ui_html(openapi_url="/openapi.json", title=app.title)
    policy = docs_policy(bytes(page.body).decode())

    @app.get("/docs", include_in_schema=False)
    def docs() -> HTMLResponse:
        return HTMLResponse(page.body, headers={"Content-Security-Policy": policy})


def docs_policy(page: str) -> str:
    """The policy that lets a page run the scripts that it holds now, and no others (CSP level 3)."""
    digests = [hashlib.sha256(text.encode()).digest() for text in INLINE_SCRIPT.findall(page)]
    hashes = " ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests)
    return (
        f"default-src 'none'; script-src {SCRIPTS} {hashes}; style-src {SCRIPTS} 'unsafe-inline'; "
        "img-src 'self' data: https://fastapi.tiangolo.com; connect-src 'self'; frame-ancestors 'none'"
    )
