"""The commands for a cluster: what they print and how they end; real clusters in integration."""

import pytest
import yaml


def test_render_prints_objects_for_the_configured_namespace(sbridge, site_file):
    code, out, err = sbridge("kubernetes", "render", "--config", site_file)
    assert (code, err) == (0, "")
    kinds = [wanted["kind"] for wanted in yaml.safe_load_all(out)]
    assert kinds[0] == "Namespace"
    assert {"Role", "ServiceAccount", "ValidatingAdmissionPolicy"} < set(kinds)
    assert "namespace: jobs" in out


def test_apply_tells_each_object_and_fails_when_one_is_refused(sbridge, site_file, empty_cluster):
    code, out, err = sbridge("kubernetes", "apply", "--config", site_file, KUBECONFIG=empty_cluster)
    lines = out.splitlines()
    assert lines[0] == "created    Namespace jobs"
    assert lines[1] == "refused    PriorityClass sbridge-job"
    assert lines[-1] == "created    RoleBinding jobs/sbridge-agent"
    assert "not you" in err
    assert code == 1


def test_diff_ends_with_1_and_shows_what_is_missing(sbridge, site_file, empty_cluster):
    code, out, _ = sbridge(
        "kubernetes", "diff", "--config", site_file, "--kubeconfig", empty_cluster
    )
    assert code == 1
    assert "+++ Role jobs/sbridge-agent as configured" in out


def test_check_ends_with_1_and_says_what_to_do(sbridge, site_file, empty_cluster):
    arguments = ("--config", site_file, "--kubeconfig", empty_cluster, "--nodes", "n1")
    code, out, _ = sbridge("kubernetes", "check", *arguments)
    assert code == 1
    assert "WRONG  Namespace jobs is not there\n       Run `sbridge kubernetes apply`.\n" in out
    assert out.splitlines()[-1].endswith("of these lines are wrong.")


def test_check_goes_on_when_the_agents_credentials_are_none(sbridge, empty_cluster, tmp_path):
    (tmp_path / "agent").write_text("{}")
    site = tmp_path / "site.toml"
    site.write_text(f'[kubernetes]\nkubeconfig = "{tmp_path}/agent"\n')
    arguments = ("--config", str(site), "--kubeconfig", empty_cluster, "--nodes", "k1")
    code, out, _ = sbridge("kubernetes", "check", *arguments)
    assert code == 1
    assert "ok     Slurm's node k1 is Kubernetes' node k1: Ready" in out
    assert "WRONG  the agents' rights could not be examined: kubernetes.kubeconfig" in out


def test_a_kubeconfig_for_the_agents_is_printed_or_replaces_a_file(
    sbridge, site_file, empty_cluster, tmp_path
):
    arguments = ("kubernetes", "kubeconfig", "--config", site_file, "--kubeconfig", empty_cluster)
    code, out, err = sbridge(*arguments, "--server", "https://api:6443", "--duration", "90d")
    assert code == 0
    assert yaml.safe_load(out)["clusters"][0]["cluster"]["server"] == "https://api:6443"
    assert err == "The token ends at 2040-01-02 03:04 UTC.\n"

    file = tmp_path / "agent.kubeconfig"
    file.write_text("old")
    code, out, _ = sbridge(*arguments, "--output", str(file))
    assert (code, out) == (0, "")
    assert yaml.safe_load(file.read_text())["users"][0]["user"]["token"] == "secret"
    assert file.stat().st_mode & 0o777 == 0o600


def test_a_token_that_is_shorter_than_asked_for_is_told(sbridge, site_file, empty_cluster):
    arguments = ("--config", site_file, "--kubeconfig", empty_cluster, "--duration", "9999d")
    _, _, err = sbridge("kubernetes", "kubeconfig", *arguments)
    assert "the API server allows no more" in err


@pytest.mark.parametrize("duration", ["", "1", "1w", "-1d", "5m", "0d"])
def test_a_duration_that_is_none_is_wrong_usage(sbridge, site_file, duration):
    code, _, err = sbridge(
        "kubernetes", "kubeconfig", "--config", site_file, "--duration", duration
    )
    assert code == 2
    assert "--duration" in err


def test_without_credentials_the_option_is_named(sbridge, site_file, tmp_path):
    code, _, err = sbridge("kubernetes", "apply", "--config", site_file)
    assert code == 78
    assert "kubernetes.kubeconfig" in err
    assert "Name your own with --kubeconfig" in err
    code, _, err = sbridge(
        "kubernetes", "apply", "--config", site_file, "--kubeconfig", str(tmp_path / "none")
    )
    assert code == 78
    assert "none" in err


def test_the_option_goes_before_the_environment_and_that_before_the_configuration(
    sbridge, empty_cluster, kubeconfig, tmp_path
):
    dead = kubeconfig("dead", "http://127.0.0.1:9")
    site = tmp_path / "site.toml"
    site.write_text(f'[kubernetes]\nkubeconfig = "{dead}"\ncontext = "x"\n')
    code, _, err = sbridge("kubernetes", "diff", "--config", str(site))
    assert (code, "does not answer" in err) == (1, True)
    code, out, _ = sbridge("kubernetes", "diff", "--config", str(site), KUBECONFIG=empty_cluster)
    assert (code, "+++ Role" in out) == (1, True)
    arguments = ("kubernetes", "diff", "--config", str(site), "--kubeconfig", empty_cluster)
    code, out, _ = sbridge(*arguments, KUBECONFIG=dead)
    assert (code, "+++ Role" in out) == (1, True)


def test_a_context_that_is_not_there_is_told(sbridge, site_file, empty_cluster):
    arguments = ("--config", site_file, "--kubeconfig", empty_cluster, "--context", "prod")
    code, _, err = sbridge("kubernetes", "diff", *arguments)
    assert code == 78
    assert "prod" in err
