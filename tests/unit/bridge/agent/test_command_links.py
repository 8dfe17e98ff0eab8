"""The links to Slurm's commands in a folder of the image."""

import os

import pytest

from bridge.agent import command_links, shim


@pytest.fixture
def folder(tmp_path):
    """Give a folder of an image, and it open as a keeper's child has it."""
    descriptor = os.open(tmp_path, os.O_PATH | os.O_DIRECTORY)
    yield tmp_path, descriptor
    os.close(descriptor)


def test_every_command_is_a_link_to_ours(folder):
    path, descriptor = folder
    command_links.make(descriptor)
    assert {entry.name: os.readlink(entry) for entry in path.iterdir()} == {
        name: f"{shim.FOLDER}/{name}" for name in shim.COMMANDS
    }


def test_an_images_own_client_gives_way_and_what_its_link_names_stays(folder, tmp_path):
    path, descriptor = folder
    (path / "squeue").write_text("an image's own")
    (path / "elsewhere").write_text("stays")
    (path / "srun").symlink_to("elsewhere")
    command_links.make(descriptor)
    assert os.readlink(path / "squeue") == f"{shim.FOLDER}/squeue"
    assert os.readlink(path / "srun") == f"{shim.FOLDER}/srun"
    assert (path / "elsewhere").read_text() == "stays"


def test_a_folder_of_a_commands_name_stays_and_the_others_are_made(folder):
    path, descriptor = folder
    (path / "sacct" / "kept").mkdir(parents=True)
    command_links.make(descriptor)
    assert (path / "sacct/kept").is_dir()
    assert sorted(entry.name for entry in path.iterdir()) == sorted(shim.COMMANDS)


def test_making_them_again_changes_nothing(folder):
    path, descriptor = folder
    command_links.make(descriptor)
    before = {entry.name: os.readlink(entry) for entry in path.iterdir()}
    command_links.make(descriptor)
    assert {entry.name: os.readlink(entry) for entry in path.iterdir()} == before


def test_what_an_interrupted_try_left_is_in_nobodys_way(folder):
    path, descriptor = folder
    (path / ".sbridge-new").symlink_to("/sbridge/bin/sacct")
    command_links.make(descriptor)
    assert sorted(entry.name for entry in path.iterdir()) == sorted(shim.COMMANDS)
