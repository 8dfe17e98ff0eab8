"""How a cluster's daemons and users prove who they are: munge, or Slurm's own auth/slurm.

With munge each cluster has a munged and a socket of its own. The sockets of auth/slurm have fixed
names, so only one cluster of a machine can have it.
"""

import contextlib
import functools
import os
from collections.abc import Callable
from pathlib import Path

from cluster import Cluster, Settings
from commands import Failure
from daemon import accepts, recorded, stop_recorded
from files import make_folder, write
from release import has_auth_slurm
from roster import munge

# Compiled into Slurm; commands try them in this order.
_SOCKETS = [Path(f"/run/{name}/sack.socket") for name in ("slurm", "slurmctld", "slurmdbd")]


def authenticator(cluster: Cluster) -> tuple[str, Callable[[], str]]:
    """Return the title of the step that starts what others prove themselves with, and the step."""
    if cluster.settings.auth == "munge":
        return "munged", munge(cluster).up
    return "auth/slurm", functools.partial(_without_munge, cluster)


def _without_munge(cluster: Cluster) -> str:
    """End munged, and make the folders that Slurm's own user could not make in /run."""
    stop_recorded(cluster.run / "daemons/munged.json")
    for path in _SOCKETS:
        make_folder(path.parent, owner="root" if path.parent.name == "slurm" else "slurm")
    return "in Slurm's own daemons"


def check_authentication(wanted: Settings, before: Cluster | None) -> None:
    """Refuse auth/slurm where this Slurm does not have it, or another one here uses it."""
    if wanted.auth == "munge":
        return
    if not has_auth_slurm(wanted.slurm):
        raise Failure("auth/slurm begins with Slurm 23.11; add --slurm 24.11, or leave --auth out.")
    is_ours = before and before.settings.auth == wanted.auth
    is_up = is_ours and recorded(before.run / "daemons/slurmctld.json") is not None
    taken = [path for path in _SOCKETS if accepts(path)]
    if taken and not is_up:
        raise Failure(
            f"Another Slurm here has auth/slurm ({taken[0]}), and its sockets have fixed "
            "names.\nEnd that one first, or use --auth munge."
        )


def auth_lines(cluster: Cluster) -> dict[str, str]:
    """Return the lines of slurm.conf and slurmdbd.conf."""
    if cluster.settings.auth == "slurm":
        lines = {"auth": "AuthType=auth/slurm\nCredType=auth/slurm"}
        return {**lines, "slurmdbd_auth": "AuthType=auth/slurm", "accounting_auth": ""}
    munged = f"AuthType=auth/munge\nAuthInfo=socket={cluster.munge_socket}"
    password = f"AccountingStoragePass={cluster.munge_socket}"
    return {
        "auth": f"{munged}\nCredType=cred/munge",
        "slurmdbd_auth": munged,
        "accounting_auth": f"# With slurmdbd this is the munge socket, not a password.\n{password}",
    }


def write_key(cluster: Cluster) -> None:
    """Make this cluster's own key, unless it is there."""
    name, owner = (
        ("munge.key", "root") if cluster.settings.auth == "munge" else ("slurm.key", "slurm")
    )
    key = cluster.etc / name
    if not key.exists():
        write(key, os.urandom(64).hex(), 0o600, owner)


def remove_sockets(cluster: Cluster) -> None:
    """Remove what auth/slurm leaves in /run when its daemons end."""
    if cluster.settings.auth == "munge":
        return
    for path in _SOCKETS:
        if not accepts(path):
            path.unlink(missing_ok=True)
            with contextlib.suppress(OSError):
                path.parent.rmdir()
