"""Questions to the cluster's servers; where they want a certificate, as its administrator."""

import contextlib
import http.client
import json
import ssl
import subprocess
from typing import Any

from cluster import Cluster
from commands import attempt
from slot import ADDRESS

TIMEOUT_S = 5.0


def is_healthy(cluster: Cluster, what: str, path: str) -> bool:
    """Whether one of the servers with a port of the cluster's says that it is well."""
    return _get(_secure(cluster, cluster.port(what)), path)[0] == 200


def answers_ok(port: int, path: str) -> bool:
    """Whether the plain HTTP server on a port says that it is well."""
    return _get(http.client.HTTPConnection(ADDRESS, port, timeout=TIMEOUT_S), path)[0] == 200


def get(cluster: Cluster, path: str) -> dict[str, Any] | None:
    """Return an object or a list of the API; None when there is none or no answer."""
    return _json(_get(_secure(cluster, cluster.port("kube-apiserver")), path))


def registry_tags(cluster: Cluster, image: str) -> list[str]:
    """Return the tags that the registry has of an image."""
    connection = http.client.HTTPConnection(ADDRESS, cluster.port("registry"), timeout=TIMEOUT_S)
    found = _json(_get(connection, f"/v2/{image}/tags/list")) or {}
    return found.get("tags") or []


def kubectl(cluster: Cluster, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run kubectl as the cluster's administrator."""
    return attempt([str(cluster.programs / "kubectl"), *arguments], cluster.client_environment)


def _secure(cluster: Cluster, port: int) -> http.client.HTTPSConnection:
    context = ssl.create_default_context(cafile=cluster.pki / "ca.crt")
    context.load_cert_chain(cluster.pki / "admin.crt", cluster.pki / "admin.key")
    return http.client.HTTPSConnection(ADDRESS, port, timeout=TIMEOUT_S, context=context)


def _get(connection: http.client.HTTPConnection, path: str) -> tuple[int, bytes]:
    with contextlib.closing(connection), contextlib.suppress(OSError, http.client.HTTPException):
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read()
    return 0, b""


def _json(answer: tuple[int, bytes]) -> dict[str, Any] | None:
    status, body = answer
    return json.loads(body) if status == 200 else None
