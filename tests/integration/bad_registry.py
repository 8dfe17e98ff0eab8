"""Image registries that misbehave; containerd asks those on the loopback by plain http."""

import contextlib
import http.client
import http.server
import socket
import threading
import time
from collections.abc import Iterator


@contextlib.contextmanager
def silent_registry() -> Iterator[str]:
    """Give the address of one that takes every connection and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


@contextlib.contextmanager
def slow_registry(behind: str, delay_s: float, port: int = 0) -> Iterator[str]:
    """Give the address of one that passes on what another says, each word after a while."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def pass_on(self) -> None:
            time.sleep(delay_s)
            asked = http.client.HTTPConnection(behind)
            headers = {"Accept": self.headers["Accept"]} if "Accept" in self.headers else {}
            asked.request(self.command, self.path, headers=headers)
            answer = asked.getresponse()
            self.send_response(answer.status)
            for name, value in answer.getheaders():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(answer.read())
            asked.close()

        do_GET = do_HEAD = pass_on  # noqa: N815

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with _serving(Handler, port) as address:
        yield address


@contextlib.contextmanager
def refusing_registry(status: int, reason: str | None = None) -> Iterator[str]:
    """Give the address of one that answers everything with this status, in these words."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def refuse(self) -> None:
            self.send_response(status, reason)
            if status == 401:
                self.send_header("WWW-Authenticate", 'Basic realm="tested"')
            self.end_headers()

        do_GET = do_HEAD = refuse  # noqa: N815

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with _serving(Handler) as address:
        yield address


def free_port() -> int:
    """Return a port of the loopback that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@contextlib.contextmanager
def _serving(handler: type[http.server.BaseHTTPRequestHandler], port: int = 0) -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", port), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()
