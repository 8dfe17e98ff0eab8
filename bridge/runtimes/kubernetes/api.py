"""The Kubernetes API as JSON: objects in, objects out, and two ways to fail.

The only module that imports the Kubernetes client, which is used for what is easy to get
wrong: kubeconfig and in-cluster credentials, TLS, proxies. A no of the API server is a
`RefusedError`; everything that may pass by itself (unreachable, overloaded, broken
connection) is a `TemporaryError`. Credentials are read anew after each failure, so rotated
tokens and certificates are honoured.
"""

import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import urllib3
import yaml
from kubernetes import client, config
from kubernetes.client.exceptions import ApiException

from bridge.config import Kubernetes
from bridge.errors import ConfigError, SbridgeError, TemporaryError

Object = dict[str, Any]

NO_ANSWER = "the Kubernetes API does not answer: "

_APPLY = "application/apply-patch+yaml"
_MERGE = "application/merge-patch+json"
_FIELD_MANAGER = "sbridge"
_CONNECT_TIMEOUT_S = 10.0
_WATCH_S = 300
_WATCH_GRACE_S = 10.0
_POOL = 32
_REBUILD_S = 1.0
_PASSING = frozenset({408, 429, 500, 502, 503, 504})
# The client's own, and what it lets through of a file that is half written.
_UNREADABLE = (config.ConfigException, OSError, ValueError, yaml.YAMLError, TypeError, KeyError)


class RefusedError(SbridgeError):
    """The API server said no.

    `status` is HTTP's, `reason` Kubernetes' (such as NotFound, AlreadyExists, Forbidden).
    """

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason


class ExpiredError(SbridgeError):
    """The version to watch from is too old (410): list again."""


@dataclass(frozen=True)
class Server:
    """Where the API is, and how it is recognised; `ca_pem` "" is the machine's own choice."""

    url: str
    ca_pem: str = ""
    tls_server_name: str = ""
    is_verified: bool = True


class Api:
    """One cluster; safe to use from several threads.

    Raises `ConfigError` when there are no credentials, or none that can be read.
    """

    def __init__(self, settings: Kubernetes) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._client = _connect(settings)
        self._connected_at = time.monotonic()
        self._failed = False

    @property
    def server(self) -> Server:
        """The API server as the credentials name it; raises `ConfigError`."""
        options = self._client.configuration
        try:
            ca_pem = Path(options.ssl_ca_cert).read_text("ascii") if options.ssl_ca_cert else ""
        except (OSError, ValueError) as error:
            raise ConfigError(f"the cluster's certificate authority: {error}") from error
        name = options.tls_server_name or ""
        return Server(options.host, ca_pem, name, bool(options.verify_ssl))

    @property
    def token(self) -> str:
        """The bearer token in use, "" for other credentials."""
        key = self._client.configuration.get_api_key_with_prefix("BearerToken", "authorization")
        return (key or "").removeprefix("Bearer ")

    def get(self, path: str, **query: object) -> Object:
        """Read an object, or a list with the given query."""
        return self._request("GET", path, query)

    def find(self, path: str) -> Object | None:
        """Read an object; None when the API server says that there is none."""
        try:
            return self.get(path)
        except RefusedError as error:
            if error.status == 404:
                return None
            raise

    def create(self, path: str, body: Object, *, dry_run: bool = False) -> Object:
        """Create an object in the collection at `path`."""
        return self._request("POST", path, {"dryRun": "All"} if dry_run else {}, body)

    def patch(self, path: str, body: Object) -> Object:
        """Change fields of the object at `path` (JSON merge patch)."""
        return self._request("PATCH", path, {}, body, _MERGE)

    def apply(self, path: str, body: Object, *, dry_run: bool = False) -> Object:
        """Make the object at `path` have the fields of `body` (server-side apply)."""
        query: dict[str, object] = {"fieldManager": _FIELD_MANAGER, "force": "true"}
        if dry_run:
            query["dryRun"] = "All"
        return self._request("PATCH", path, query, body, _APPLY)

    def delete(self, path: str, *, grace_s: int | None = None, uid: str = "") -> bool:
        """Delete the object at `path`, only the one with `uid` if given; False if it is gone.

        `grace_s` 0 removes a pod from the API at once, whatever its kubelet does.
        """
        body: Object = {"propagationPolicy": "Background"}
        if grace_s is not None:
            body["gracePeriodSeconds"] = grace_s
        if uid:
            body["preconditions"] = {"uid": uid}
        try:
            self._request("DELETE", path, {}, body)
        except RefusedError as error:
            if error.status == 404 or (uid and error.status == 409):
                return False
            raise
        return True

    def watch(self, path: str, version: str, **query: object) -> Iterator[Object]:
        """Open a watch and return the events of the collection at `path` after `version`.

        They end by themselves after some minutes; `ExpiredError` means: list again.
        """
        asked = {
            **query,
            "watch": "true",
            "resourceVersion": version,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": _WATCH_S,
        }
        try:
            response = self._open("GET", path, asked, read_timeout_s=_WATCH_S + _WATCH_GRACE_S)
        except RefusedError as error:
            if error.status == 410:
                raise ExpiredError(error.message) from error
            raise
        return self._followed(response)

    def _followed(self, response: Any) -> Iterator[Object]:
        try:
            yield from _events(response)
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise self._trouble(error) from error
        finally:
            response.close()

    def _request(
        self,
        method: str,
        path: str,
        query: dict[str, object],
        body: Object | None = None,
        content_type: str = "application/json",
    ) -> Object:
        response = self._open(method, path, query, body, content_type)
        try:
            answer: Object = json.loads(response.data)
        except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
            raise self._trouble(error) from error
        return answer

    def _open(
        self,
        method: str,
        path: str,
        query: dict[str, object],
        body: Object | None = None,
        content_type: str = "application/json",
        read_timeout_s: float = 0,
    ) -> Any:
        try:
            response = self._send(method, path, query, body, content_type, read_timeout_s)
            if response.status == 401:  # the token was rotated: once more with the new one
                self._failed = True
                response = self._send(method, path, query, body, content_type, read_timeout_s)
            if response.status < 300:
                return response.response
            refusal = _refusal(response.status, response.read())
        except config.ConfigException as error:  # a pod's token, which the client reads each minute
            self._failed = True
            raise TemporaryError(f"the pod's service account: {error}") from error
        except (ApiException, urllib3.exceptions.HTTPError, OSError) as error:
            raise self._trouble(error) from error
        if refusal.status in _PASSING:
            raise TemporaryError(f"the Kubernetes API is in trouble: {refusal.message}")
        raise refusal

    def _send(
        self,
        method: str,
        path: str,
        query: dict[str, object],
        body: Object | None,
        content_type: str,
        read_timeout_s: float,
    ) -> Any:
        connection = self._connection()
        sent = json.dumps(body) if content_type == _APPLY else body
        prepared = connection.param_serialize(
            method,
            path,
            query_params=list(query.items()),
            header_params={"Content-Type": content_type, "Accept": "application/json"},
            body=sent,
            auth_settings=["BearerToken"],
        )
        timeout = (_CONNECT_TIMEOUT_S, read_timeout_s or self._settings.timeout_s)
        return connection.call_api(*prepared, _request_timeout=timeout)

    def _connection(self) -> client.ApiClient:
        """Return the client; after a failure one with the credentials as they are now."""
        with self._lock:
            if self._failed and time.monotonic() > self._connected_at + _REBUILD_S:
                try:
                    self._client = _connect(self._settings)
                except ConfigError as error:
                    raise TemporaryError(error.message) from error
                self._connected_at = time.monotonic()
                self._failed = False
            return self._client

    def _trouble(self, error: Exception) -> TemporaryError:
        self._failed = True
        text = str(error.reason if isinstance(error, ApiException) else error) or repr(error)
        return TemporaryError(f"{NO_ANSWER}{text[-300:]}")


def _connect(settings: Kubernetes) -> client.ApiClient:
    options = client.Configuration()
    options.retries = False
    options.keep_alive = True  # or a watch would not notice for minutes that the server is gone
    options.connection_pool_maxsize = _POOL
    try:
        if settings.kubeconfig:
            config.load_kube_config(  # type: ignore[no-untyped-call]
                settings.kubeconfig,
                context=settings.context or None,
                client_configuration=options,
                persist_config=False,
            )
        else:
            config.load_incluster_config(client_configuration=options)  # type: ignore[no-untyped-call]
    except _UNREADABLE as error:
        source = settings.kubeconfig or "the pod's service account (kubernetes.kubeconfig is empty)"
        raise ConfigError(f"kubernetes.kubeconfig: no credentials in {source}: {error}") from error
    return client.ApiClient(options)


def _refusal(status: int, content: bytes) -> RefusedError:
    try:
        answer = json.loads(content)
        return RefusedError(status, str(answer["reason"]), str(answer["message"]))
    except (ValueError, KeyError, TypeError):
        text = content.decode("utf-8", "replace").strip()
        return RefusedError(status, "", text[:300] or f"HTTP status {status}")


def _events(response: Any) -> Iterator[Object]:
    rest = b""
    for chunk in response.stream(amt=None, decode_content=True):
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            event = json.loads(line)
            if event["type"] == "ERROR":
                status = event["object"]
                if status.get("code") == 410:
                    raise ExpiredError(str(status.get("message")))
                raise TemporaryError(f"the watch ended: {status.get('message')}")
            yield event
