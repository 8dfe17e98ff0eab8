"""Each user's sandboxes in a namespace of his: made on first use, and no hole for the agents."""

import json
import pwd
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bridge.runtimes.kubernetes import site
from bridge.runtimes.kubernetes.api import Api, RefusedError
from tests.integration.prepared_site import (
    SLURM_NODE,
    USER,
    PreparedSite,
    remove_user_namespaces,
)
from tests.integration.running_cluster import REPOSITORY, Completed, checked, run, wait_for
from tests.integration.running_kubernetes import IMAGES, Kubernetes
from tests.integration.slurm_on_kubernetes import ALPINE, SlurmOnKubernetes
from tests.integration.submitted_job import script

pytestmark = pytest.mark.kubernetes

NAMESPACE = f"user-{USER}"
POD_NAMES = ["slurm-job-1", "slurm-job-2"]
EVERYBODYS = {("selfsubjectaccessreviews", "create")}
Object = dict[str, Any]


@pytest.fixture(scope="module")
def prepared(kubernetes: Kubernetes) -> Iterator[PreparedSite]:
    """Give a site whose users have namespaces, and whose pods have networks of their own."""
    folder = Path(tempfile.mkdtemp(prefix="sbridge-site-", dir="/var/tmp"))
    folder.chmod(0o755)
    made = PreparedSite(kubernetes, folder, "shared", user_namespaces=True)
    made.prepare(host_network=False)
    wait_for(lambda: refusal(made.agent, *NAMESPACES, users_namespace(label=None)), what="in force")
    yield made
    made.remove()
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def used(prepared: PreparedSite) -> Completed:
    """Have an agent make and remove two sandboxes of one user."""
    program = [sys.executable, "-m", "tests.integration.sandbox_life"]
    return run([*program, SLURM_NODE, USER, f"{IMAGES}/alpine"], environment=variables(prepared))


def variables(prepared: PreparedSite, config: Path | None = None) -> dict[str, str]:
    file = config or prepared.config_file
    return {"SBRIDGE_CONFIG": str(file), "PYTHONPATH": str(REPOSITORY)}


def refusal(agent: Api, path: str, body: Object) -> str:
    """Return why the agent may not create something, empty when it may; nothing is made."""
    try:
        agent.create(path, body, dry_run=True)
    except RefusedError as error:
        return error.message if error.status == 403 else ""
    return ""


def outcomes(prepared: PreparedSite) -> dict[str, str]:
    lines = checked(prepared.sbridge("kubernetes", "apply")).splitlines()
    return {title: done for done, title in (line.split(None, 1) for line in lines)}


# --- The first use, and the next ones ---


def test_the_role_is_enough_for_users_namespaces_and_every_right_in_it_is_used(
    prepared: PreparedSite, used: Completed
) -> None:
    told = checked(used)
    assert "runs: True" in told
    assert "left: [] []" in told
    name = site.agent_name("shared")
    requests = [
        one for one in prepared.kubernetes.requests() if one["user"].get("username") == name
    ]
    asked = {(one["objectRef"]["resource"], one["verb"]) for one in requests} - EVERYBODYS
    assert asked == {
        (resource, verb)
        for rule in site.agent_rules(prepared.config)
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }
    in_pods_namespace = [
        one["objectRef"]["namespace"]
        for one in requests
        if (one["objectRef"]["resource"], one["verb"]) == ("pods", "create")
        and one["objectRef"].get("name") in POD_NAMES
        and one["stage"] == "ResponseComplete"
    ]
    assert in_pods_namespace == [NAMESPACE, NAMESPACE]


@pytest.mark.usefixtures("used")
def test_the_first_use_makes_the_namespace_with_labels_levels_and_policies(
    prepared: PreparedSite,
) -> None:
    """And exactly so as an administrator's `apply` has it."""
    labels = prepared.kubernetes.get("namespace", NAMESPACE)["metadata"]["labels"]
    own = prepared.kubernetes.get("namespace", "shared")["metadata"]["labels"]
    assert labels == own | {
        "kubernetes.io/metadata.name": NAMESPACE,
        "sbridge/site": "shared",
        "sbridge/user": USER,
        "sbridge/uid": str(pwd.getpwnam(USER).pw_uid),
    }
    done = outcomes(prepared)
    assert done[f"Namespace {NAMESPACE}"] == "unchanged"
    assert done[f"NetworkPolicy {NAMESPACE}/sbridge-sandboxes"] == "unchanged"
    assert set(done.values()) == {"unchanged"}


@pytest.mark.usefixtures("used")
def test_the_next_use_takes_the_namespace_that_is_there(prepared: PreparedSite) -> None:
    before = prepared.kubernetes.get("namespace", NAMESPACE)["metadata"]["uid"]
    argv = ["kubernetes", "pod", "--apply", f"--node={SLURM_NODE}", f"--user={USER}"]
    argv.append(f"--image={IMAGES}/static")
    told = checked(prepared.sbridge(*argv, is_administrator=False))
    assert f"was created in namespace {NAMESPACE}" in told
    assert "phase Running: it runs" in told
    assert prepared.kubernetes.get("namespace", NAMESPACE)["metadata"]["uid"] == before
    assert prepared.kubernetes.get("pods", f"--namespace={NAMESPACE}")["items"] == []


@pytest.mark.usefixtures("used")
def test_what_somebody_removed_from_a_users_namespace_is_shown_and_made_again(
    prepared: PreparedSite,
) -> None:
    policy = ["networkpolicy", "sbridge-sandboxes", f"--namespace={NAMESPACE}"]
    prepared.kubernetes.kubectl("delete", *policy)
    assert f"NetworkPolicy {NAMESPACE}/sbridge-sandboxes as configured" in (
        prepared.sbridge("kubernetes", "diff").stdout
    )
    assert outcomes(prepared)[f"NetworkPolicy {NAMESPACE}/sbridge-sandboxes"] == "created"


# --- What the agents may not do, although RBAC lets them ---

NAMESPACES: tuple[str] = ("/api/v1/namespaces",)


def users_namespace(**changes: object) -> Object:
    """Return the namespace that an agent makes for user x, with other labels or metadata.

    `label` None takes the site's off; other changes are of `metadata`.
    """
    (made,) = site.user_objects("user-x", ("x", "1001"), "shared", host_network=True)
    metadata = made["metadata"]
    labels = metadata["labels"]
    if "label" in changes and changes.pop("label") is None:
        labels = {key: value for key, value in labels.items() if key != "sbridge/site"}
    labels = labels | changes.pop("labels", {})  # type: ignore[operator]
    return {**made, "metadata": {**metadata, "labels": labels, **changes}}


def plain_pod() -> Object:
    return {"metadata": {"name": "x"}, "spec": {"containers": [{"name": "x", "image": "x"}]}}


def event() -> Object:
    about = {"kind": "Pod", "name": "x", "namespace": "default"}
    return {"metadata": {"name": "x"}, "involvedObject": about, "reason": "X", "message": "x"}


def policy(**spec: object) -> Object:
    return {"metadata": {"name": "sbridge-sandboxes"}, "spec": {"podSelector": {}, **spec}}


def in_users(what: str) -> str:
    return f"/api/v1/namespaces/{NAMESPACE}/{what}"


NETWORK = f"/apis/networking.k8s.io/v1/namespaces/{NAMESPACE}/networkpolicies"
REFUSED: dict[str, tuple[str, str, Object]] = {
    "a pod in default": ("work there", "/api/v1/namespaces/default/pods", plain_pod()),
    "a pod in kube-system": ("work there", "/api/v1/namespaces/kube-system/pods", plain_pod()),
    "an event elsewhere": ("work there", "/api/v1/namespaces/default/events", event()),
    "a namespace of another name": ("name that follows", *NAMESPACES, users_namespace(name="foo")),
    "another user's name": ("name that follows", *NAMESPACES, users_namespace(name="user-y")),
    "a namespace of root": (
        "ordinary user",
        *NAMESPACES,
        users_namespace(labels={"sbridge/uid": "0"}),
    ),
    "a namespace without the site's label": (
        "exactly the labels",
        *NAMESPACES,
        users_namespace(label=None),
    ),
    "a namespace of another site": (
        "exactly the labels",
        *NAMESPACES,
        users_namespace(labels={"sbridge/site": "others"}),
    ),
    "a namespace with another level": (
        "exactly the labels",
        *NAMESPACES,
        users_namespace(labels={"pod-security.kubernetes.io/audit": "privileged"}),
    ),
    "a namespace with one more label": (
        "exactly the labels",
        *NAMESPACES,
        users_namespace(labels={"istio-injection": "enabled"}),
    ),
    "a namespace with an annotation": (
        "nothing else",
        *NAMESPACES,
        users_namespace(annotations={"scheduler.alpha.kubernetes.io/node-selector": "a=b"}),
    ),
    "a namespace that stays for ever": (
        "nothing else",
        *NAMESPACES,
        users_namespace(finalizers=["example.org/never"]),
    ),
    "a policy that lets everybody in": ("no NetworkPolicy", NETWORK, policy(ingress=[{}])),
    "a policy of another name": (
        "no NetworkPolicy",
        NETWORK,
        {**policy(ingress=[{}]), "metadata": {"name": "more"}},
    ),
}


@pytest.mark.usefixtures("used")
@pytest.mark.parametrize("what", REFUSED)
def test_the_agents_policy_refuses(prepared: PreparedSite, what: str) -> None:
    words, path, body = REFUSED[what]
    said = refusal(prepared.agent, path, body)
    assert "ValidatingAdmissionPolicy 'sbridge-agents.shared'" in said
    assert words in said


def test_what_an_agent_makes_for_a_user_is_admitted(prepared: PreparedSite) -> None:
    assert refusal(prepared.agent, *NAMESPACES, users_namespace()) == ""


def test_an_agent_removes_no_pod_elsewhere(prepared: PreparedSite) -> None:
    kubernetes = prepared.kubernetes
    kubernetes.run_pod("others", "static")
    try:
        with pytest.raises(RefusedError, match=r"sbridge-agents\.shared") as caught:
            prepared.agent.delete("/api/v1/namespaces/default/pods/others")
        assert caught.value.status == 403
        assert not kubernetes.get("pod", "others")["metadata"].get("deletionTimestamp")
    finally:
        kubernetes.remove_pods("others")


def test_a_namespace_that_is_only_called_like_a_users_is_not_touched(
    prepared: PreparedSite,
) -> None:
    kubernetes = prepared.kubernetes
    kubernetes.kubectl("create", "namespace", "user-foreign")
    try:
        said = refusal(prepared.agent, "/api/v1/namespaces/user-foreign/pods", plain_pod())
        assert "with the label sbridge/site=shared only" in said
    finally:
        kubernetes.kubectl("delete", "namespace", "user-foreign")


FORBIDDEN: dict[str, Callable[[Api], object]] = {
    "read secrets": lambda api: api.get(in_users("secrets")),
    "run in a pod": lambda api: api.create(in_users("pods/x/exec"), {}),
    "change a pod": lambda api: api.patch(in_users("pods/x"), {"metadata": {"labels": {"a": "b"}}}),
    "make tokens": lambda api: api.create(in_users("serviceaccounts/default/token"), {}),
    "read namespaces": lambda api: api.get("/api/v1/namespaces"),
    "change a user's namespace": lambda api: api.patch(f"/api/v1/namespaces/{NAMESPACE}", {}),
    "remove a user's namespace": lambda api: api.delete(f"/api/v1/namespaces/{NAMESPACE}"),
    "loosen its own policy": lambda api: api.delete(
        "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies/sbridge-agents.shared"
    ),
    "give itself roles": lambda api: api.create(
        "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", {}
    ),
    "read nodes": lambda api: api.get("/api/v1/nodes"),
}


@pytest.mark.parametrize("what", FORBIDDEN)
def test_an_agent_has_no_role_to(prepared: PreparedSite, what: str) -> None:
    with pytest.raises(RefusedError, match=" cannot ") as caught:
        FORBIDDEN[what](prepared.agent)
    assert caught.value.status == 403


# --- What nobody may do ---


@pytest.fixture(scope="module")
def good_pod(prepared: PreparedSite) -> Object:
    return prepared.printed_pod(f"--image={IMAGES}/alpine", "--job-id=77")


def privileged(pod: Object) -> Object:
    (container,) = pod["spec"]["containers"]
    security = {**container["securityContext"], "privileged": True}
    del security["allowPrivilegeEscalation"]
    return with_container(pod, securityContext=security)


def with_container(pod: Object, **changes: object) -> Object:
    (container,) = pod["spec"]["containers"]
    return {**pod, "spec": {**pod["spec"], "containers": [{**container, **changes}]}}


def of_another(pod: Object) -> Object:
    security = {**pod["spec"]["securityContext"], "runAsUser": 1}
    return {**pod, "spec": {**pod["spec"], "securityContext": security}}


STRANGE: dict[str, tuple[str, Callable[[Object], Object]]] = {
    "is privileged": ("a sandbox is not privileged", privileged),
    "runs as another user": ("runs as that user", of_another),
    "runs as another user in its container": (
        "runs as that user",
        lambda pod: with_container(
            pod, securityContext={**pod["spec"]["containers"][0]["securityContext"], "runAsUser": 1}
        ),
    ),
    "mounts the node": (
        "does not mount / ",
        lambda pod: {
            **pod,
            "spec": {
                **pod["spec"],
                "volumes": [*pod["spec"]["volumes"], {"name": "n", "hostPath": {"path": "/"}}],
            },
        },
    ),
}


@pytest.mark.usefixtures("used")
@pytest.mark.parametrize("what", STRANGE)
def test_no_pod_is_admitted_in_a_users_namespace_that(
    prepared: PreparedSite, good_pod: Object, what: str
) -> None:
    words, change = STRANGE[what]
    pods = in_users("pods")
    assert refusal(prepared.agent, pods, good_pod) == ""
    said = refusal(prepared.agent, pods, change(good_pod))
    assert "ValidatingAdmissionPolicy 'sbridge-user-pods.shared'" in said
    assert words in said
    argv = ["create", "--dry-run=server", "--filename=-"]
    for_administrator = prepared.kubernetes.try_kubectl(*argv, input=json.dumps(change(good_pod)))
    assert for_administrator.returncode != 0
    assert words in for_administrator.stderr


@pytest.mark.usefixtures("used")
@pytest.mark.parametrize("label", ["sbridge/site-", "sbridge/site=others", "sbridge/uid=1"])
def test_nobody_takes_the_labels_off_by_which_the_policies_hold(
    prepared: PreparedSite, label: str
) -> None:
    argv = ["label", "--overwrite", "namespace", NAMESPACE, label]
    refused = prepared.kubernetes.try_kubectl(*argv)
    assert refused.returncode != 0
    assert "of a user's namespace stay as they are" in refused.stderr
    checked(prepared.kubernetes.try_kubectl("label", "namespace", NAMESPACE, "team=a"))
    checked(prepared.kubernetes.try_kubectl("label", "namespace", NAMESPACE, "team-"))


# --- check ---


@pytest.mark.usefixtures("used")
def test_check_proves_what_the_agents_may_and_may_not(prepared: PreparedSite) -> None:
    answer = prepared.sbridge("kubernetes", "check", f"--nodes={SLURM_NODE}")
    assert answer.returncode == 0, answer.stdout
    assert f"Namespace {NAMESPACE} is as configured" in answer.stdout
    assert "the agents may not make pods in kube-system" in answer.stdout

    binding = ["validatingadmissionpolicybinding", "sbridge-agents.shared"]
    prepared.kubernetes.kubectl("delete", *binding)
    try:
        wait_for(
            lambda: (
                "WRONG  the agents may make pods in kube-system, which nothing refuses"
                in prepared.sbridge("kubernetes", "check", f"--nodes={SLURM_NODE}").stdout
            )
        )
    finally:
        assert "created" in outcomes(prepared).values()
    pods = "/api/v1/namespaces/kube-system/pods"
    wait_for(lambda: refusal(prepared.agent, pods, plain_pod()), what="the policy is back")


# --- Switching it off ---


@pytest.mark.usefixtures("used")
def test_pods_of_before_it_was_switched_off_are_found_and_removed(
    prepared: PreparedSite, good_pod: Object
) -> None:
    off = prepared.folder / "off.toml"
    text = prepared.config_file.read_text()
    off.write_text(text.replace("user_namespaces = true", "user_namespaces = false"))
    prepared.agent.create(in_users("pods"), good_pod)
    program = [sys.executable, "-m", "tests.integration.late_removal", SLURM_NODE, "slurm-job-77"]
    told = checked(run(program, environment=variables(prepared, off)))
    assert "found: ['slurm-job-77']" in told
    assert "left: []" in told
    assert prepared.kubernetes.get("pods", f"--namespace={NAMESPACE}")["items"] == []


# --- With Slurm ---


@pytest.fixture(scope="module")
def cluster(slurm_on_kubernetes: SlurmOnKubernetes) -> Iterator[SlurmOnKubernetes]:
    """Give a cluster whose users have namespaces, until the last test."""
    with slurm_on_kubernetes.settings("kubernetes.user_namespaces=true"):
        yield slurm_on_kubernetes
        slurm_on_kubernetes.slurm("scancel", "--partition=main")
        slurm_on_kubernetes.wait_until_clean()
    remove_user_namespaces(slurm_on_kubernetes.kubernetes, slurm_on_kubernetes.namespace)


def places(cluster: SlurmOnKubernetes) -> set[tuple[str, str]]:
    """Return namespace and user of each sandbox of the cluster."""
    found = cluster.kubernetes.get("pods", "--all-namespaces", "--selector=app=slurm-job")
    return {
        (pod["metadata"]["namespace"], pod["metadata"]["labels"]["sbridge/user"])
        for pod in found["items"]
        if pod["metadata"]["labels"]["sbridge/node"] in cluster.nodes
    }


SLEEPING = script("id -un; echo ready; sleep 987\n", ALPINE)


@pytest.mark.slurm
def test_two_users_jobs_are_in_their_own_namespaces_and_the_next_one_too(cluster, job):
    jobs = [job(SLEEPING, user=user).wait_to_write() for user in ("alice", "bob")]
    assert places(cluster) == {("user-alice", "alice"), ("user-bob", "bob")}
    assert [ran.out.split()[0] for ran in jobs] == ["alice", "bob"]
    made = cluster.kubernetes.get("namespace", "user-alice")["metadata"]["uid"]

    jobs.append(job(SLEEPING.replace("987", "0")))
    for ran in jobs[:2]:
        cluster.scancel(ran.job_id)
    assert jobs[2].end == ("COMPLETED", "0:0")
    cluster.wait_until_clean()
    assert places(cluster) == set()
    assert cluster.kubernetes.get("namespace", "user-alice")["metadata"]["uid"] == made


@pytest.mark.slurm
def test_a_pod_without_a_job_is_removed_from_a_users_namespace(cluster, job):
    ran = job(SLEEPING).wait_to_write()
    (pod,) = cluster.kubernetes.get("pods", "--namespace=user-alice")["items"]
    name = "slurm-job-999999"
    metadata = {"name": name, "namespace": "user-alice", "labels": pod["metadata"]["labels"]}
    spec = {key: value for key, value in pod["spec"].items() if key != "nodeName"}
    orphan = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}
    cluster.kill_agents()
    cluster.kubernetes.kubectl("create", "--filename=-", input=json.dumps(orphan))
    cluster.start_agents()

    def names() -> list[str]:
        found = cluster.kubernetes.get("pods", "--namespace=user-alice")["items"]
        return [one["metadata"]["name"] for one in found]

    cluster.wait_for(lambda: names() == [pod["metadata"]["name"]], what="the orphan is gone")
    cluster.scancel(ran.job_id)
    cluster.wait_until_clean()
    assert names() == []


@pytest.mark.slurm
def test_jobs_that_run_while_it_is_switched_off_keep_their_pods_and_leave_nothing(cluster, job):
    before = job(SLEEPING).wait_to_write()
    cluster.up_with("")
    after = job(SLEEPING, user="bob").wait_to_write()
    assert places(cluster) == {("user-alice", "alice"), (cluster.namespace, "bob")}

    for ran in (before, after):
        cluster.scancel(ran.job_id)
        assert ran.wait() == "CANCELLED"
    cluster.wait_until_clean()
    assert places(cluster) == set()
