"""Who wants to know who asks: a registry with passwords, and the API of an agent in a pod."""

import base64
import contextlib
import itertools
import json
import ssl
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from tests.integration.guarded_registry import PASSWORD, USER, guarded_registry
from tests.integration.slurm_on_kubernetes import ALPINE, ON_PODS
from tests.integration.submitted_job import script

pytestmark = [*ON_PODS, pytest.mark.usefixtures("clean_afterwards")]

RUN = "echo ran\n"
SECRET = "hub"
# Where every pod has them; a kubelet renews the token there.
POD_CREDENTIALS = Path("/run/secrets/kubernetes.io/serviceaccount")


def assert_ran(cluster, ran):
    assert ran.wait() == "COMPLETED", ran.err
    assert ran.out == "ran\n"
    assert cluster.job_field(ran.job_id, "Restarts") == "0"
    assert cluster.drained_nodes() == {}


def assert_failed(cluster, ran, reason):
    assert ran.end == ("FAILED", "1:0"), ran.err
    assert ran.err.splitlines()[-1].startswith(f"sbridge: {reason}")
    assert cluster.job_field(ran.job_id, "Restarts") == "0"
    assert cluster.drained_nodes() == {}


# --- A registry that wants a password -------------------------------------------------------------


@pytest.fixture
def guarded(cluster, tmp_path):
    """Give the address of a registry with the cluster's images, behind a password."""
    with guarded_registry(cluster.kubernetes.state / "registry", tmp_path) as address:
        yield address


@pytest.fixture(scope="module")
def with_secret(slurm_on_kubernetes):
    """Have the site name a secret with passwords for registries."""
    with slurm_on_kubernetes.settings(f'kubernetes.image_pull_secrets=["{SECRET}"]'):
        yield


@pytest.fixture
def secret(cluster):
    """Make the secret that the site names; it ends with the test."""
    with contextlib.ExitStack() as stack:

        def secret(registry, password):
            login = base64.b64encode(f"{USER}:{password}".encode()).decode()
            known = {"auths": {registry: {"auth": login}}}
            cluster.create(
                {
                    "apiVersion": "v1",
                    "kind": "Secret",
                    "metadata": {"name": SECRET},
                    "type": "kubernetes.io/dockerconfigjson",
                    "stringData": {".dockerconfigjson": json.dumps(known)},
                }
            )
            stack.callback(cluster.kubectl, "delete", "secret", SECRET)

        yield secret


def test_an_image_behind_a_password_that_the_site_lacks_fails_the_job(cluster, job, guarded):
    image = f"{guarded}/alpine:latest"
    ran = job(script(RUN, image))
    assert_failed(cluster, ran, f"image {image} cannot be pulled: ")
    assert "authorization failed" in ran.err or "401 Unauthorized" in ran.err


@pytest.mark.usefixtures("with_secret")
def test_an_image_behind_a_password_comes_with_the_sites_secret(cluster, job, guarded, secret):
    secret(guarded, PASSWORD)
    assert_ran(cluster, job(script(RUN, f"{guarded}/alpine:latest")))
    assert_ran(cluster, job(script(RUN, ALPINE)))  # the others are not asked for it


@pytest.mark.usefixtures("with_secret")
def test_a_wrong_password_fails_the_job_with_the_registrys_word(cluster, job, guarded, secret):
    secret(guarded, "let me out")
    image = f"{guarded}/alpine:latest"
    ran = job(script(RUN, image))
    assert_failed(cluster, ran, f"image {image} cannot be pulled: ")
    assert PASSWORD not in ran.err
    assert "let me out" not in ran.err


@pytest.mark.usefixtures("with_secret")
def test_a_secret_that_is_not_there_keeps_no_other_image_away(cluster, job, guarded):
    assert_ran(cluster, job(script(RUN, ALPINE)))
    image = f"{guarded}/alpine:latest"
    assert_failed(cluster, job(script(RUN, image)), f"image {image} cannot be pulled: ")


@pytest.mark.usefixtures("with_secret")
def test_images_behind_a_password_are_brought_to_nodes_with_the_secret(cluster, guarded, secret):
    secret(guarded, PASSWORD)
    pull = ["sbridge", "images", "pull", f"--kubeconfig={cluster.kubernetes.kubeconfig}"]
    told = cluster.as_user("root", [*pull, f"{guarded}/static:latest"])
    assert "1 of 1 are there." in told


# --- A site that has no image fetched -------------------------------------------------------------


def test_an_image_that_is_not_there_and_not_to_be_fetched_fails_the_job(cluster, job):
    registry = cluster.kubernetes.environment["SBRIDGE_K8S_REGISTRY"]
    image = f"{registry}/bash:latest"  # which no node knows by that name
    assert_ran(cluster, job(script(RUN, ALPINE)))
    with cluster.settings('kubernetes.image_pull_policy="Never"'):
        assert_ran(cluster, job(script(RUN, ALPINE)))
        ran = job(script(RUN, image))
        reason = f"image {image} is not on this node, and this site has none fetched for jobs"
        assert_failed(cluster, ran, reason)


# --- The agent's own token, where it runs in a pod ------------------------------------------------


class ServiceAccount:
    """What a pod has of its account: a folder with a token, which is renewed there, and the CA."""

    def __init__(self, cluster, folder):
        self._cluster = cluster
        self._numbers = itertools.count()
        self._bound = {}  # which secret ends with a token
        self.folder = folder
        found = cluster.kubernetes.get(
            "configmap", "kube-root-ca.crt", f"--namespace={cluster.namespace}"
        )
        (folder / "ca.crt").write_text(found["data"]["ca.crt"])

    @property
    def token(self):
        return (self.folder / "token").read_text()

    def renew(self):
        """Put a new token there, as a kubelet does: in one step."""
        name = f"token-{next(self._numbers)}"
        self._cluster.create({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}})
        bound = ["--bound-object-kind=Secret", f"--bound-object-name={name}"]
        token = self._cluster.kubectl("create", "token", "sbridge-agent", *bound).strip()
        self._bound[token] = name
        draft = self.folder / "token.new"
        draft.write_text(token)
        draft.rename(self.folder / "token")

    def end(self, token):
        """Have the API server take a token no more, and wait until that is so."""
        self._cluster.kubectl("delete", "secret", self._bound.pop(token))
        self._cluster.wait_for(lambda: self._is_refused(token), 30, "a token that is refused")

    def end_all(self):
        for name in self._bound.values():
            self._cluster.kubectl("delete", "secret", name)

    def _is_refused(self, token):
        context = ssl.create_default_context(cafile=str(self.folder / "ca.crt"))
        pods = f"{self._cluster.kubernetes.server}/api/v1/namespaces/{self._cluster.namespace}/pods"
        asked = urllib.request.Request(pods, headers={"Authorization": f"Bearer {token}"})
        try:
            with urllib.request.urlopen(asked, timeout=5, context=context):
                return False
        except urllib.error.HTTPError as error:
            with error:
                return error.code == 401


@pytest.fixture
def account(cluster, tmp_path):
    folder = tmp_path / "account"
    folder.mkdir()
    account = ServiceAccount(cluster, folder)
    account.renew()
    yield account
    account.end_all()


@pytest.fixture
def agent_in_pod(cluster, account, replace_agent):
    """Have the first node's agent find the API and its token as a program in a pod does."""
    made = []
    for path in (*reversed(POD_CREDENTIALS.parents), POD_CREDENTIALS):
        if not path.exists():
            path.mkdir()
            made.append(path)
    host, _, port = cluster.kubernetes.server.removeprefix("https://").rpartition(":")
    mount = 'mount --bind "$0" "$1" && shift && exec "$@"'
    replace_agent(
        cluster.nodes[0],
        (f'"{cluster.state}/etc/agent.kubeconfig"', '""'),
        before=["unshare", "--mount", "sh", "-c", mount, account.folder, POD_CREDENTIALS],
        environment={"KUBERNETES_SERVICE_HOST": host, "KUBERNETES_SERVICE_PORT": port},
    )
    yield
    replace_agent(cluster.nodes[0])
    for path in reversed(made):
        path.rmdir()


@pytest.mark.usefixtures("agent_in_pod")
def test_an_agent_in_a_pod_needs_no_kubeconfig_and_takes_a_new_token(cluster, job, account):
    here = f"--nodelist={cluster.nodes[0]}"
    began = cluster.agent_socket(cluster.nodes[0]).stat().st_ino
    assert_ran(cluster, job(script(RUN, ALPINE), here))
    account.end(account.token)
    waiting = job(script(RUN, ALPINE), here)
    waiting.wait_to_say("sbridge: the cluster does not take the agent's credentials: ")
    account.renew()
    assert_ran(cluster, waiting)
    assert cluster.agent_socket(cluster.nodes[0]).stat().st_ino == began


@pytest.mark.usefixtures("agent_in_pod")
def test_a_token_that_is_renewed_in_time_is_not_noticed_by_any_job(cluster, job, account):
    before = account.token
    account.renew()
    account.end(before)
    for _ in range(2):
        ran = job(script(RUN, ALPINE), f"--nodelist={cluster.nodes[0]}")
        assert_ran(cluster, ran)
        assert "credentials" not in ran.err
