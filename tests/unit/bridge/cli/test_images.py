"""What nodes have, and who is not asked to fetch; pulls are in integration."""

import pytest


def test_images_are_listed_with_size_and_nodes(sbridge, site_file, empty_cluster):
    site = ("--config", site_file, "--kubeconfig", empty_cluster)
    code, out, _ = sbridge("images", "list", *site)
    assert (code, out) == (0, "    20 MiB  r.io/a:1  k1\n   0.0 MiB  r.io/b:2  k1\n")
    assert sbridge("images", "list", *site, "--image", "*/a:*")[1] == "    20 MiB  r.io/a:1  k1\n"


def test_a_node_that_the_cluster_has_not_is_told_before_anything_is_done(
    sbridge, site_file, empty_cluster
):
    site = ("--config", site_file, "--kubeconfig", empty_cluster, "--nodes", "k[1-2]")
    for command in (("list",), ("pull", "x")):
        code, out, err = sbridge("images", *command, *site)
        assert (code, out) == (1, "")
        assert "the cluster has no node k2 (it has: k1)" in err


def test_without_slurm_the_nodes_must_be_named(sbridge, empty_cluster, tmp_path):
    path = tmp_path / "site.toml"
    path.write_text(f'[slurm]\nbin_dir = "{tmp_path}"\n')
    site = ("--config", str(path), "--kubeconfig", empty_cluster)
    code, _, err = sbridge("images", "pull", "x", *site)
    assert code == 1
    assert "Slurm could not be asked" in err
    assert "Name the nodes with --nodes." in err


def test_pulling_nothing_is_wrong_usage(sbridge, site_file):
    assert sbridge("images", "pull", "--config", site_file)[0] == 2


@pytest.mark.parametrize("command", [("pull", "x"), ("list",)])
@pytest.mark.parametrize("nodes", ["n[1-", "n[a-b]", "n[2-1]"])
def test_a_list_of_nodes_that_is_none_is_wrong_usage(
    sbridge, site_file, empty_cluster, command, nodes
):
    site = ("--config", site_file, "--kubeconfig", empty_cluster, "--nodes", nodes)
    code, _, err = sbridge("images", *command, *site)
    assert code == 2
    assert "Invalid value for --nodes: " in err
