"""The daemons of a cluster: how each is started, and how one sees that it works."""

from api import answers_ok, is_healthy
from cluster import Cluster, Node
from daemon import Daemon, accepts
from ports import listening_ports
from slot import ADDRESS, SERVICE_NETWORK


def etcd(cluster: Cluster) -> Daemon:
    """Return etcd, which serves nobody without a certificate."""
    client, peer = (f"https://{ADDRESS}:{cluster.port(name)}" for name in ("etcd", "etcd-peer"))
    argv = [
        "etcd",
        f"--name={cluster.state.name}",
        f"--data-dir={cluster.state}/etcd",
        f"--listen-client-urls={client}",
        f"--advertise-client-urls={client}",
        f"--listen-peer-urls={peer}",
        f"--initial-advertise-peer-urls={peer}",
        f"--initial-cluster={cluster.state.name}={peer}",
        "--logger=zap",
    ]
    for kind in ("", "peer-"):
        argv += [
            f"--{kind}client-cert-auth",
            f"--{kind}trusted-ca-file={cluster.pki}/ca.crt",
            f"--{kind}cert-file={cluster.pki}/etcd.crt",
            f"--{kind}key-file={cluster.pki}/etcd.key",
        ]
    return Daemon(
        cluster,
        "etcd",
        argv,
        lambda: is_healthy(cluster, "etcd", "/health"),
        [cluster.pki / "etcd.crt"],
        address=client,
    )


def registry(cluster: Cluster) -> Daemon:
    """Return the registry that the images come from."""
    conf = cluster.etc / "registry.yml"
    port = cluster.port("registry")
    return Daemon(
        cluster,
        "registry",
        ["docker-registry", "serve", str(conf)],
        lambda: port in listening_ports(),
        [conf],
        address=f"http://{cluster.registry}",
    )


def apiserver(cluster: Cluster) -> Daemon:
    """Return kube-apiserver, with the admission plugins and authorizers that kubeadm gives it."""
    pki = cluster.pki
    policy = cluster.etc / "audit-policy.yaml"
    argv = [
        str(cluster.programs / "kube-apiserver"),
        f"--bind-address={ADDRESS}",
        f"--secure-port={cluster.port('kube-apiserver')}",
        f"--service-cluster-ip-range={SERVICE_NETWORK}",
        # An endpoint on the loopback is refused, and nobody needs one.
        "--endpoint-reconciler-type=none",
        f"--etcd-servers=https://{ADDRESS}:{cluster.port('etcd')}",
        f"--etcd-cafile={pki}/ca.crt",
        f"--etcd-certfile={pki}/etcd.crt",
        f"--etcd-keyfile={pki}/etcd.key",
        f"--tls-cert-file={pki}/apiserver.crt",
        f"--tls-private-key-file={pki}/apiserver.key",
        f"--client-ca-file={pki}/ca.crt",
        # It asks the watch cache for more than Debian's etcd (3.4) tells it: each try is a time-out
        # in the log, and the server's end waits for it.
        "--feature-gates=SizeBasedListCostEstimate=false",
        # Without it, the end of a server that somebody watches takes a minute.
        "--shutdown-watch-termination-grace-period=1s",
        # Nobody stands before this server; the controllers look for these all the same.
        f"--requestheader-client-ca-file={pki}/ca.crt",
        "--requestheader-allowed-names=front-proxy-client",
        "--requestheader-username-headers=X-Remote-User",
        "--requestheader-group-headers=X-Remote-Group",
        "--requestheader-extra-headers-prefix=X-Remote-Extra-",
        "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction",
        "--allow-privileged=true",
        f"--service-account-issuer={cluster.server}",
        f"--service-account-key-file={pki}/service-accounts.key",
        f"--service-account-signing-key-file={pki}/service-accounts.key",
        "--kubelet-preferred-address-types=Hostname",
        f"--kubelet-certificate-authority={pki}/ca.crt",
        f"--kubelet-client-certificate={pki}/apiserver-kubelet-client.crt",
        f"--kubelet-client-key={pki}/apiserver-kubelet-client.key",
        f"--audit-policy-file={policy}",
        f"--audit-log-path={cluster.audit_log}",
        "--audit-log-maxsize=1000",
        "--audit-log-maxbackup=1",
    ]
    return Daemon(
        cluster,
        "kube-apiserver",
        argv,
        lambda: is_healthy(cluster, "kube-apiserver", "/readyz"),
        [policy, pki / "apiserver.crt"],
        address=cluster.server,
    )


def controller_manager(cluster: Cluster) -> Daemon:
    """Return kube-controller-manager."""
    pki = cluster.pki
    extra = [
        f"--root-ca-file={pki}/ca.crt",
        f"--service-account-private-key-file={pki}/service-accounts.key",
        "--use-service-account-credentials",
        f"--cluster-signing-cert-file={pki}/ca.crt",
        f"--cluster-signing-key-file={pki}/ca.key",
    ]
    return _controller(cluster, "kube-controller-manager", extra)


def scheduler(cluster: Cluster) -> Daemon:
    """Return kube-scheduler."""
    return _controller(cluster, "kube-scheduler", [])


def _controller(cluster: Cluster, name: str, extra: list[str]) -> Daemon:
    """Return one of those that only ask the API; there is but one, so nobody elects a leader."""
    kubeconfig = cluster.etc / f"{name}.kubeconfig"
    port = cluster.port(name)
    argv = [
        str(cluster.programs / name),
        f"--bind-address={ADDRESS}",
        f"--secure-port={port}",
        f"--kubeconfig={kubeconfig}",
        f"--authentication-kubeconfig={kubeconfig}",
        f"--authorization-kubeconfig={kubeconfig}",
        f"--tls-cert-file={cluster.pki}/{name}.crt",
        f"--tls-private-key-file={cluster.pki}/{name}.key",
        f"--client-ca-file={cluster.pki}/ca.crt",
        "--leader-elect=false",
        *extra,
    ]
    return Daemon(
        cluster,
        name,
        argv,
        lambda: is_healthy(cluster, name, "/healthz"),
        [kubeconfig, cluster.pki / f"{name}.crt"],
        address=f"https://{ADDRESS}:{port}",
    )


def containerd(node: Node) -> Daemon:
    """Return the containerd of one node."""
    conf = node.etc / "containerd.toml"
    return Daemon(
        node.cluster,
        f"containerd-{node.name}",
        ["containerd", "--config", str(conf)],
        lambda: accepts(node.containerd_socket),
        [conf, node.etc / "cni/10-bridge.conflist"],
        address=str(node.containerd_socket),
    )


def kubelet(node: Node) -> Daemon:
    """Return the kubelet of one node; its containerd must be up."""
    conf = node.etc / "kubelet.yaml"
    argv = [
        str(node.cluster.programs / "kubelet"),
        f"--config={conf}",
        f"--kubeconfig={node.etc}/kubelet.kubeconfig",
        f"--root-dir={node.folder}/kubelet",
        f"--hostname-override={node.name}",
        f"--node-ip={node.cluster.gateway}",
    ]
    return Daemon(
        node.cluster,
        f"kubelet-{node.name}",
        argv,
        lambda: answers_ok(node.healthz_port, "/healthz"),
        [conf, node.cluster.pki / f"{node.name}.crt"],
        # A containerd that listens may still refuse the CRI ("server is not initialized yet"), and
        # a kubelet that meets one such answer ends.
        restarts=True,
        address=f"https://{node.name}:{node.kubelet_port}",
    )


def all_daemons(cluster: Cluster) -> list[Daemon]:
    """Return every daemon, in the order in which they depend on each other."""
    parts = [etcd(cluster), registry(cluster), apiserver(cluster)]
    parts += [controller_manager(cluster), scheduler(cluster)]
    for node in cluster.nodes:
        parts += [containerd(node), kubelet(node)]
    return parts
