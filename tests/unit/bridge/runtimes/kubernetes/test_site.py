"""The objects of a site, golden: site.yaml beside this file is what the defaults give.

After a wanted change: python -m bridge.cli kubernetes render --config examples/sbridge.toml
"""

import re
from pathlib import Path

import pytest

from bridge.agent import blueprint
from bridge.agent.job import JobRun, Request, State
from bridge.config import Agent, Config, Kubernetes, Sandbox
from bridge.job_spool import NodeSpool
from bridge.runtimes.kubernetes import admission, site, yaml_text
from bridge.slurm.jobs import NodeShare


def by_kind(config):
    return {wanted["kind"]: wanted for wanted in site.objects(config)}


def test_the_defaults_give_the_objects_that_were_agreed():
    golden = Path(__file__).with_name("site.yaml").read_text(encoding="utf-8")
    assert yaml_text.documents(site.objects(Config())) == golden


def test_every_object_says_why_it_is_there_and_whose_it_is():
    for wanted in site.objects(Config(sandbox=Sandbox(host_network=False))):
        assert wanted["metadata"]["annotations"]["kubernetes.io/description"]
        assert wanted["metadata"]["labels"]["app.kubernetes.io/managed-by"] == "sbridge"


def test_another_priority_class_is_the_sites_own():
    assert "PriorityClass" in by_kind(Config())
    for name in ("", "batch"):
        assert "PriorityClass" not in by_kind(Config(kubernetes=Kubernetes(priority_class=name)))


def test_pods_with_a_network_of_their_own_get_a_policy_and_may_not_have_the_nodes():
    shared, own = by_kind(Config()), by_kind(Config(sandbox=Sandbox(host_network=False)))

    assert "NetworkPolicy" not in shared
    assert own["NetworkPolicy"]["spec"]["ingress"] == [{"from": [{"podSelector": {}}]}]
    assert own["NetworkPolicy"]["metadata"]["namespace"] == "sbridge"

    rules = [str(one["ValidatingAdmissionPolicy"]["spec"]["validations"]) for one in (shared, own)]
    assert ["hostNetwork" in text for text in rules] == [False, True]
    said = own["Namespace"]["metadata"]["annotations"]["kubernetes.io/description"]
    assert "hostNetwork" not in said


@pytest.mark.parametrize("has_users", [False, True])
def test_two_sites_in_one_cluster_share_the_priority_class_only(has_users):
    kinds = [
        {
            site.path(wanted)
            for wanted in site.objects(
                Config(kubernetes=Kubernetes(namespace=name, user_namespaces=has_users))
            )
        }
        for name in ("one", "two")
    ]
    assert kinds[0] & kinds[1] == {"/apis/scheduling.k8s.io/v1/priorityclasses/sbridge-job"}


USERS = Kubernetes(user_namespaces=True)


def test_users_namespaces_need_a_role_everywhere_and_the_policies_that_confine_it():
    wanted = [site.title(one) for one in site.objects(Config(kubernetes=USERS))]
    assert [
        title.split()[1] for title in wanted if title.startswith("ValidatingAdmissionPolicy ")
    ] == [
        "sbridge-pods.sbridge",
        "sbridge-user-pods.sbridge",
        "sbridge-agents.sbridge",
        "sbridge-namespaces.sbridge",
    ]
    assert wanted[-2:] == [
        "ClusterRole sbridge-agent.sbridge",
        "ClusterRoleBinding sbridge-agent.sbridge",
    ]
    assert not [title for title in wanted if title.startswith("Role")]


def test_agents_make_network_policies_only_where_pods_have_networks_of_their_own():
    for host_network in (True, False):
        config = Config(kubernetes=USERS, sandbox=Sandbox(host_network=host_network))
        resources = [rule["resources"][0] for rule in site.agent_rules(config)]
        assert ("networkpolicies" in resources) != host_network
        kinds = [
            one["kind"]
            for one in site.user_objects("user-a", ("a", "1"), "s", host_network=host_network)
        ]
        assert kinds == ["Namespace"] + ["NetworkPolicy"] * (not host_network)


def test_a_users_namespace_enforces_what_the_sites_own_does():
    own = by_kind(Config())["Namespace"]["metadata"]["labels"]
    (made,) = site.user_objects("user-a", ("a", "1"), "sbridge", host_network=True)
    assert made["metadata"]["labels"] == own | {
        "sbridge/site": "sbridge",
        "sbridge/user": "a",
        "sbridge/uid": "1",
    }


def test_paths_and_titles_name_the_namespace_where_there_is_one():
    role, namespace = by_kind(Config())["Role"], by_kind(Config())["Namespace"]
    assert site.path(role).endswith("/v1/namespaces/sbridge/roles/sbridge-agent")
    assert site.path(namespace) == "/api/v1/namespaces/sbridge"
    assert site.title(role) == "Role sbridge/sbridge-agent"
    assert site.title(namespace) == "Namespace sbridge"


def test_the_policy_admits_every_folder_that_a_sandbox_mounts(tmp_path):
    data = tmp_path / "data (all)"
    data.mkdir()
    agent = Agent(spool_dir=tmp_path / "spool+1", runtime="kubernetes")
    config = Config(agent=agent, sandbox=Sandbox(mounts=(f"{data}:ro",)))
    variables = {
        "SLURM_JOB_ID": "12",
        "SLURM_JOB_UID": "1001",
        "SLURM_JOB_GID": "1002",
        "SLURM_JOB_RESTART_COUNT": "3",
        "SLURM_JOB_NODELIST": "n1",
        "SLURM_JOB_COMMENT": "sbridge1?image=alpine",
    }
    request = Request.of(variables)
    spool = NodeSpool.of(agent.spool_dir, "n1").job(request.run)
    job = JobRun(request, spool, State())
    spec = blueprint.specification(job, config, "n1", NodeShare(1, 1), tmp_path / "slurmd")

    paths, pattern = admission.folders(config)
    sources = [mount.source for mount in (*spec.mounts, *spec.folders)]
    assert len(sources) == 8
    assert [s for s in sources if s not in paths and not re.search(pattern, s)] == []


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/home/alice",
        "/var/spool/sbridge",
        "/var/spool/sbridge/n1/jobs",
        "/var/spool/sbridge/n1/jobs/12.0/out/link",
        "/var/spool/sbridge/n1/jobs/12.0/request.json",
        "/var/spool/sbridgeX/n1/share",
        "/x/var/spool/sbridge/n1/share",
        "/var/spool/sbridge/n1/share/",
    ],
)
def test_the_policy_admits_nothing_above_below_or_beside_these(path):
    paths, pattern = admission.folders(Config())
    assert path not in paths
    assert not re.search(pattern, path)


def test_the_policy_admits_the_device_files_of_the_configuration_and_no_other():
    patterns = ("/dev/gpu{index}", "/dev/dri/r.D{index+128}", "/dev/ctl", "11:/dev/caps/c7")
    sandbox = Sandbox(gpu_devices=patterns)
    pattern = admission.devices(Config(sandbox=sandbox))
    for path in ("/dev/gpu0", "/dev/gpu12", "/dev/dri/r.D130", "/dev/ctl", "/dev/caps/c7"):
        assert re.search(pattern, path)
    for path in (
        "/dev/gpu",
        "/dev/gpu1/x",
        "/x/dev/gpu1",
        "/dev/dri/rxD130",
        "/dev/ctl0",
        "/dev",
        "11:/dev/caps/c7",
    ):
        assert not re.search(pattern, path)
    nothing = admission.devices(Config(sandbox=Sandbox(gpu_devices=())))
    assert not re.search(nothing, "/dev/gpu0")
