"""The pod of a job that Slurm has not got, printed; it is created in integration."""

import pwd

import pytest
import yaml

USER = next(entry.pw_name for entry in pwd.getpwall() if entry.pw_uid == 1)


@pytest.fixture
def pod(sbridge, tmp_path):
    """Run `sbridge kubernetes pod` for a site whose Slurm is nowhere; gives pod and stderr."""
    (tmp_path / "site.toml").write_text(
        f'[agent]\nspool_dir = "{tmp_path}/spool"\n'
        f'[slurm]\nbin_dir = "{tmp_path}"\n'
        '[sandbox]\nmounts = []\nallowed_images = ["r.io/*"]\n'
        '[kubernetes]\nnode_names = ["n1=k1"]\n'
    )

    def run(*arguments):
        site = ("--config", str(tmp_path / "site.toml"), "--node", "n1")
        code, out, err = sbridge("kubernetes", "pod", *site, *arguments)
        return code, yaml.safe_load(out) if code == 0 else out, err

    return run


def test_the_options_of_the_command_become_a_pod(pod):
    options = "--image r.io/x --cpus 4 --memory 8G --gpus 1 --job-id 12345".split()
    code, made, err = pod(*options, "--user", USER, "--partition", "main", "--account", "lab")
    assert code == 0
    assert made["metadata"]["name"] == "slurm-job-12345"
    assert made["metadata"]["labels"]["sbridge/account"] == "lab"
    assert made["metadata"]["labels"]["sbridge/partition"] == "main"
    (container,) = made["spec"]["containers"]
    expected = {"cpu": "4", "memory": "8192Mi", "nvidia.com/gpu": "1"}
    assert container["resources"]["limits"] == expected
    assert made["spec"]["securityContext"]["runAsUser"] == pwd.getpwnam(USER).pw_uid
    assert "'values': ['k1']" in str(made["spec"]["affinity"])
    assert "Slurm cannot be asked" in err


def test_a_job_file_becomes_a_pod_and_options_go_before_it(pod, tmp_path):
    job_file = tmp_path / "job.sh"
    job_file.write_text("#!/bin/sh\n#SBATCH -c 2 --mem=1G\n#K8S_IMAGE=r.io/y\ntrue\n")
    _, made, _ = pod(str(job_file), "--user", USER, "--cpus", "3")
    (container,) = made["spec"]["containers"]
    assert container["image"] == "r.io/y"
    assert container["resources"]["limits"] == {"cpu": "3", "memory": "1024Mi"}


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ([], 2, "Name a job file, or an image"),
        (["--image", "r.io/x", "--memory", "lots"], 2, "--memory"),
        (["--image", "r.io/x", "--memory", "99999999T"], 2, "more memory than any node has"),
        (["--image", "r.io/x", "--memory", "9" * 40], 2, "--memory"),
        (["--image", "r.io/x", "--cpus", "0"], 2, "--cpus"),
        (["--image", "r.io/x", "--cpus", "99999999"], 2, "--cpus"),
        (["--image", "r.io/x", "--gpus", "9999999999"], 2, "--gpus"),
        (["--image", "r.io/x", "--job-id", "9999999999"], 2, "--job-id"),
        (["--image", "r.io/x", "--timeout", "inf"], 2, "--timeout"),
        (["--image", "other.io/x", "--user", USER], 1, "other.io/x is not allowed here"),
        (["--image", "r.io/x", "--user", "root"], 1, "sandboxes do not run as root"),
        (["/no/such/file"], 1, "/no/such/file cannot be read"),
    ],
)
def test_what_gives_no_pod_says_why(pod, arguments, code, words):
    ended, out, err = pod(*arguments)
    assert (ended, out) == (code, "")
    assert words in err


def test_nothing_is_made_where_only_something_is_printed(pod, tmp_path):
    pod("--image", "r.io/x", "--user", USER)
    assert not (tmp_path / "spool").exists()


def test_a_little_memory_is_a_limit_and_none_is_none(pod):
    limits = []
    for amount in ("1K", "0"):
        _, made, _ = pod("--image", "r.io/x", "--user", USER, "--memory", amount)
        (container,) = made["spec"]["containers"]
        limits.append(container["resources"]["limits"].get("memory"))
    assert limits == ["1Mi", None]
