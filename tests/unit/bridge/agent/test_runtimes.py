"""Which runtimes an agent can reach, and what one holds up that cannot be asked."""

import pytest

from bridge.agent import runtimes
from bridge.agent.runtimes import Runtimes
from bridge.agent.this_node import ThisNode
from bridge.config import Agent, Config, Kubernetes, Podman
from bridge.errors import ConfigError, NodeError, TemporaryError


@pytest.fixture
def made(tmp_path, log):
    """Make the runtimes of a node where jobs may have `allowed` and podman is this program."""

    def made(allowed, podman="/no/such/podman", kubeconfig=""):
        config = Config(
            agent=Agent(spool_dir=tmp_path, runtime=allowed, allowed_runtimes=(allowed,)),
            podman=Podman(command=podman),
            kubernetes=Kubernetes(kubeconfig=str(kubeconfig)),
        )
        return Runtimes(ThisNode("n1", config, None, log), lambda *_: None)

    return made


def test_a_podman_that_nobody_installed_or_configured_has_nothing(made, log):
    assert made("host").names("podman") == set()
    assert log.events == []


def test_a_podman_that_jobs_may_have_must_be_installed(made):
    with pytest.raises(TemporaryError, match="podman could not be asked: "):
        made("podman").names("podman")


def test_a_broken_podman_that_jobs_may_not_have_is_told_of_and_holds_nothing_up(made, log):
    assert made("host", podman="/bin/false").names("podman") == set()
    ((event, facts),) = log.lines
    assert (event, facts["runtime"]) == ("runtime_not_asked", "podman")


@pytest.fixture
def kubeconfig(tmp_path):
    path = tmp_path / "kubeconfig"
    path.touch()
    return path


def test_a_cluster_that_jobs_may_not_have_any_more_is_reached_while_it_is_configured(
    made, kubeconfig, monkeypatch, pods
):
    cluster = pods("slurm-job-7")
    monkeypatch.setattr(runtimes, "_kubernetes", lambda *_: cluster)
    offered = made("host", kubeconfig=kubeconfig)
    assert offered["kubernetes"] is cluster
    assert cluster not in offered.in_use
    assert offered.names("kubernetes") == {"slurm-job-7"}


def test_a_cluster_that_nothing_configures_any_more_is_named(made):
    with pytest.raises(NodeError, match="nothing configures runtime kubernetes any more"):
        made("host", kubeconfig="/no/such/kubeconfig")["kubernetes"]


def test_bad_credentials_for_a_cluster_stop_only_an_agent_whose_jobs_may_have_it(
    made, kubeconfig, monkeypatch, log
):
    def refuse(*_):
        raise ConfigError("the kubeconfig cannot be read")

    monkeypatch.setattr(runtimes, "_kubernetes", refuse)
    with pytest.raises(ConfigError):
        made("kubernetes", kubeconfig=kubeconfig)
    with pytest.raises(NodeError, match="runtime kubernetes"):
        made("host", kubeconfig=kubeconfig)["kubernetes"]
    assert log.events == ["runtime_not_asked"]
