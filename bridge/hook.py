"""What Prolog and Epilog share: tell the agent, and drain this node when it is dead.

Standard library only. A hook has no PATH and no HOME and runs as root. The agent answers within
milliseconds; one that does not costs seconds, of which each has a limit below. A hook exits 0
for everything that is not this node's fault.
"""

import _socket
import os
import sys
import time

from bridge import wire

AGENT_TIMEOUT_S = 5.0  # until it takes the message
_ANSWER_TIMEOUT_S = {"prepare": 5.0, "finish": 60.0}  # removing a sandbox may take its time
_RETRY_S = 0.1
_MARKER = "sbridge1?"
_SCONTROL_TIMEOUT_S = 3


def run(kind: str, run_dir: str, slurm_bin: str) -> int:
    """Send `kind` ("prepare" or "finish") with the hook's variables to this node's agent.

    Returns the hook's exit code: 1, after draining the node, when the agent is at fault.
    """
    if not _concerns_sbridge():
        return 0
    node = os.environ.get("SLURMD_NODENAME", "")
    address = os.path.join(run_dir, node, "agent.sock")
    deadline = time.monotonic() + AGENT_TIMEOUT_S
    fault = _tell(address, wire.Message(kind, _variables()), deadline)
    if not fault:
        return 0
    job_id = os.environ.get("SLURM_JOB_ID", "?")
    reason = f"sbridge: {kind} of job {job_id}: {fault}"
    print(f"{reason}; draining {node}", file=sys.stderr)
    _drain(f"{slurm_bin}/scontrol", node, reason)
    return 1


def _concerns_sbridge() -> bool:
    texts = (os.environ.get("SLURM_JOB_EXTRA", ""), os.environ.get("SLURM_JOB_COMMENT", ""))
    return any(text.rpartition(" ")[2].startswith(_MARKER) for text in texts)


def _variables() -> wire.Fields:
    return [
        (os.fsdecode(key), value)
        for key, value in os.environb.items()
        if key.startswith((b"SLURM", b"CUDA_VISIBLE_DEVICES"))
    ]


def _tell(address: str, message: wire.Message, deadline: float) -> str:
    """Return what is wrong with the node, empty when the agent took the message."""
    fault = "no answer"
    while time.monotonic() < deadline:
        connection = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
        try:
            connection.settimeout(max(0.1, deadline - time.monotonic()))
            connection.connect(address)
            wire.send(connection, message)
            connection.settimeout(_ANSWER_TIMEOUT_S[message.kind])
            answer, _ = wire.receive(connection)
        except (OSError, wire.WireError) as error:
            fault = f"agent does not answer at {address} ({error})"
        else:
            if answer is not None:
                return "" if answer.kind == "ok" else answer.text("text", "the agent refused")
            fault = f"agent at {address} ended without an answer"
        finally:
            connection.close()
        time.sleep(_RETRY_S)
    return fault


def _drain(program: str, node: str, reason: str) -> None:
    """Drain with our reason before slurmctld does it with its own; a failure changes nothing."""
    import subprocess  # only here: it costs as much as the rest of the hook

    command = [program, "update", f"NodeName={node}", "State=DRAIN", f"Reason={reason[:200]}"]
    try:
        subprocess.run(command, timeout=_SCONTROL_TIMEOUT_S, stdin=subprocess.DEVNULL, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        print(f"sbridge: could not drain {node}: {error}", file=sys.stderr)
