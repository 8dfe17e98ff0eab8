"""What an administrator installs in a cluster: enough for sandboxes, and no more."""

import json
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bridge.errors import SbridgeError
from bridge.runtimes.kubernetes import site
from bridge.runtimes.kubernetes.api import RefusedError
from tests.integration.prepared_site import SLURM_NODE, USER, PreparedSite
from tests.integration.running_cluster import REPOSITORY, checked, run, wait_for
from tests.integration.running_kubernetes import IMAGES, Kubernetes

pytestmark = pytest.mark.kubernetes

DECIDED = ("ResponseStarted", "ResponseComplete")  # the first of a watch, which may still last
Pod = dict[str, Any]


@pytest.fixture(scope="module")
def prepared(kubernetes: Kubernetes) -> Iterator[PreparedSite]:
    """Give a site that two commands prepared."""
    folder = Path(tempfile.mkdtemp(prefix="sbridge-site-", dir="/var/tmp"))
    folder.chmod(0o755)
    made = PreparedSite(kubernetes, folder, "site")
    made.prepare()
    yield made
    made.remove()
    shutil.rmtree(folder)


def outcomes(prepared: PreparedSite) -> dict[str, str]:
    lines = checked(prepared.sbridge("kubernetes", "apply")).splitlines()
    return {title: done for done, title in (line.split(None, 1) for line in lines)}


# --- apply, diff, check ---


def test_applying_again_changes_nothing(prepared: PreparedSite) -> None:
    assert set(outcomes(prepared).values()) == {"unchanged"}
    assert prepared.sbridge("kubernetes", "diff").returncode == 0


def test_what_is_rendered_is_what_kubectl_takes(prepared: PreparedSite) -> None:
    text = checked(prepared.sbridge("kubernetes", "render"))
    options = ["--server-side", "--field-manager=sbridge", "--filename=-"]
    checked(prepared.kubernetes.try_kubectl("apply", *options, input=text))
    assert set(outcomes(prepared).values()) == {"unchanged"}


def test_a_change_by_hand_is_shown_and_mended(prepared: PreparedSite) -> None:
    more = [{"op": "add", "path": "/rules/0/verbs/-", "value": "patch"}]
    checked(
        prepared.kubectl("patch", "role", "sbridge-agent", "--type=json", f"-p={json.dumps(more)}")
    )
    shown = prepared.sbridge("kubernetes", "diff")
    assert shown.returncode == 1
    assert "-  - patch" in shown.stdout.splitlines()
    assert "+++ Role site/sbridge-agent as configured" in shown.stdout
    done = outcomes(prepared)
    assert done.pop("Role site/sbridge-agent") == "changed"
    assert set(done.values()) == {"unchanged"}


def test_what_somebody_deleted_is_missing_and_made_again(prepared: PreparedSite) -> None:
    checked(prepared.kubectl("delete", "rolebinding", "sbridge-agent"))
    wrong = prepared.sbridge("kubernetes", "check", f"--nodes={SLURM_NODE}")
    assert wrong.returncode == 1
    assert "WRONG  RoleBinding site/sbridge-agent is not there" in wrong.stdout
    assert "WRONG  the agents may not: create pods in site" in wrong.stdout
    assert outcomes(prepared)["RoleBinding site/sbridge-agent"] == "created"


def test_a_namespace_of_others_is_taken_only_when_that_is_said(prepared: PreparedSite) -> None:
    kubernetes = prepared.kubernetes
    kubernetes.kubectl("create", "namespace", "others")
    text = prepared.config_file.read_text()
    other = prepared.folder / "other.toml"
    other.write_text(text.replace('namespace = "site"', 'namespace = "others"'))
    try:
        refused = prepared.sbridge("kubernetes", "apply", f"--config={other}")
        assert refused.returncode == 1
        assert "namespace others is there already, and not sbridge's" in refused.stderr
        labels = kubernetes.get("namespace", "others")["metadata"]["labels"]
        assert "pod-security.kubernetes.io/enforce" not in labels
        checked(prepared.sbridge("kubernetes", "apply", f"--config={other}", "--adopt"))
        checked(prepared.sbridge("kubernetes", "diff", f"--config={other}"))
    finally:
        kinds = "validatingadmissionpolicy,validatingadmissionpolicybinding"
        kubernetes.kubectl("delete", kinds, "sbridge-pods.others", "--ignore-not-found")
        kubernetes.kubectl("delete", "namespace", "others")


def test_check_is_satisfied_with_what_apply_made(prepared: PreparedSite) -> None:
    answer = prepared.sbridge("kubernetes", "check", f"--nodes={SLURM_NODE}")
    assert answer.returncode == 0, answer.stdout
    node = prepared.kubernetes.nodes[0]
    assert f"Slurm's node {SLURM_NODE} is Kubernetes' node {node}: Ready" in answer.stdout
    assert "system:serviceaccount:site:sbridge-agent's" in answer.stdout
    assert "the agent's token ends at" in answer.stdout
    assert "the agents may do nothing else" in answer.stdout


def test_check_finds_rights_that_no_agent_needs(prepared: PreparedSite) -> None:
    binding = ["rolebinding", "too-much"]
    account = "--serviceaccount=site:sbridge-agent"
    checked(prepared.kubectl("create", *binding, "--clusterrole=edit", account))
    try:
        for arguments in ([], ["--nodes=n1"]):  # with and without the agent's own word
            answer = prepared.sbridge("kubernetes", "check", *arguments)
            assert answer.returncode == 1
            line = next(x for x in answer.stdout.splitlines() if "need not, but may" in x)
            assert "get secrets in site" in line
            assert "create pods/exec in site" in line
            assert "patch deployments.apps" in line
    finally:
        checked(prepared.kubectl("delete", *binding))


def test_check_names_a_node_that_the_cluster_has_not(prepared: PreparedSite) -> None:
    answer = prepared.sbridge("kubernetes", "check", "--nodes=n[1-2]")
    assert answer.returncode == 1
    assert "WRONG  Slurm's node n2 is Kubernetes' node n2, which is not there" in answer.stdout


# --- the agent's rights ---


def test_the_role_is_enough_for_sandboxes_and_every_right_in_it_is_used(
    prepared: PreparedSite,
) -> None:
    before = len(prepared.kubernetes.requests())
    program = [sys.executable, "-m", "tests.integration.sandbox_life"]
    variables = {"SBRIDGE_CONFIG": str(prepared.config_file), "PYTHONPATH": str(REPOSITORY)}
    arguments = [SLURM_NODE, USER, f"{IMAGES}/alpine"]
    told = checked(run([*program, *arguments], environment=variables))
    assert "runs: True" in told
    assert "never runs: image" in told
    assert "left: [] []" in told

    name = site.agent_name("site")
    requests = [
        one
        for one in prepared.kubernetes.requests()[before:]
        if one["user"]["username"] == name and one["stage"] in DECIDED
    ]
    refused = [one for one in requests if one["responseStatus"]["code"] in (401, 403)]
    assert refused == []
    used = {(one["objectRef"]["resource"], one["verb"]) for one in requests}
    granted = {
        (resource, verb)
        for rule in site.agent_rules(prepared.config)
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }
    assert used - {("selfsubjectaccessreviews", "create")} == granted  # everybody may ask that


FORBIDDEN = {
    "read secrets": lambda api, own: api.get(own("secrets")),
    "read one secret": lambda api, own: api.get(own("secrets/x")),
    "read configuration": lambda api, own: api.get(own("configmaps")),
    "read one pod's log": lambda api, own: api.get(own("pods/x/log")),
    "run in a pod": lambda api, own: api.create(own("pods/x/exec"), {}),
    "enter a pod": lambda api, own: api.create(own("pods/x/attach"), {}),
    "change a pod": lambda api, own: api.patch(own("pods/x"), {"metadata": {"labels": {"a": "b"}}}),
    "make tokens": lambda api, own: api.create(own("serviceaccounts/sbridge-agent/token"), {}),
    "make secrets": lambda api, own: api.create(own("secrets"), {"metadata": {"name": "x"}}),
    "delete events": lambda api, own: api.delete(own("events/x")),
    "change the namespace": lambda api, own: api.patch("/api/v1/namespaces/site", {}),
    "give itself roles": lambda api, own: api.create(
        "/apis/rbac.authorization.k8s.io/v1/namespaces/site/rolebindings", {}
    ),
    "run anything else": lambda api, own: api.create("/apis/batch/v1/namespaces/site/jobs", {}),
    "read nodes": lambda api, own: api.get("/api/v1/nodes"),
    "read namespaces": lambda api, own: api.get("/api/v1/namespaces"),
    "read all pods": lambda api, own: api.get("/api/v1/pods"),
    "read others' pods": lambda api, own: api.get("/api/v1/namespaces/default/pods"),
    "make pods elsewhere": lambda api, own: api.create(
        "/api/v1/namespaces/default/pods", {"metadata": {"name": "x"}}
    ),
    "loosen the policy": lambda api, own: api.patch(
        "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies/sbridge-pods.site", {}
    ),
}


@pytest.mark.parametrize("what", FORBIDDEN)
def test_an_agent_may_not_do_anything_else(prepared: PreparedSite, what: str) -> None:
    with pytest.raises(RefusedError) as caught:
        FORBIDDEN[what](prepared.agent, prepared.path)
    assert caught.value.status == 403
    assert site.agent_name("site") in caught.value.message


# --- the policy ---


def container(pod: Pod) -> Pod:
    return dict(pod["spec"]["containers"][0])


def changed(pod: Pod, spec: Pod, **container_changes: object) -> Pod:
    """Return the pod with other fields in its spec and its container; None removes one."""
    first = {**container(pod), **container_changes}
    full = {**pod["spec"], "containers": [first], **spec}
    return {**pod, "spec": {key: value for key, value in full.items() if value is not None}}


def secured(pod: Pod, **security: object) -> Pod:
    wanted = {**container(pod)["securityContext"], **security}
    kept = {key: value for key, value in wanted.items() if value is not None}
    return changed(pod, {}, securityContext=kept)


def pod_secured(pod: Pod, **security: object) -> Pod:
    return changed(pod, {"securityContext": {**pod["spec"]["securityContext"], **security}})


def mounting(pod: Pod, **volume: object) -> Pod:
    return changed(pod, {"volumes": [*pod["spec"]["volumes"], {"name": "more", **volume}]})


PRIVILEGED = {"privileged": True, "allowPrivilegeEscalation": None}
SOURCE = {"fieldRef": {"fieldPath": "metadata.name"}}
TOKEN = {"serviceAccountToken": {"path": "token"}}
REFUSED: dict[str, tuple[str, Callable[[Pod], Pod]]] = {
    "privileged": ("is not privileged", lambda pod: secured(pod, **PRIVILEGED)),
    "gains privileges": (
        "Escalation: false",
        lambda pod: secured(pod, allowPrivilegeEscalation=None),
    ),
    "adds a capability": (
        "adds none",
        lambda pod: secured(pod, capabilities={"drop": ["ALL"], "add": ["NET_BIND_SERVICE"]}),
    ),
    "keeps capabilities": ("drops ALL", lambda pod: secured(pod, capabilities=None)),
    "may be root": (
        "runAsNonRoot: true",
        lambda pod: secured(pod, runAsNonRoot=False),
    ),
    "is root": ("runAsUser that is not 0", lambda pod: secured(pod, runAsUser=0)),
    "is whoever the image says": (
        "runAsUser that is not 0",
        lambda pod: changed(
            pod, {"securityContext": {"seccompProfile": {"type": "RuntimeDefault"}}}
        ),
    ),
    "has the node's processes": ("no hostPID", lambda pod: changed(pod, {"hostPID": True})),
    "has the node's memory": ("no hostIPC", lambda pod: changed(pod, {"hostIPC": True})),
    "has no seccomp": (
        "seccomp profile",
        lambda pod: pod_secured(pod, seccompProfile={"type": "Unconfined"}),
    ),
    "has a container without seccomp": (
        "seccomp profile",
        lambda pod: secured(pod, seccompProfile={"type": "Unconfined"}),
    ),
    "has no AppArmor": (
        "AppArmor profile Unconfined",
        lambda pod: secured(pod, appArmorProfile={"type": "Unconfined"}),
    ),
    "sets a sysctl": (
        "sets no sysctl",
        lambda pod: changed(
            pod_secured(pod, sysctls=[{"name": "kernel.shm_rmid_forced", "value": "0"}]),
            {"hostNetwork": False},
        ),
    ),
    "sets an SELinux type": (
        "SELinux",
        lambda pod: secured(pod, seLinuxOptions={"type": "spc_t"}),
    ),
    "mounts a token by itself": (
        "automountServiceAccountToken: false",
        lambda pod: changed(pod, {"automountServiceAccountToken": None}),
    ),
    "mounts a token": (
        "no volume but hostPath",
        lambda pod: mounting(pod, projected={"sources": [TOKEN]}),
    ),
    "mounts a secret": (
        "no volume but hostPath",
        lambda pod: mounting(pod, secret={"secretName": "x"}),
    ),
    "has all of a secret in its environment": (
        "no variable from a Secret",
        lambda pod: changed(pod, {}, envFrom=[{"secretRef": {"name": "x"}}]),
    ),
    "has a variable from elsewhere": (
        "no variable from a Secret",
        lambda pod: changed(pod, {}, env=[{"name": "A", "valueFrom": SOURCE}]),
    ),
    "mounts the node": (
        "does not mount / (type '');",
        lambda pod: mounting(pod, hostPath={"path": "/"}),
    ),
    "mounts what a user may have linked": (
        "does not mount /home/alice/link",
        lambda pod: mounting(pod, hostPath={"path": "/home/alice/link"}),
    ),
    "has a folder made": (
        "does not mount /home (type 'DirectoryOrCreate')",
        lambda pod: mounting(pod, hostPath={"path": "/home", "type": "DirectoryOrCreate"}),
    ),
    "mounts the runtime's socket": (
        "does not mount /run/containerd/containerd.sock",
        lambda pod: mounting(pod, hostPath={"path": "/run/containerd/containerd.sock"}),
    ),
    "has an init container": (
        "no init container",
        lambda pod: changed(pod, {"initContainers": [{**container(pod), "name": "first"}]}),
    ),
    "has a second container that is privileged": (
        "is not privileged",
        lambda pod: changed(
            pod,
            {
                "containers": [
                    container(pod),
                    {**container(secured(pod, **PRIVILEGED)), "name": "second"},
                ]
            },
        ),
    ),
}


@pytest.fixture(scope="module")
def good_pod(prepared: PreparedSite) -> Pod:
    return prepared.printed_pod(f"--image={IMAGES}/alpine", "--job-id=77")


def test_the_agents_own_pods_are_admitted(prepared: PreparedSite, good_pod: Pod) -> None:
    prepared.agent.create(prepared.path("pods"), good_pod)
    name = good_pod["metadata"]["name"]
    assert prepared.agent.delete(prepared.path(f"pods/{name}"), grace_s=0)


@pytest.mark.parametrize("what", REFUSED)
def test_no_pod_is_admitted_that(prepared: PreparedSite, good_pod: Pod, what: str) -> None:
    words, change = REFUSED[what]
    with pytest.raises(RefusedError) as caught:
        prepared.agent.create(prepared.path("pods"), change(good_pod))
    assert caught.value.status == 403
    assert "ValidatingAdmissionPolicy 'sbridge-pods.site'" in caught.value.message
    assert words in caught.value.message


def test_not_even_an_administrator_makes_such_a_pod(prepared: PreparedSite, good_pod: Pod) -> None:
    text = json.dumps(secured(good_pod, **PRIVILEGED))
    refused = prepared.kubectl("create", "--filename=-", input=text)
    assert refused.returncode != 0
    assert "a sandbox is not privileged" in refused.stderr


def test_no_container_is_added_to_a_pod_that_is_there(
    prepared: PreparedSite, good_pod: Pod
) -> None:
    prepared.agent.create(prepared.path("pods"), good_pod)
    name = good_pod["metadata"]["name"]
    try:
        refused = prepared.kubectl("debug", name, f"--image={IMAGES}/alpine", "--attach=false")
        assert refused.returncode != 0
        assert "no ephemeral one" in refused.stderr
    finally:
        prepared.agent.delete(prepared.path(f"pods/{name}"), grace_s=0)


def test_other_namespaces_are_not_concerned(prepared: PreparedSite, good_pod: Pod) -> None:
    text = json.dumps(secured(good_pod, **PRIVILEGED))
    argv = ["create", "--dry-run=server", "--namespace=default", "--filename=-"]
    checked(prepared.kubernetes.try_kubectl(*argv, input=text))


def test_pods_with_networks_of_their_own_may_not_have_the_nodes(prepared: PreparedSite) -> None:
    shared = prepared.printed_pod(f"--image={IMAGES}/alpine")
    prepared.write_config(host_network=False)
    try:
        assert outcomes(prepared)["NetworkPolicy site/sbridge-sandboxes"] == "created"
        own = prepared.printed_pod(f"--image={IMAGES}/alpine")

        wait_for(lambda: "a network of its own" in refusal(prepared, shared), what="the policy")
        assert refusal(prepared, own) == ""
    finally:
        prepared.write_config()
        outcomes(prepared)
        checked(prepared.kubectl("delete", "networkpolicy", "sbridge-sandboxes"))
        wait_for(lambda: refusal(prepared, shared) == "", what="the old policy")


def refusal(prepared: PreparedSite, pod: Pod) -> str:
    """Return why the agent may not create a pod, empty when it may."""
    try:
        prepared.agent.create(prepared.path("pods"), pod)
    except RefusedError as error:
        return error.message
    prepared.agent.delete(prepared.path(f"pods/{pod['metadata']['name']}"), grace_s=0)
    return ""


def test_the_audit_log_names_the_two_exceptions_of_sandboxes_and_nothing_else(
    prepared: PreparedSite, good_pod: Pod
) -> None:
    """What the namespace's description says of audit=restricted."""
    before = len(prepared.kubernetes.requests())
    prepared.agent.create(prepared.path("pods"), good_pod)
    prepared.agent.delete(prepared.path(f"pods/{good_pod['metadata']['name']}"), grace_s=0)
    said = [
        one["annotations"]["pod-security.kubernetes.io/audit-violations"]
        for one in prepared.kubernetes.requests()[before:]
        if one["verb"] == "create" and "audit-violations" in str(one.get("annotations"))
    ]
    assert said
    exceptions = (
        r"host namespaces \(hostNetwork=true\), "
        r"restricted volume types \(volumes [-\w, \"]+ use restricted volume type \"hostPath\"\)"
    )
    assert re.fullmatch(exceptions, said[0].partition(": ")[2])


# --- credentials ---


def test_the_agents_credentials_are_one_file_of_roots(prepared: PreparedSite) -> None:
    assert prepared.agent_kubeconfig.stat().st_mode & 0o777 == 0o600
    assert "certificate-authority-data" in prepared.agent_kubeconfig.read_text()
    prepared.agent.get(prepared.path("pods"))


def test_a_client_takes_the_new_token_when_the_old_one_is_refused(prepared: PreparedSite) -> None:
    client = prepared.agent  # as in an agent that runs on
    client.get(prepared.path("pods"))
    old = prepared.agent.token
    checked(prepared.kubectl("delete", "serviceaccount", "sbridge-agent"))
    assert outcomes(prepared)["ServiceAccount site/sbridge-agent"] == "created"

    def is_refused() -> bool:
        """The API server remembers for seconds that it once took a token."""
        try:
            prepared.agent.get(prepared.path("pods"))
        except RefusedError as error:
            return error.status == 401
        return False

    wait_for(is_refused, what="the old token is refused")
    with pytest.raises(SbridgeError):
        client.get(prepared.path("pods"))
    prepared.renew_credentials()

    def works() -> bool:
        try:
            client.get(prepared.path("pods"))
        except SbridgeError:
            return False
        return True

    wait_for(works, 10, "the client has read the new token")
    assert client.token == prepared.agent.token != old


def test_without_the_account_no_credentials_are_made(prepared: PreparedSite) -> None:
    text = prepared.config_file.read_text()
    other = prepared.folder / "empty.toml"
    other.write_text(text.replace('namespace = "site"', 'namespace = "default"'))
    refused = prepared.sbridge("kubernetes", "kubeconfig", f"--config={other}")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "`sbridge kubernetes apply` makes the account." in refused.stderr
