"""A proxy before an S3 server that passes requests on or, on demand, answers 503, cuts off or waits.

`FaultProxy.fault` is a function of the test: it is asked at each request and names the fault, or None.
"""

from __future__ import annotations

import contextlib
import http.client
import threading
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

_ERROR = '<?xml version="1.0"?><Error><Code>{}</Code><Message>no words of ours</Message></Error>'

REFUSALS = {
    "SlowDown": 503,
    "InternalError": 500,
    "AccessDenied": 403,
    "NoSuchKey": 404,
    "ExpiredToken": 400,
    "InvalidAccessKeyId": 403,
}
"""Faults that are answers: the error code of the S3 API and its HTTP status."""

NOTHING_LISTED = "nothing listed"
"""A list that is late: it has nothing of what was written meanwhile."""
_EMPTY_LIST = '<?xml version="1.0"?><ListBucketResult><KeyCount>0</KeyCount></ListBucketResult>'

CUTS = ("cut before", "cut within", "cut after", "wait")
"""Faults of the connection: the server never hears of the request; half of the request or answer passes;
the request is done but its answer lost; nothing comes back at all."""


@dataclass(frozen=True)
class Request:
    """A request: its operation as the S3 API names it, bucket/key, and its number among its operation's."""

    operation: str
    key: str
    number: int


class FaultProxy:
    """Listens on loopback and passes on to `upstream` (host:port); a context."""

    def __init__(self, upstream: str) -> None:
        self.upstream = upstream
        self.fault: Callable[[Request], str | None] = lambda _: None
        self.log: list[Request] = []
        self.released = threading.Event()
        self._lock = threading.Lock()
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.proxy = self
        self.endpoint = f"127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.released.set()
        self._server.shutdown()
        self._server.server_close()

    def reset(self) -> None:
        """Be harmless again, end what waits, and count from 1 again."""
        self.released.set()
        self.released = threading.Event()
        self.fault = lambda _: None
        self.log = []

    def enter(self, operation: str, key: str) -> Request:
        """Note a request."""
        with self._lock:
            number = sum(request.operation == operation for request in self.log) + 1
            request = Request(operation, key, number)
            self.log.append(request)
        return request


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    proxy: FaultProxy

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that was killed, or a connection that we cut: nothing to print."""


def operation_of(method: str, path: str) -> str:
    """The S3 API's name of a request."""
    query = parse_qs(urlsplit(path).query, keep_blank_values=True)
    if method == "POST":
        names = {"uploads": "CreateMultipartUpload", "uploadId": "CompleteMultipartUpload"}
        return next((name for key, name in names.items() if key in query), "DeleteObjects")
    if method == "PUT":
        return "UploadPart" if "partNumber" in query else "PutObject"
    if method == "GET":
        return "ListObjectsV2" if "list-type" in query else "GetObject"
    return {"HEAD": "HeadObject", "DELETE": "DeleteObject"}[method]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def _handle(self) -> None:
        proxy = self.server.proxy
        request = proxy.enter(operation_of(self.command, self.path), urlsplit(self.path).path.lstrip("/"))
        fault = proxy.fault(request)
        if fault in ("cut before", "cut within") and self.command in ("PUT", "POST"):
            self.rfile.read(int(self.headers.get("Content-Length") or 0) // 2)
            self._cut()
            return
        body = self._body()
        if fault in REFUSALS:
            self._answer(REFUSALS[fault], _ERROR.format(fault))
        elif fault == NOTHING_LISTED:
            self._answer(200, _EMPTY_LIST)
        elif fault == "cut before":
            self._cut()
        elif fault == "wait":
            proxy.released.wait(600)
            self._cut()
        else:
            self._pass_on(body, fault)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _handle  # noqa: N815  (http.server's names)

    def _body(self) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass
        return body

    def _answer(self, status: int, content: str) -> None:
        text = b"" if self.command == "HEAD" else content.encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def _pass_on(self, body: bytes, fault: str | None) -> None:
        upstream = http.client.HTTPConnection(self.server.proxy.upstream, timeout=60)
        with contextlib.closing(upstream):
            headers = {
                name: value for name, value in self.headers.items() if name.lower() != "transfer-encoding"
            }
            headers["Content-Length"] = str(len(body))
            headers.pop("Expect", None)
            upstream.request(self.command, self.path, body, headers)
            answer = upstream.getresponse()
            data = answer.read()
        if fault == "cut after":
            self._cut()
            return
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in ("transfer-encoding", "connection", "content-length", "date", "server"):
                self.send_header(name, value)
        length = answer.getheader("Content-Length") if self.command == "HEAD" else str(len(data))
        self.send_header("Content-Length", length or "0")
        self.end_headers()
        if fault == "cut within":
            self.wfile.write(data[: len(data) // 2])
            self._cut()
            return
        self.wfile.write(data)

    def _cut(self) -> None:
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.wfile.flush()
            self.connection.shutdown(2)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  (the base class's name)
        """Nothing is printed."""
