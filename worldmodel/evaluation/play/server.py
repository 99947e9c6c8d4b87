"""The page's server: it listens on 127.0.0.1 and answers only requests that have the token.

A site that resolves its own name to 127.0.0.1 (DNS rebinding) sends that name as Host and Origin,
and is refused.
"""

from __future__ import annotations

import contextlib
import hmac
import json
import logging
import re
import secrets
import socket
import socketserver
import sys
from collections.abc import Callable
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl

from worldmodel.errors import RunError, UsageError, WorldModelError
from worldmodel.evaluation.play.connections import IDLE_S, Connections, send_status
from worldmodel.evaluation.play.job_queue import BusyError, JobQueue

log = logging.getLogger(__name__)

HOST = "127.0.0.1"
MAX_BODY = 1 << 16
CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
# What http.server calls an error of its own is one of the client here.
REFUSALS = {
    HTTPStatus.NOT_IMPLEMENTED: HTTPStatus.METHOD_NOT_ALLOWED,
    HTTPStatus.HTTP_VERSION_NOT_SUPPORTED: HTTPStatus.BAD_REQUEST,
}
LINGER_S, LINGER_BYTES = 1.0, 1 << 22  # unread input of a refused request
POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:; "
    "connect-src 'self'; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)
Endpoint = Callable[[dict[str, Any]], dict[str, Any]]


class RefusedError(Exception):
    """A request that is refused with a status and one line."""

    def __init__(self, status: HTTPStatus, line: str):
        super().__init__(line)
        self.status = status


class Server(ThreadingHTTPServer):
    """`queries` are reached by GET, `commands` by POST; both run in the computing thread."""

    daemon_threads = True
    request_queue_size = 128  # with the default of 5, a sixth connection waits a second

    def __init__(
        self,
        port: int,
        job_queue: JobQueue,
        page: bytes,
        queries: dict[str, Endpoint],
        commands: dict[str, Endpoint],
    ):
        self.job_queue, self.page, self.queries, self.commands = job_queue, page, queries, commands
        self.token = secrets.token_urlsafe(24)
        self.connections = Connections()
        try:
            super().__init__((HOST, port), Handler)
        except OSError as error:
            raise RunError(
                f"--port: {port} cannot be used ({error.strerror or error}); give another, or 0 "
                f"for any free one",
                74,
            ) from None
        self.hosts = {f"{name}:{self.server_port}" for name in (HOST, "localhost")}

    def server_bind(self) -> None:
        socketserver.TCPServer.server_bind(self)  # HTTPServer would look up the host name
        self.server_name, self.server_port = HOST, int(self.server_address[1])

    def process_request(self, request: Any, client_address: Any) -> None:
        if self.connections.add(request):
            super().process_request(request, client_address)
        else:
            send_status(request, HTTPStatus.SERVICE_UNAVAILABLE)
            self.shutdown_request(request)

    def shutdown_request(self, request: Any) -> None:
        self.connections.remove(request)
        super().shutdown_request(request)

    def service_actions(self) -> None:
        self.connections.end_late()

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.server_port}/{self.token}/"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore a browser that disconnects; log everything else."""
        if not isinstance(sys.exc_info()[1], OSError):
            log.exception("a request failed")


class Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "worldmodel", ""
    disable_nagle_algorithm = True  # otherwise every frame waits for an acknowledgement
    timeout = IDLE_S
    default_request_version = "HTTP/1.1"  # a request that names none gets a whole answer too
    refused = False
    raw_requestline: bytes

    def handle_one_request(self) -> None:
        self.server.connections.await_request(self.connection)
        super().handle_one_request()

    def parse_request(self) -> bool:
        if self.raw_requestline.strip():
            return super().parse_request()
        self.requestline, self.request_version, self.command = "", "HTTP/1.1", ""
        self._refuse(HTTPStatus.BAD_REQUEST, "there is no request")
        return False

    def send_error(self, code: int, message: str | None = None, explain: Any = None) -> None:
        """Refuse in our form what http.server refuses."""
        status = HTTPStatus(code)
        self._refuse(REFUSALS.get(status, status), message or status.phrase)

    def finish(self) -> None:
        super().finish()
        if self.refused:
            self._discard_rest()

    def _discard_rest(self) -> None:
        """Read what the client still sends: closing before would reset the connection, and the
        client might lose the answer.
        """
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_WR)
            self.connection.settimeout(LINGER_S)
            left = LINGER_BYTES
            while left > 0 and (data := self.connection.recv(1 << 16)):
                left -= len(data)

    def do_GET(self) -> None:
        self._respond(self._handle_get)

    def do_POST(self) -> None:
        self._respond(self._handle_post)

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing: the page sends many requests per second."""

    def _respond(self, answer: Callable[[str], tuple[bytes, str]]) -> None:
        """Send the response, or one line about the error; unread input closes the connection."""
        try:
            self._send(HTTPStatus.OK, *answer(self._authorize()))
        except RefusedError as error:
            self._refuse(error.status, str(error))
        except WorldModelError as error:
            self._refuse(HTTPStatus.BAD_REQUEST, str(error))
        except BusyError as error:
            self._refuse(HTTPStatus.SERVICE_UNAVAILABLE, str(error))
        except OSError:
            raise
        except Exception as error:
            log.exception("a request failed")
            self._refuse(
                HTTPStatus.INTERNAL_SERVER_ERROR, f"{type(error).__name__}; see the terminal"
            )

    def _authorize(self) -> str:
        """Check headers, host, origin and token; return the rest of the path."""
        self._check_headers()
        host, origin = self.headers.get("Host", ""), self.headers.get("Origin")
        if host not in self.server.hosts or (
            origin is not None and origin.removeprefix("http://") != host
        ):
            raise RefusedError(HTTPStatus.FORBIDDEN, "only pages of this server may send requests")
        _, _, rest = self.path.partition("/")
        token, _, request = rest.partition("/")
        if not hmac.compare_digest(token.encode("latin-1", "replace"), self.server.token.encode()):
            raise RefusedError(
                HTTPStatus.FORBIDDEN,
                "the address has no valid token: open the one in the terminal",
            )
        return request

    def _check_headers(self) -> None:
        """Refuse headers of which a reader could make two things."""
        if self.headers.defects or any(CONTROL.search(k + v) for k, v in self.headers.items()):
            raise RefusedError(HTTPStatus.BAD_REQUEST, "a header is malformed")
        for name in ("Host", "Origin", "Content-Length", "Content-Type"):
            if len(self.headers.get_all(name, [])) > 1:
                raise RefusedError(HTTPStatus.BAD_REQUEST, f"give {name} once")
        if "Transfer-Encoding" in self.headers:
            raise RefusedError(HTTPStatus.LENGTH_REQUIRED, "give the Content-Length instead")
        if self.command == "GET" and self.headers.get("Content-Length", "0") != "0":
            raise RefusedError(HTTPStatus.BAD_REQUEST, "a GET has no body")

    def _handle_get(self, request: str) -> tuple[bytes, str]:
        name, _, query = request.partition("?")
        if not name:
            return self.server.page, "text/html; charset=utf-8"
        try:
            values = {k: int(v) for k, v in parse_qsl(query, max_num_fields=8)}
        except ValueError as error:
            raise UsageError(f"give a few whole numbers ({error})") from None
        return self._call_endpoint(self.server.queries, name, values)

    def _handle_post(self, name: str) -> tuple[bytes, str]:
        length = self.headers.get("Content-Length", "")
        if not (length.isascii() and length.isdigit()):
            raise RefusedError(HTTPStatus.LENGTH_REQUIRED, "give the Content-Length")
        if len(length) > 9 or int(length) > MAX_BODY:
            raise RefusedError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"at most {MAX_BODY} bytes")
        if self.headers.get_content_type() != "application/json":
            raise RefusedError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "give application/json")
        body = self.rfile.read(int(length))
        if len(body) < int(length):
            raise RefusedError(HTTPStatus.BAD_REQUEST, "the body ended early")
        try:
            request = json.loads(body)
        except (ValueError, RecursionError):
            raise RefusedError(HTTPStatus.BAD_REQUEST, "this is not JSON") from None
        if not isinstance(request, dict):
            raise RefusedError(HTTPStatus.BAD_REQUEST, "give a JSON object")
        return self._call_endpoint(self.server.commands, name, request)

    def _call_endpoint(
        self, questions: dict[str, Endpoint], name: str, request: dict[str, Any]
    ) -> tuple[bytes, str]:
        if name not in questions:
            raise RefusedError(HTTPStatus.NOT_FOUND, "there is no such endpoint")
        self.server.connections.begin_answer(self.connection)
        found = self.server.job_queue.submit(partial(questions[name], request))
        return json.dumps(found, allow_nan=False).encode(), "application/json"

    def _refuse(self, status: HTTPStatus, line: str) -> None:
        self.close_connection = self.refused = True
        self._send(
            status, json.dumps({"error": " ".join(line.split())}).encode(), "application/json"
        )

    def _send(self, status: HTTPStatus, body: bytes, kind: str) -> None:
        self.send_response(status)
        headers = {
            "Content-Type": kind,
            "Content-Length": str(len(body)),
            "Cache-Control": "no-store",
            "Content-Security-Policy": POLICY,
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "no-referrer",
        }
        if self.close_connection:
            headers["Connection"] = "close"
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)
