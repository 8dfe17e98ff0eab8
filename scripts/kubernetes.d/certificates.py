"""Keys and certificates: one authority for everything, made once for a state folder."""

from collections.abc import Sequence
from dataclasses import dataclass

from cluster import Cluster, Node
from commands import call
from files import make_folder, write
from slot import ADDRESS, SERVICE_NETWORK

DAYS = 3650
EMPTY_CONFIGURATION = "[req]\ndistinguished_name = name\n[name]\n"


@dataclass(frozen=True)
class Certificate:
    """Who somebody is (`user`, `group`), and under which names he is reached."""

    name: str
    user: str
    group: str = ""
    names: Sequence[str] = ()

    @property
    def subject(self) -> str:
        organisation = f"/O={self.group}" if self.group else ""
        return f"{organisation}/CN={self.user}"


def make_certificates(cluster: Cluster) -> str:
    """Make the authority and the certificates that are missing."""
    make_folder(cluster.etc)
    make_folder(cluster.pki, 0o700)
    configuration = cluster.pki / "openssl.cnf"
    write(configuration, EMPTY_CONFIGURATION)
    _make_authority(cluster)
    made = [each for each in _certificates(cluster) if _make_unless_there(cluster, each)]
    return f"{len(made)} made" if made else "all there"


def _certificates(cluster: Cluster) -> list[Certificate]:
    service = SERVICE_NETWORK.replace(".0/24", ".1")
    server_names = [
        *(f"DNS:{name}" for name in ("localhost", "kubernetes", "kubernetes.default")),
        *("DNS:kubernetes.default.svc", f"IP:{ADDRESS}", f"IP:{service}"),
    ]
    return [
        Certificate("etcd", "etcd", names=[f"IP:{ADDRESS}"]),
        Certificate("apiserver", "kube-apiserver", names=server_names),
        Certificate("apiserver-kubelet-client", "kube-apiserver", "system:masters"),
        Certificate("admin", "admin", "system:masters"),
        *(
            Certificate(name, f"system:{name}", names=[f"IP:{ADDRESS}"])
            for name in ("kube-controller-manager", "kube-scheduler")
        ),
        *(_of_node(node) for node in cluster.nodes),
    ]


def _of_node(node: Node) -> Certificate:
    """Return a kubelet's, which is both what it asks with and what it answers with."""
    names = [f"DNS:{node.name}", f"IP:{ADDRESS}"]
    return Certificate(node.name, f"system:node:{node.name}", "system:nodes", names)


def _make_authority(cluster: Cluster) -> None:
    if not (cluster.pki / "ca.crt").exists():
        constraints = ["-addext", "basicConstraints=critical,CA:TRUE"]
        _request(cluster, "ca", "/CN=sbridge development cluster", constraints)
    key = cluster.pki / "service-accounts.key"
    if not key.exists():
        call(["openssl", "genrsa", "-out", str(key), "2048"])


def _make_unless_there(cluster: Cluster, certificate: Certificate) -> bool:
    if (cluster.pki / f"{certificate.name}.crt").exists():
        return False
    extensions = [
        *("-CA", str(cluster.pki / "ca.crt"), "-CAkey", str(cluster.pki / "ca.key")),
        *("-addext", "basicConstraints=critical,CA:FALSE"),
        *("-addext", "extendedKeyUsage=serverAuth,clientAuth"),
    ]
    if certificate.names:
        extensions += ["-addext", f"subjectAltName={','.join(certificate.names)}"]
    _request(cluster, certificate.name, certificate.subject, extensions)
    return True


def _request(cluster: Cluster, name: str, subject: str, extensions: Sequence[str]) -> None:
    """Make a key, then its certificate: who finds the second finds both."""
    new = cluster.pki / f"{name}.crt.new"
    call(
        [
            *("openssl", "req", "-x509", "-config", str(cluster.pki / "openssl.cnf")),
            *("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-noenc"),
            *("-keyout", str(cluster.pki / f"{name}.key"), "-out", str(new)),
            *("-days", str(DAYS), "-subj", subject),
            *extensions,
        ]
    )
    new.replace(cluster.pki / f"{name}.crt")
