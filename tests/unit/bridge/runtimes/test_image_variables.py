"""Which of a container's variables are the image's."""

from bridge.runtimes import image_variables


def test_what_the_runtime_the_user_and_slurm_decide_is_not_the_images():
    others = [
        "HOME=/root",
        "HOSTNAME=x",
        "TERM=xterm",
        "TZ=Asia/Seoul",
        "container=podman",
        "KUBERNETES_SERVICE_HOST=10.0.0.1",
        "NVIDIA_VISIBLE_DEVICES=void",
        "SLURM_JOB_ID=1",
        "SBRIDGE_OUTPUTS=/x",
        "",
        "no pair",
    ]
    image = ["PATH=/opt/bin", "LANG=C", "EQUALS=a=b", "EMPTY=", "NVIDIA_REQUIRE_CUDA=cuda>=12"]
    assert image_variables.among([*others, *image]) == {
        "PATH": "/opt/bin",
        "LANG": "C",
        "EQUALS": "a=b",
        "EMPTY": "",
        "NVIDIA_REQUIRE_CUDA": "cuda>=12",
    }
