"""The image in which rows run: what the demonstration image has, python3, and a time zone."""

from pathlib import Path

from tests.integration.running_cluster import Cluster

_IMAGE = "localhost/interpreters:latest"
_LIBRARIES = Path("/lib/x86_64-linux-gnu")


def image_with_interpreters(cluster: Cluster) -> str:
    """Make the image for Podman from this machine's files; returns its name."""
    name = "interpreters"
    python = Path("/usr/bin/python3").resolve()
    files = {
        python: Path("/usr/bin/python3"),
        Path("/usr/lib", python.name): Path("/usr/lib", python.name),
        Path("/usr/lib/locale"): Path("/usr/lib/locale"),
        Path("/usr/share/zoneinfo/Asia/Tokyo"): Path("/etc/localtime"),
        **{_LIBRARIES / lib: _LIBRARIES / lib for lib in ("libexpat.so.1", "libz.so.1")},
    }
    cluster.podman("create", f"--name={name}", "localhost/sbridge-demo:latest")
    for path, there in files.items():
        cluster.podman("cp", str(path.resolve()), f"{name}:{there}")
    cluster.podman("commit", "--quiet", name, _IMAGE)
    cluster.podman("rm", name)
    return _IMAGE
