"""Images that no build tool makes, put into a registry that speaks plain HTTP."""

import gzip
import hashlib
import io
import json
import tarfile
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any
from urllib.parse import urljoin

_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_CONFIG = "application/vnd.oci.image.config.v1+json"
_LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"


def push(
    registry: str,
    name: str,
    files: dict[str, bytes],
    volumes: Sequence[str] = (),
    variables: Sequence[str] = (),
    links: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Put an image with these files as `name`:latest into the registry at host:port.

    `links` are symbolic ones, by their paths.
    """
    content = {"Volumes": {path: {} for path in volumes}, "Env": list(variables)}
    _put(registry, name, _layer(files, links), {k: value for k, value in content.items() if value})


def push_archive(registry: str, name: str, archive: Path) -> None:
    """Put an image of what is in a tar archive there."""
    _put(registry, name, gzip.compress(archive.read_bytes(), 1), {})


def _put(registry: str, name: str, layer: bytes, settings: dict[str, Any]) -> None:
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": settings,
        "rootfs": {"type": "layers", "diff_ids": [_digest(gzip.decompress(layer))]},
    }
    described = json.dumps(config).encode()
    manifest = {
        "schemaVersion": 2,
        "mediaType": _MANIFEST,
        "config": _upload(registry, name, _CONFIG, described),
        "layers": [_upload(registry, name, _LAYER, layer)],
    }
    url = f"http://{registry}/v2/{name}/manifests/latest"
    _request("PUT", url, json.dumps(manifest).encode(), _MANIFEST)


def _layer(files: dict[str, bytes], links: Mapping[str, str]) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for path, content in files.items():
            entry = tarfile.TarInfo(path)
            entry.size, entry.mode = len(content), 0o755
            tar.addfile(entry, io.BytesIO(content))
        for path, target in links.items():
            entry = tarfile.TarInfo(path)
            entry.type, entry.linkname = tarfile.SYMTYPE, target
            tar.addfile(entry)
    return packed.getvalue()


def _upload(registry: str, name: str, kind: str, content: bytes) -> dict[str, Any]:
    begin = f"http://{registry}/v2/{name}/blobs/uploads/"
    place = urljoin(begin, _request("POST", begin, b"", ""))
    digest = _digest(content)
    _request("PUT", f"{place}&digest={digest}", content, "application/octet-stream")
    return {"mediaType": kind, "size": len(content), "digest": digest}


def _request(method: str, url: str, body: bytes, kind: str) -> str:
    """Return the Location of the answer."""
    headers = {"Content-Type": kind} if kind else {}
    request = urllib.request.Request(url, body, headers, method=method)
    with urllib.request.urlopen(request, timeout=10) as answer:
        return str(answer.headers.get("Location", ""))


def _digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"
