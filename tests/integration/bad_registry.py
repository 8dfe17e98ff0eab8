"""Image registries that misbehave; containerd asks those on the loopback by plain http."""

import contextlib
import http.server
import socket
import threading
from collections.abc import Iterator


@contextlib.contextmanager
def silent_registry() -> Iterator[str]:
    """Give the address of one that takes every connection and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


@contextlib.contextmanager
def refusing_registry(status: int) -> Iterator[str]:
    """Give the address of one that answers everything with this status."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def refuse(self) -> None:
            self.send_response(status)
            if status == 401:
                self.send_header("WWW-Authenticate", 'Basic realm="tested"')
            self.end_headers()

        do_GET = do_HEAD = refuse  # noqa: N815

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()
