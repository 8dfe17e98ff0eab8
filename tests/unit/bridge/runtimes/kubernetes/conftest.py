"""An API server's single answers, for what a real one is hard to bring to.

Only the transport is tested against it; what pods do is tested on a real cluster.
"""

import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bridge.config import Kubernetes


class Answers:
    """What the server says, one answer a request, and what it was asked."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.queue: list[tuple[int, list[Any]]] = []
        self.asked: list[dict[str, Any]] = []
        self.address = ""

    def add(self, status: int, *objects: Any) -> None:
        """Say `objects`, a line each, to the next request that has no answer yet."""
        self.queue.append((status, list(objects)))

    def settings(self, token: str = "first") -> Kubernetes:
        """Return the configuration of a client with a token in a file."""
        (self.folder / "token").write_text(token)
        kubeconfig = self.folder / "kubeconfig"
        kubeconfig.write_text(
            json.dumps(
                {
                    "apiVersion": "v1",
                    "kind": "Config",
                    "clusters": [{"name": "c", "cluster": {"server": self.address}}],
                    "users": [{"name": "u", "user": {"tokenFile": str(self.folder / "token")}}],
                    "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
                    "current-context": "x",
                }
            )
        )
        return Kubernetes(kubeconfig=str(kubeconfig), timeout_s=2.0)


@pytest.fixture
def answers(tmp_path: Path) -> Iterator[Answers]:
    """A server on the loopback that answers as it is told to."""
    told = Answers(tmp_path)

    class Handler(http.server.BaseHTTPRequestHandler):
        def handle_any(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            told.asked.append(
                {
                    "method": self.command,
                    "path": self.path,
                    "token": self.headers.get("Authorization"),
                    "type": self.headers.get("Content-Type"),
                    "body": self.rfile.read(length).decode(),
                }
            )
            if not told.queue:
                self.close_connection = True
                return
            status, objects = told.queue.pop(0)
            content = b"".join(json.dumps(item).encode() + b"\n" for item in objects)
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_PATCH = do_DELETE = handle_any  # noqa: N815

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    told.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield told
    server.shutdown()
    thread.join()
    server.server_close()
