"""scripts/kubernetes itself, beside the cluster of the other tests: two at once must do."""

import json
import os
import re
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.integration.running_cluster import REPOSITORY, checked, run, wait_for
from tests.integration.running_kubernetes import IMAGES, Kubernetes

pytestmark = pytest.mark.kubernetes


@pytest.fixture(scope="module")
def own(new_kubernetes) -> Kubernetes:
    """A second cluster that these tests may break."""
    made = new_kubernetes()
    made.up()
    return made


@pytest.fixture
def mended(own) -> Iterator[Kubernetes]:
    """Bring the second cluster back to what it was."""
    yield own
    own.up(nodes=1)


@pytest.fixture
def pod(kubernetes) -> Iterator[str]:
    """A name for a pod that is gone after the test."""
    yield "tested"
    kubernetes.remove_pods("tested")


@pytest.fixture
def namespace(kubernetes) -> Iterator[str]:
    name = f"tested-{time.time_ns()}"
    kubernetes.kubectl("create", "namespace", name)
    accounts = ("serviceaccount", "default", f"--namespace={name}")
    wait_for(lambda: kubernetes.try_kubectl("get", *accounts).returncode == 0)
    yield name
    kubernetes.kubectl("delete", "namespace", name, "--wait=false")


def kernel_leftovers(state: Path, cgroups: list[str]) -> list[str]:
    """Look for anything of a cluster in the kernel, in other ways than `down` does."""
    found = [
        line
        for table in ("/proc/self/mountinfo", "/proc/net/unix")
        for line in Path(table).read_text().splitlines()
        if str(state) in line
    ]
    found += [f for f, _, _ in os.walk("/sys/fs/cgroup") if os.path.basename(f) in cgroups]
    for path in Path("/proc").glob("[0-9]*"):
        try:
            words = (path / "environ").read_bytes() + (path / "cmdline").read_bytes()
        except OSError:
            continue
        if str(state).encode() in words and int(path.name) != os.getpid():
            found.append(f"{path.name}: {words.replace(bytes(1), b' ').decode(errors='replace')}")
    return found


def shared_files(state: Path, node: str) -> list[str]:
    """Look for a cluster's files where those of others may be too, and come and go meanwhile."""
    shims = list(Path("/run/containerd/s").glob("*"))
    open_sockets = Path("/proc/net/unix").read_text()
    dead = [path for path in shims if str(path) not in open_sockets and path.exists()]
    links = [link for link in Path("/var/log/containers").glob("*") if link.is_symlink()]
    ours = [link for link in links if str(link.readlink()).startswith(f"{state}/")]
    results = Path("/var/lib/cni/results").glob(f"sbridge-{node}-*")
    hosts = [line for line in Path("/etc/hosts").read_text().splitlines() if str(state) in line]
    return [*map(str, [*dead, *ours, *results]), *hosts]


INOTIFY_LIMIT = Path("/proc/sys/fs/inotify/max_user_instances")


def inotify_limit() -> int:
    return int(INOTIFY_LIMIT.read_text())


def machine() -> dict[str, str]:
    """Return what a cluster might change for the whole machine."""
    rules = [run(["iptables-save"]).stdout] if shutil.which("iptables-save") else []
    forwarding = Path("/proc/sys/net/ipv4/ip_forward").read_text()
    return {"forwarding": forwarding, "rules": re.sub(r"#.*|\[\d+:\d+\]", "", "".join(rules))}


# --- up ---------------------------------------------------------------------------------------


def test_up_again_changes_nothing_and_says_so(own):
    before = own.pids()
    begin = time.monotonic()
    said = own.up()
    assert time.monotonic() - begin < 10
    assert own.pids() == before
    assert said.count("was up already") == len(before) == 7


@pytest.mark.parametrize(
    "daemon",
    ["etcd", "registry", "kube-apiserver", "kube-scheduler", "containerd-{node}", "kubelet-{node}"],
)
def test_up_brings_back_the_one_daemon_that_died_and_pods_live_on(mended, daemon):
    if not mended.try_kubectl("get", "pod", "lasting").stdout:
        mended.run_pod("lasting", "static")
    mended.wait_pod("lasting", "Running")
    name = daemon.format(node=mended.nodes[0])
    before, processes = mended.pids(), mended.pod_processes("lasting")
    mended.kill(name)
    assert mended.command("status").returncode == 1
    mended.up()
    after = mended.pids()
    assert {other for other in after if after[other] != before[other]} == {name}
    assert mended.command("status").returncode == 0
    assert mended.pod_processes("lasting") == processes != set()


def test_two_nodes_have_pods_that_reach_each_other(mended):
    mended.up(nodes=2)
    first, second = mended.nodes
    mended.run_pod("near", "static", node=first)
    mended.run_pod("far", "alpine", "sleep", "1000", node=second)
    mended.wait_pod("near", "Running")
    mended.wait_pod("far", "Running")
    address = mended.get("pod", "near")["status"]["podIP"]
    mended.kubectl("exec", "far", "--", "ping", "-c1", "-W5", address)
    mended.up(nodes=1)
    assert [node["metadata"]["name"] for node in mended.get("nodes")["items"]] == [first]
    assert kernel_leftovers(mended.state / second, [f"sbridge-{second}"]) == []


@pytest.fixture
def altered_scripts(tmp_path) -> Callable[[str, str, str], Path]:
    """Give a scripts/kubernetes whose files one can spoil."""
    tree = tmp_path / "tree"
    shutil.copytree(REPOSITORY, tree, ignore=shutil.ignore_patterns(".git", "__pycache__"))

    def alter(name: str, old: str, new: str) -> Path:
        path = tree / "scripts" / name
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))
        return tree / "scripts" / "kubernetes"

    return alter


def test_missing_packages_are_named_with_the_command_that_installs_them(own, altered_scripts):
    script = altered_scripts("packages", "\ncontainerd\n", "\ncontainerd\nno-such-pkg\n")
    ran = Kubernetes(own.state, script).command("up")
    assert ran.returncode == 1
    assert "Missing packages: no-such-pkg\n" in ran.stderr
    assert "apt-get install --no-install-recommends no-such-pkg" in ran.stderr


@pytest.mark.parametrize(
    ("template", "old", "new", "daemon", "reason"),
    [
        ("kubelet.yaml", "Percent: 100", "Percent: 101", "kubelet", "between 0 and 100"),
        ("containerd.toml", "version = 2", "version = two", "containerd", "containerd.toml"),
    ],
)
def test_a_daemon_that_does_not_come_up_shows_the_end_of_its_log(
    mended, altered_scripts, template, old, new, daemon, reason
):
    script = altered_scripts(f"kubernetes.d/templates/{template}", old, new)
    ran = Kubernetes(mended.state, script).command("up")
    assert ran.returncode == 1
    assert re.search(rf"{daemon}\S* ended right after its start", ran.stderr)
    assert reason in ran.stderr


def test_go_is_named_when_it_is_missing_or_too_old(own, altered_scripts, tmp_path):
    script = altered_scripts("kubernetes.d/programs.py", ":/usr/local/go/bin", "")
    spoilt = Kubernetes(own.state, script)
    elsewhere = {"XDG_CACHE_HOME": str(tmp_path / "cache"), "PATH": "/usr/bin:/bin"}
    ran = spoilt.command("build", environment=elsewhere)
    assert ran.returncode == 1
    assert "Go 1.26 or newer is missing" in ran.stderr
    assert "https://go.dev/dl" in ran.stderr
    old = tmp_path / "bin" / "go"
    old.parent.mkdir()
    old.write_text("#!/bin/sh\necho 'go: go.mod requires go >= 1.26.0' >&2\nexit 1\n")
    old.chmod(0o755)
    elsewhere["PATH"] = f"{old.parent}:{elsewhere['PATH']}"
    ran = spoilt.command("build", environment=elsewhere)
    assert ran.returncode == 1
    assert f"{old} is not Go 1.26 or newer. It builds" in ran.stderr
    assert "It says: go: go.mod requires go >= 1.26.0" in ran.stderr


def test_a_program_that_does_not_compile_is_told_with_go_s_reason(altered_scripts, own, tmp_path):
    script = altered_scripts("kubernetes.d/programs.py", '"kube-apiserver"', '"no-such-program"')
    cache = {"XDG_CACHE_HOME": str(tmp_path)}
    ran = Kubernetes(own.state, script).command("build", environment=cache)
    assert ran.returncode == 1
    assert "k8s.io/kubernetes/cmd/no-such-program" in ran.stderr
    kept = (tmp_path / "sbridge").rglob("*")
    assert [path.name for path in kept if path.is_file()] == [".lock"]


def test_a_folder_of_other_things_is_refused_and_left_alone():
    with tempfile.TemporaryDirectory(dir="/var/tmp") as foreign:
        Path(foreign, "precious").touch()
        ran = Kubernetes(Path(foreign)).command("up")
        assert os.listdir(foreign) == ["precious"]
    assert ran.returncode == 1
    assert f"{foreign} is not empty and holds no cluster" in ran.stderr


@pytest.mark.parametrize(
    ("ours", "theirs", "saved"),
    [
        ("kubernetes", "dev-cluster", {"slot": 0, "nodes": 2, "runtime": "podman"}),
        ("dev-cluster", "kubernetes", {"slot": 0, "nodes": 1, "programs": "/none"}),
    ],
)
def test_a_folder_of_the_other_kind_of_cluster_is_refused(ours, theirs, saved):
    with tempfile.TemporaryDirectory(dir="/var/tmp") as foreign:
        Path(foreign).chmod(0o755)
        Path(foreign, "cluster.json").write_text(json.dumps(saved))
        states = {"SBRIDGE_K8S_STATE": foreign, "SBRIDGE_DEV_STATE": foreign}
        for command in ("up", "down", "status"):
            ran = run([str(REPOSITORY / "scripts" / ours), command], environment=states)
            assert ran.returncode == 1
            assert ran.stderr == (
                f"{ours}: {foreign} holds a cluster of scripts/{theirs}; choose another folder.\n"
            )


# --- The machine's limit ----------------------------------------------------------------------

RAISE = "print(inotify.raise_limit(record))"
PUT_BACK = "inotify.put_limit_back(record)"


def test_up_has_the_machine_give_its_kubelets_enough_inotify_instances(own):
    assert inotify_limit() >= 1024


@pytest.fixture
def machine_step(altered_scripts, kubernetes) -> Iterator[Callable[..., str]]:
    """Run Python in the machine step of clusters that want twice the inotify instances.

    Their record is their own; `kubernetes` sees to it that nobody puts the limit back meanwhile.
    """
    name, limit = f"sbridge-test-{os.getpid()}", inotify_limit()
    altered_scripts("kubernetes.d/machine.py", '"sbridge-k8s"', f'"{name}"')
    script = altered_scripts("kubernetes.d/inotify.py", "WANTED = 1024", f"WANTED = {2 * limit}")
    paths = [f"{script}.d", f"{script.parent}/clusters.d"]
    imports = f"import sys; sys.path[:0] = {paths}; from machine import SHARED; import inotify\n"
    within = "with SHARED.record() as record: "

    def machine_step(action: str, *wrapper: str) -> str:
        python = ["/usr/bin/python3", "-I", "-c", imports + within + action]
        return checked(run([*wrapper, *python])).strip()

    yield machine_step
    INOTIFY_LIMIT.write_text(str(limit))
    Path(f"/run/lock/{name}.lock").unlink()
    Path(f"/var/lib/{name}.json").unlink(missing_ok=True)


def test_the_last_cluster_of_a_machine_puts_the_limit_of_inotify_instances_back(machine_step):
    limit = inotify_limit()
    machine_step("record['slots'].update({'0': '/usr', '1': '/var'})")
    assert machine_step(RAISE) == f"inotify instances {limit} → {2 * limit}"
    assert machine_step(RAISE) == ""
    machine_step("del record['slots']['0']; " + PUT_BACK)
    assert inotify_limit() == 2 * limit
    machine_step("del record['slots']['1']; " + PUT_BACK)
    assert inotify_limit() == limit


def test_a_limit_that_somebody_has_changed_since_is_his(machine_step):
    limit = inotify_limit()
    machine_step(RAISE)
    INOTIFY_LIMIT.write_text(str(3 * limit))
    machine_step(PUT_BACK)
    assert inotify_limit() == 3 * limit
    machine_step("assert record['made'] == []")


def test_where_the_limit_may_not_be_raised_the_cluster_goes_on(machine_step):
    limit = inotify_limit()
    proc = "mount -o bind,ro /proc/sys/fs /proc/sys/fs"
    wrapper = ["unshare", "--mount", "sh", "-c", f'{proc} && exec "$@"', "sh"]
    said = machine_step(RAISE, *wrapper)
    assert said == f"inotify instances stay {limit} (Read-only file system)"
    machine_step("assert record['made'] == []")
    assert inotify_limit() == limit


# --- What the cluster is ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("image", "command", "printed"),
    [
        ("alpine", ["sh", "-c", "type bash || echo without"], "without"),
        ("bash", ["bash", "-c", "echo ${BASH_VERSION%%.*} $(seq 3 | wc -l)"], "5 3"),
    ],
)
def test_a_pod_runs_from_an_image_with_a_shell(kubernetes, pod, image, command, printed):
    kubernetes.run_pod(pod, image, *command)
    kubernetes.wait_pod(pod, "Succeeded")
    assert kubernetes.kubectl("logs", pod).splitlines()[-1] == printed


def test_a_pod_runs_from_an_image_with_one_program_only(kubernetes, pod):
    kubernetes.kubectl("run", pod, "--restart=Never", f"--image={IMAGES}/static")
    kubernetes.wait_pod(pod, "Running")
    assert kubernetes.try_kubectl("exec", pod, "--", "sh", "-c", "true").returncode != 0


def test_a_pod_has_its_limits_from_the_kernel(kubernetes, pod):
    limits = {"cpu": "500m", "memory": "64Mi"}
    container = {"name": "main", "image": f"{IMAGES}/bash", "resources": {"limits": limits}}
    # tail keeps a line in memory that never ends.
    container["command"] = ["tail", "/dev/zero"]
    spec = {"restartPolicy": "Never", "containers": [container]}
    manifest = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": pod}, "spec": spec}
    kubernetes.kubectl("create", "--filename=-", input=json.dumps(manifest))
    kubernetes.wait_pod(pod, "Failed")
    status = kubernetes.get("pod", pod)["status"]["containerStatuses"][0]["state"]
    assert status["terminated"]["reason"] == "OOMKilled"


def test_an_image_that_is_not_there_is_the_registry_s_reason(kubernetes, pod):
    kubernetes.run_pod(pod, "no-such-image")

    def reason() -> str:
        statuses = kubernetes.get("pod", pod)["status"].get("containerStatuses", [{}])
        return str(statuses[0].get("state", {}).get("waiting", {}))

    wait_for(lambda: "ErrImagePull" in reason() or "BackOff" in reason())
    assert "no-such-image:latest: not found" in reason()


def test_images_can_be_pushed_as_to_any_registry(kubernetes, pod):
    registry = kubernetes.environment["SBRIDGE_K8S_REGISTRY"]
    podman = ["podman", f"--root={kubernetes.state}/podman/root", "--storage-driver=vfs"]
    podman += [f"--runroot={kubernetes.state}/podman/run"]
    target = f"docker://{registry}/team/pushed:1"
    push = ["push", "--tls-verify=false", "localhost/noshell:latest", target]
    checked(run([*podman, *push]))
    image = f"--image={IMAGES}/team/pushed:1"
    kubernetes.kubectl("run", pod, "--restart=Never", image)
    kubernetes.wait_pod(pod, "Running")


def test_admission_guards_namespaces_as_on_any_cluster(kubernetes, namespace):
    within = f"--namespace={namespace}"
    label = "pod-security.kubernetes.io/enforce=baseline"
    kubernetes.kubectl("label", "namespace", namespace, label)
    host = '--overrides={"spec":{"hostNetwork":true}}'
    image = f"--image={IMAGES}/static"
    ran = kubernetes.try_kubectl("run", "first", within, image, host)
    assert 'violates PodSecurity "baseline:latest": host namespaces' in ran.stderr
    kubernetes.kubectl("create", "quota", "one", "--hard=pods=1", within)
    wait_for(lambda: "used" in kubernetes.get("quota", "one", within)["status"])
    kubernetes.kubectl("run", "first", within, image)
    ran = kubernetes.try_kubectl("run", "second", within, image)
    assert "exceeded quota: one, requested: pods=1, used: pods=1, limited: pods=1" in ran.stderr


def test_a_service_account_may_do_only_what_its_role_says(kubernetes, namespace):
    within = f"--namespace={namespace}"
    kubernetes.kubectl("create", "role", "reader", "--verb=get", "--resource=pods", within)
    who = f"--serviceaccount={namespace}:default"
    kubernetes.kubectl("create", "rolebinding", "reader", "--role=reader", who, within)
    token = kubernetes.kubectl("create", "token", "default", within).strip()
    # Without the administrator's certificate: it would be the one that counts.
    plain = ["--kubeconfig=/dev/null", f"--token={token}", f"--server={kubernetes.server}"]
    plain += [f"--certificate-authority={kubernetes.state}/etc/pki/ca.crt"]
    read = kubernetes.try_kubectl(*plain, "get", "pod", "none", within)
    assert 'pods "none" not found' in read.stderr
    refused = kubernetes.try_kubectl(*plain, "get", "pods", "--namespace=default")
    account = f"system:serviceaccount:{namespace}:default"
    assert f'User "{account}" cannot list resource "pods"' in refused.stderr


def test_requests_can_be_counted_by_who_asked(kubernetes):
    who = "--as=counted-in-a-test"
    for _ in range(3):
        kubernetes.try_kubectl("get", "pod", "none", who)
    found = [
        request
        for request in kubernetes.requests()
        if request.get("impersonatedUser", {}).get("username") == "counted-in-a-test"
        and request["objectRef"].get("resource") == "pods"
    ]
    assert len(found) == 3
    assert {request["level"] for request in found} == {"Metadata"}


def test_everything_listens_on_the_loopback_only(kubernetes):
    pids = set(kubernetes.pids().values())
    rows = [line.split() for line in checked(run(["ss", "-Hltnp"])).splitlines()]
    ours = [row for row in rows if {int(n) for n in re.findall(r"pid=(\d+)", row[-1])} & pids]
    assert len(ours) >= len(pids)
    assert {row[3].rpartition(":")[0] for row in ours} == {"127.0.0.1"}


def test_two_clusters_run_side_by_side(kubernetes, own, pod):
    assert set(kubernetes.nodes).isdisjoint(own.nodes)
    for one in (kubernetes, own):
        one.remove_pods(pod)
        one.run_pod(pod, "alpine", "cat", "/etc/hostname")
        one.wait_pod(pod, "Succeeded")
        assert one.get("pod", pod)["spec"]["nodeName"] == one.nodes[0]


# --- env, status ------------------------------------------------------------------------------


def test_env_makes_the_plain_commands_work(own, tmp_path):
    script = f'eval "$({own.script} env)"; kubectl get nodes -o name; ctr images ls -q; env'
    command = ["env", "-i", f"SBRIDGE_K8S_STATE={own.state}", f"HOME={tmp_path}", "PATH=/usr/bin"]
    said = checked(run([*command, "bash", "-c", script])).splitlines()
    assert f"node/{own.nodes[0]}" in said
    assert f"{IMAGES}/pause:latest" in said
    assert f"SBRIDGE_K8S_NODES={own.nodes[0]}" in said
    assert os.listdir(tmp_path) == []


def test_status_tells_the_truth_about_every_daemon(mended):
    ran = mended.command("status")
    assert ran.returncode == 0
    assert all(f"up    pid {pid}" in ran.stdout for pid in mended.pids().values())
    assert [mended.nodes[0], "Ready"] in [line.split()[:2] for line in ran.stdout.splitlines()]
    stopped, killed = mended.pids()["kube-scheduler"], "registry"
    os.kill(stopped, signal.SIGSTOP)
    mended.kill(killed)
    try:
        ran = mended.command("status")
    finally:
        os.kill(stopped, signal.SIGCONT)
    assert ran.returncode == 1
    lines = dict(line.split(maxsplit=1) for line in ran.stdout.splitlines())
    assert lines["kube-scheduler"].startswith(f"up    pid {stopped}, but it does not answer")
    assert lines["registry"].startswith("down")
    assert lines["etcd"].startswith("up")


# --- down -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "died",
    [[], ["kubelet-{node}", "containerd-{node}"], ["kube-apiserver", "etcd"]],
    ids=lambda died: " ".join(died) or "none",
)
def test_down_leaves_nothing_behind(own, died):
    assert own.command("down").returncode == 0
    before = machine()
    own.up()
    node = own.nodes[0]
    bridge = Path("/sys/class/net", own.bridge)
    own.run_pod("left", "bash", "bash", "-c", "trap '' TERM; sleep 4321 & sleep 4321; wait")
    own.wait_pod("left", "Running")
    assert kernel_leftovers(own.state, [f"sbridge-{node}"]) != []
    assert len(shared_files(own.state, node)) == 3
    assert bridge.exists()
    own.kill(*(name.format(node=own.nodes[0]) for name in died))
    ran = own.command("down")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "nothing left behind" in ran.stdout
    assert bool(died) or re.search(r"pods .* 1 deleted", ran.stdout)
    assert kernel_leftovers(own.state, [f"sbridge-{node}"]) == []
    assert shared_files(own.state, node) == []
    assert not bridge.exists()
    assert machine() == before


def test_a_cluster_comes_back_with_what_was_in_it_even_in_another_slot(own, new_kubernetes):
    own.up()
    own.kubectl("create", "configmap", "kept", "--from-literal=a=b")
    assert own.command("down").returncode == 0
    heir = new_kubernetes()
    shutil.copy(own.state / "cluster.json", heir.state)
    heir.up()
    assert heir.nodes == own.nodes
    heir.run_pod("untouched", "static")
    heir.wait_pod("untouched", "Running")
    again = own.command("down")
    assert (again.returncode, again.stderr) == (0, "")
    own.up()
    assert set(own.nodes).isdisjoint(heir.nodes)
    assert [node["metadata"]["name"] for node in own.get("nodes")["items"]] == own.nodes
    assert own.get("configmap", "kept")["data"] == {"a": "b"}
    assert own.get("pods")["items"] == []
    assert heir.phase("untouched") == "Running"
    assert heir.command("down", "--purge").returncode == 0
    assert not heir.state.exists()


def test_down_says_loudly_what_it_could_not_remove(own):
    busy = own.state / "busy"
    busy.mkdir()
    checked(run(["mount", "-t", "tmpfs", "none", str(busy)]))
    try:
        with (busy / "open").open("w"):
            ran = own.command("down")
        assert ran.returncode == 1
        assert ran.stderr.endswith(f"These are still there:\n    mount {busy}\n")
    finally:
        checked(run(["umount", str(busy)]))
    assert own.command("down").returncode == 0


def test_purge_removes_the_state_folder_and_down_without_a_cluster_is_fine(own):
    assert own.command("down", "--purge").returncode == 0
    assert not own.state.exists()
    ran = own.command("down")
    assert ran.returncode == 0
    assert "There is no cluster" in ran.stdout
