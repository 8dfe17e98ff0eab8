import pytest

from validator import directives, header
from validator.limits import Limits

ANY = Limits()


def read(*lines: str, limits: Limits = ANY):
    return directives.read(header.read("\n".join(["#!/bin/bash", *lines])), limits)


def codes(*lines: str, limits: Limits = ANY) -> list[tuple[str, str, int | None]]:
    return [(f.code, f.severity, f.line) for f in read(*lines, limits=limits)[2]]


def test_all_keys_are_read_and_blanks_around_values_dropped():
    found, lines, findings = read(
        "#K8S_IMAGE=nas-hub.local:5407/alpine:latest \t",
        "#SBATCH -n 1",
        "#K8S_WORKDIR= /workspace\r",
        "#K8S_SCRIPT=/mnt/nas/내 스크립트.py",
        "#K8S_RUNTIME=podman",
    )
    assert findings == []
    assert found == directives.Directives(
        "nas-hub.local:5407/alpine:latest", "/workspace", "/mnt/nas/내 스크립트.py", "podman"
    )
    assert lines == {"IMAGE": 2, "WORKDIR": 4, "SCRIPT": 5, "RUNTIME": 6}


@pytest.mark.parametrize(
    ("line", "suggestion"),
    [
        ("#K8S_IMGE=alpine", "IMAGE"),
        ("#K8S_image=alpine", "IMAGE"),
        ("#K8S_WORK_DIR=/x", "WORKDIR"),
        ("#K8S_RUNTIMES=podman", "RUNTIME"),
    ],
)
def test_an_unknown_key_is_an_error_with_the_nearest_known_one(line, suggestion):
    (finding,) = read(line)[2]
    assert (finding.code, finding.severity, finding.line) == ("unknown_directive_like", "error", 2)
    assert finding.parameters["suggestion"] == suggestion


def test_an_unknown_key_that_resembles_nothing_names_the_known_ones():
    (finding,) = read("#K8S_XYZZY=1")[2]
    assert finding.code == "unknown_directive"
    assert "K8S_WORKDIR" in finding.parameters["known"]


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("#K8S_IMAGE=", "empty_directive"),
        ("#K8S_IMAGE=  \t", "empty_directive"),
        ("#K8S_IMAGE", "directive_without_value"),
        ("#K8S_IMAGE =alpine", "directive_without_value"),
        ("#K8S_WORKDIR=workspace", "relative_path"),
        ('#K8S_WORKDIR="/x"', "relative_path"),
        ("#K8S_SCRIPT=~/x.py", "relative_path"),
        ("#K8S_WORKDIR=/a\x07b", "control_character"),
        ("#K8S_WORKDIR=/\udcff", "directive_not_utf8"),
        ("#K8S_SCRIPT=/" + "x" * 1024, "long_directive"),
        ("#K8S_RUNTIME=docker", "unknown_runtime"),
    ],
)
def test_a_value_that_cannot_be_right_is_an_error(line, code):
    assert codes(line) == [(code, "error", 2)]


@pytest.mark.parametrize(
    "image",
    [
        "alpine",
        "alpine:3.20",
        "localhost/sbridge-demo:latest",
        "nas-hub.local:5407/team/app:v1.2_3-x",
        "docker.io/library/alpine@sha256:" + "a" * 64,
        "quay.io/a__b/c:latest",
    ],
)
def test_image_references_are_accepted(image):
    assert read(f"#K8S_IMAGE={image}")[0].image == image


@pytest.mark.parametrize(
    "image",
    [
        '"alpine"',
        "alpine latest",
        "docker://alpine",
        "alpine:",
        "alpine # comment",
        "/alpine",
        "-alpine",
        "registry//alpine",
        "alpine::3",
        "알파인",
    ],
)
def test_what_cannot_be_an_image_reference_is_an_error(image):
    assert codes(f"#K8S_IMAGE={image}") == [("malformed_image", "error", 2)]


def test_a_runtime_that_the_site_does_not_offer_is_an_error_that_names_the_offered_ones():
    (finding,) = read("#K8S_RUNTIME=host", limits=Limits(runtimes=("podman",)))[2]
    assert (finding.code, finding.parameters["allowed"]) == ("runtime_not_offered", "podman")


def test_a_repeated_key_is_an_error_that_names_the_first_line():
    found, _, (finding,) = read("#K8S_IMAGE=a", "#K8S_IMAGE=b")
    assert (finding.code, finding.line, finding.parameters["first_line"]) == (
        "repeated_directive",
        3,
        "2",
    )
    assert found.image == "a"


@pytest.mark.parametrize(
    "line",
    [
        "# K8S_IMAGE=alpine",
        "#k8s_image=alpine",
        "##K8S_IMAGE=alpine",
        " #K8S_IMAGE=alpine",
        "#K8S-IMAGE=alpine",
        "#K8SIMAGE=alpine",
        "# K8S_IMAGE: alpine",
    ],
)
def test_a_near_miss_is_a_warning(line):
    (finding,) = read(line)[2]
    assert (finding.code, finding.severity, finding.line) == ("near_miss_directive", "warning", 2)
    assert finding.parameters["suggestion"] == "IMAGE"


@pytest.mark.parametrize(
    "line", ["# we use k8s = good", "# K8S_ lines follow", "# K8S is great", "#SBATCH -n 2"]
)
def test_ordinary_comments_are_no_near_misses(line):
    assert codes(line) == []


def test_a_directive_after_the_first_command_is_a_warning_and_does_not_count():
    found, _, findings = read("echo", "#K8S_IMAGE=alpine")
    assert found.image == ""
    assert [(f.code, f.severity, f.line) for f in findings] == [("late_directive", "warning", 3)]
