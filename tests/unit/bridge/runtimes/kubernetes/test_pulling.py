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
