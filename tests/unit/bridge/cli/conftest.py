"""The real command, and a cluster that has next to nothing."""

import http.server
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[4]
NODE = {
    "metadata": {"name": "k1"},
    "spec": {},
    "status": {
        "conditions": [{"type": "Ready", "status": "True"}],
        "images": [{"names": ["r.io/a:1"], "sizeBytes": 20 << 20}, {"names": ["r.io/b:2"]}],
    },
}


@pytest.fixture
def sbridge():
    """Run the real command; gives exit code, stdout, stderr."""

    def run(*arguments, **environment):
        done = subprocess.run(
            [sys.executable, "-m", "bridge.cli", *arguments],
            cwd=ROOT,
            env={"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8", **environment},
            capture_output=True,
            text=True,
            check=False,
        )
        return done.returncode, done.stdout, done.stderr

    return run


@pytest.fixture
def site_file(tmp_path):
    path = tmp_path / "site.toml"
    path.write_text('[kubernetes]\nnamespace = "jobs"\n')
    return str(path)


@pytest.fixture
def kubeconfig(tmp_path):
    """Write a kubeconfig of that name for a server; gives its path."""

    def write(name, server):
        content = {
            "clusters": [{"name": "c", "cluster": {"server": server}}],
            "users": [{"name": "u", "user": {"token": "t"}}],
            "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
            "current-context": "x",
        }
        (tmp_path / name).write_text(json.dumps(content))
        return str(tmp_path / name)

    return write


@pytest.fixture
def empty_cluster(kubeconfig):
    """Give the kubeconfig of a server that has one node and makes what it is asked to."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def answer(self, status, content):
            body = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_GET(self):
            if self.path.startswith("/api/v1/nodes"):
                self.answer(200, {"items": [NODE]})
                return
            self.answer(404, {"code": 404, "reason": "NotFound", "message": "nothing here"})

        def do_PATCH(self):
            if "priorityclasses" in self.path:
                self.answer(403, {"code": 403, "reason": "Forbidden", "message": "not you"})
            else:
                self.answer(201, {"metadata": {}})

        def do_POST(self):
            end = {"token": "secret", "expirationTimestamp": "2040-01-02T03:04:05Z"}
            self.answer(201, {"status": {**end, "allowed": False}})

        def log_message(self, *_):
            """Say nothing."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield kubeconfig("admin", f"http://127.0.0.1:{server.server_port}")
    server.shutdown()
    thread.join()
    server.server_close()
