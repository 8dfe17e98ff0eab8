"""Prolog and Epilog: what they ask the agent, and what they do with a node whose agent fails."""

import socket
import threading

import pytest

from bridge import hook, wire

VARIABLES = {
    "SLURMD_NODENAME": "n1",
    "SLURM_JOB_ID": "7",
    "SLURM_JOB_COMMENT": "my own sbridge1?image=x",
    "SLURM_JOB_EXTRA": "",
}


@pytest.fixture(autouse=True)
def _environment(monkeypatch):
    for name, value in VARIABLES.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(hook, "AGENT_TIMEOUT_S", 1.0)
    monkeypatch.setattr(hook, "_RETRY_S", 0.01)


@pytest.fixture
def agent(tmp_path):
    """Have an agent answer hooks in turn, None by hanging up; returns what it was asked."""
    (tmp_path / "n1").mkdir()
    asked: list[wire.Message] = []
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "n1/agent.sock"))
    listener.listen()

    def agent(*answers):
        def serve():
            for answer in answers:
                connection, _ = listener.accept()
                with connection:
                    asked.append(wire.receive(connection)[0])
                    if answer is not None:
                        wire.send(connection, answer)

        threading.Thread(target=serve, daemon=True).start()
        return asked

    yield agent
    listener.close()


@pytest.fixture
def scontrol(tmp_path):
    """Put a scontrol where hooks look for it, which notes its arguments."""
    (tmp_path / "bin").mkdir()
    program, told = tmp_path / "bin/scontrol", tmp_path / "told"
    program.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" >{told}\n')
    program.chmod(0o755)
    return lambda: told.read_text().splitlines() if told.exists() else []


def ran(tmp_path, kind="prepare"):
    return hook.run(kind, str(tmp_path), str(tmp_path / "bin"))


def failed(text):
    return wire.Message("failed", [("text", text)])


@pytest.mark.parametrize("comment", ["", "mine", "sbridge1?image=x and more"])
def test_a_job_that_asks_for_nothing_is_none_of_the_agents(tmp_path, monkeypatch, comment):
    monkeypatch.setenv("SLURM_JOB_COMMENT", comment)
    assert ran(tmp_path) == 0


@pytest.mark.parametrize("kind", ["prepare", "finish"])
def test_the_agent_is_told_slurms_variables_and_no_others(tmp_path, agent, monkeypatch, kind):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    monkeypatch.setenv("SECRET", "x")
    asked = agent(wire.Message("ok"))
    assert ran(tmp_path, kind) == 0
    (message,) = asked
    fields = {key: value.decode() for key, value in message.fields}
    assert (message.kind, fields["SLURM_JOB_ID"]) == (kind, "7")
    assert {name for name in fields if not name.startswith("SLURM")} == {"CUDA_VISIBLE_DEVICES"}


def test_an_agent_that_is_started_again_meanwhile_is_asked_again(tmp_path, agent, scontrol):
    asked = agent(None, wire.Message("ok"))
    assert ran(tmp_path) == 0
    assert len(asked) == 2
    assert scontrol() == []


def test_a_node_whose_agent_says_no_is_drained_with_its_reason(tmp_path, agent, scontrol):
    agent(failed(b"its disk is full"))
    assert ran(tmp_path, "finish") == 1
    reason = "Reason=sbridge: finish of job 7: its disk is full"
    assert scontrol() == ["update", "NodeName=n1", "State=DRAIN", reason]


def test_a_node_without_an_agent_is_drained_in_time(tmp_path, scontrol, monkeypatch, capfd):
    monkeypatch.setattr(hook, "AGENT_TIMEOUT_S", 0.1)
    assert ran(tmp_path) == 1
    assert scontrol()[-1].startswith("Reason=sbridge: prepare of job 7: agent does not answer at")
    assert "draining n1" in capfd.readouterr().err


def test_a_node_that_cannot_be_drained_fails_the_hook_all_the_same(tmp_path, agent, capfd):
    agent(failed(b"no"))
    assert ran(tmp_path) == 1
    assert "sbridge: could not drain n1: " in capfd.readouterr().err
