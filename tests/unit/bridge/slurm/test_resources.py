"""What #SBATCH options ask for on one node."""

import pytest

from bridge.slurm import resources
from bridge.slurm.resources import Resources
from validator import job_file
from validator.limits import Limits


def asked_by(*options):
    lines = "".join(f"#SBATCH {option}\n" for option in options)
    judged = job_file.validate(f"#!/bin/sh\n{lines}true\n".encode(), Limits())
    return resources.asked_for(judged.options)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([], Resources()),
        (["-c 4", "--mem=8G"], Resources(cpus=4, memory_mib=8192)),
        (["--ntasks=6 -N 4", "--cpus-per-task 2"], Resources(cpus=4, nodes=4)),
        (["-N 2-4", "--ntasks-per-node=3"], Resources(cpus=3, nodes=2)),
        (["-n 2", "--mem-per-cpu=1500"], Resources(cpus=2, memory_mib=3000)),
        (["--mem=100", "--mem-per-cpu=7"], Resources(memory_mib=100)),
        (["--gres=shard:4,gpu:a100:2"], Resources(gpus=2)),
        (["--gres=gpu"], Resources(gpus=1)),
        (["--gres=gpu:a100"], Resources(gpus=1)),
        (["-G 5 -N2"], Resources(gpus=3, nodes=2)),
        (["--gpus-per-node=a100:2,h100:1"], Resources(gpus=3)),
        (["-c 2", "-c 3"], Resources(cpus=3)),
    ],
)
def test_simple_wishes_are_understood_as_slurm_does(options, expected):
    assert asked_by(*options) == expected


@pytest.mark.parametrize(
    ("text", "mebibytes"), [("0", 0), ("512", 512), ("2048K", 2), ("8G", 8192), ("4gb", 4096)]
)
def test_memory_is_read_with_slurms_units(text, mebibytes):
    assert resources.memory_mib(text) == mebibytes


@pytest.mark.parametrize("text", ["", "-1", "8GiB", "1.5G", "lots"])
def test_what_is_no_amount_of_memory_is_refused(text):
    with pytest.raises(ValueError, match="no amount of memory"):
        resources.memory_mib(text)
