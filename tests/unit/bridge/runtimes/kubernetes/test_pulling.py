"""What kubelets tell of fetching images."""

import pytest

from bridge.runtimes.kubernetes import pulling
from bridge.runtimes.kubernetes.pulling import Pull


@pytest.mark.parametrize(
    ("message", "pull", "words"),
    [
        (
            'Successfully pulled image "x" in 1.5s (2m3.1s including waiting). Image size:'
            " 31457280 bytes.",
            Pull("1.5s", 31457280),
            "1.5s, 30 MiB",
        ),
        (
            'Successfully pulled image "x" in 12ms. Image size: 1089181 bytes.',
            Pull("12ms", 1089181),
            "12ms, 1.0 MiB",
        ),
        ('Successfully pulled image "x" in 3m', Pull(), ""),
        ('Container image "x" already present on machine', Pull(), ""),
    ],
)
def test_a_kubelets_word_about_a_pull_is_understood(message, pull, words):
    found = pulling.pull_of([{"reason": "Scheduled"}, {"reason": "Pulled", "message": message}])
    assert found == pull
    assert str(found) == words


def test_without_a_word_the_image_is_not_there():
    assert pulling.pull_of([{"reason": "Pulling", "message": 'Pulling image "x"'}]) is None


@pytest.mark.parametrize(
    ("text", "is_of_disk"),
    [
        ("failed to extract layer sha256:1: write /a: no space left on device: unknown", True),
        ("failed to copy: open /var/lib/containerd/ingest/1: no space left on device", True),
        (
            "unexpected status from HEAD request to http://r/v2/x: 403 no space left on device",
            False,
        ),
        ("mkdir /run/rootfs/no space left on device: not a directory", False),
        (
            'error mounting "/a" to rootfs at "/etc/b": create mountpoint for /etc/b mount: open'
            " /b: read-only file system: unknown",
            False,
        ),
    ],
)
def test_only_the_kernels_own_word_tells_of_a_nodes_disk(text, is_of_disk):
    assert pulling.is_of_disk(text) is is_of_disk
