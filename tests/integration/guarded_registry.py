"""Images behind a password: Debian's docker-registry, on the folder of a cluster's own."""

import contextlib
import json
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from tests.integration.bad_registry import free_port
from tests.integration.running_cluster import wait_for

USER, PASSWORD = "reader", "let me in"
_HASH = "$2b$05$abcdefghijklmnopqrstuu4h2R.N3/mVBA7Xh7aLzKSJDAsK61n52"  # bcrypt's


@contextlib.contextmanager
def guarded_registry(images: Path, folder: Path) -> Iterator[str]:
    """Give the address of a registry with the images of another one's folder.

    `folder` takes its settings.
    """
    address = f"127.0.0.1:{free_port()}"
    passwords, settings = folder / "htpasswd", folder / "registry.yml"
    passwords.write_text(f"{USER}:{_HASH}\n")
    storage = {
        "filesystem": {"rootdirectory": str(images)},
        "maintenance": {"readonly": {"enabled": True}},
    }
    content = {
        "version": 0.1,
        "log": {"level": "error", "accesslog": {"disabled": True}},
        "storage": storage,
        "auth": {"htpasswd": {"realm": "tested", "path": str(passwords)}},
        "http": {"addr": address},
    }
    settings.write_text(json.dumps(content))
    argv = ["docker-registry", "serve", str(settings)]
    with (
        (folder / "registry.log").open("wb") as log,
        subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log) as registry,
    ):
        try:
            wait_for(lambda: _wants_a_password(address), what="a registry that wants a password")
            yield address
        finally:
            registry.terminate()


def _wants_a_password(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"http://{address}/v2/", timeout=5):
            return False
    except urllib.error.HTTPError as error:
        with error:
            return error.code == 401
    except urllib.error.URLError:
        return False
