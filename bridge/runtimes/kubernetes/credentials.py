"""The agents' credentials: a kubeconfig with a token that ends, and when it does.

The token is the API server's own word (TokenRequest); nothing of it is kept in the cluster.
"""

import base64
import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from bridge.errors import PermanentError
from bridge.runtimes.kubernetes import site
from bridge.runtimes.kubernetes.api import Api, Object, RefusedError, Server

SHORTEST_S = 600  # the API server refuses less


@dataclass(frozen=True)
class Token:
    """A bearer token and its end."""

    text: str
    expires: datetime

    def is_shorter_than(self, duration_s: int) -> bool:
        """Whether one that was just made lives less long than asked for, by more than a minute."""
        return self.expires < datetime.now(UTC) + timedelta(seconds=duration_s - 60)


def request_token(api: Api, namespace: str, duration_s: int) -> Token:
    """Have a token made for the agents; the API server may shorten its life.

    Raises `PermanentError` when it makes none.
    """
    account = f"/api/v1/namespaces/{namespace}/serviceaccounts/{site.SERVICE_ACCOUNT}"
    body = {
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenRequest",
        "spec": {"expirationSeconds": duration_s},
    }
    try:
        status = api.create(f"{account}/token", body)["status"]
    except RefusedError as error:
        hint = "`sbridge kubernetes apply` makes the account." if error.status == 404 else ""
        what = f"{site.agent_name(namespace)} gets no token: {error.message}"
        raise PermanentError(what, hint=hint) from error
    return Token(status["token"], datetime.fromisoformat(status["expirationTimestamp"]))


def kubeconfig(server: Server, namespace: str, token: Token) -> Object:
    """Return the kubeconfig of an agent; it depends on no other file."""
    cluster: Object = {"server": server.url}
    if server.ca_pem:
        cluster["certificate-authority-data"] = base64.b64encode(server.ca_pem.encode()).decode()
    if server.tls_server_name:
        cluster["tls-server-name"] = server.tls_server_name
    if not server.is_verified:
        cluster["insecure-skip-tls-verify"] = True
    context = {"cluster": "cluster", "user": site.SERVICE_ACCOUNT, "namespace": namespace}
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "cluster", "cluster": cluster}],
        "users": [{"name": site.SERVICE_ACCOUNT, "user": {"token": token.text}}],
        "contexts": [{"name": "sbridge", "context": context}],
        "current-context": "sbridge",
    }


def life_of(token: str) -> tuple[int, int] | None:
    """Return when a token was made and when it ends, in seconds since 1970, if it tells."""
    parts = token.split(".")
    if len(parts) != 3:
        return None
    try:
        claims = json.loads(base64.urlsafe_b64decode(parts[1] + "=="))
        return int(claims["iat"]), int(claims["exp"])
    except (ValueError, KeyError, TypeError):
        return None
