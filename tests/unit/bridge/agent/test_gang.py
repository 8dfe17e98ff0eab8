"""What the agents of a job's nodes tell each other, by the comments of nodes that Slurm keeps."""

import threading
import time

import pytest

from bridge.agent import gang as gang_module
from bridge.agent.gang import Gang, Gathered
from bridge.agent.job import JobRun, Request, State
from bridge.agent.standing import Standing
from bridge.errors import TemporaryError
from bridge.job_spool import JobSpool, RunId
from bridge.slurm.hostlist import expand_hostlist
from bridge.slurm.jobs import NodeNote

RUN = RunId(7, 0)


class Slurm:
    """Keeps comments of nodes; answers with `troubles` first, while there are some."""

    def __init__(self, *nodes):
        self.comments = dict.fromkeys(nodes, "")
        self.troubles = []
        self.asked = self.written = 0

    def node_notes(self, nodes):
        self.asked += 1
        if self.troubles:
            raise self.troubles.pop(0)
        known = [node for node in expand_hostlist(nodes) if node in self.comments]
        return {node: NodeNote(f"address-of-{node}", self.comments[node]) for node in known}

    def comment_node(self, node, comment):
        self.written += 1
        self.comments[node] = comment


@pytest.fixture(autouse=True)
def _in_no_time(monkeypatch):
    for name in ("_FIRST_PAUSE_S", "_LONGEST_PAUSE_S", "_FIRST_RETRY_S", "_LONGEST_RETRY_S"):
        monkeypatch.setattr(gang_module, name, 0.01)


@pytest.fixture
def slurm():
    return Slurm("n1", "n2")


@pytest.fixture
def gang(slurm, log):
    return lambda node: Gang(node, slurm, log)


@pytest.fixture
def job(tmp_path):
    """Make what one agent knows of a job on several nodes, whose sandbox is ready there."""

    def job(nodes="n[1-2]", waited_s=0.0, **state):
        variables = {"SLURM_JOB_ID": "7", "SLURM_JOB_UID": "1000", "SLURM_JOB_GID": "1000"}
        asked = {"SLURM_JOB_NODELIST": nodes, "SLURM_JOB_COMMENT": "sbridge1?image=x"}
        known = State(**{"name": "ready", "accepted_at": time.time() - waited_s, **state})
        request = Request.of({**variables, **asked})
        return JobRun(request, JobSpool(tmp_path), known, patience_s=60.0)

    return job


def until(condition):
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def stopping(job, condition):
    """Have the job end once that is so."""

    def stop():
        until(condition)
        job.cancelled.set()

    threading.Thread(target=stop, daemon=True).start()


def test_the_nodes_of_a_job_learn_of_each_other_where_its_tasks_meet(slurm, gang, job):
    first, second = job(master_port=20007), job()
    agents = gang("n1"), gang("n2")
    for agent, part in zip(agents, (first, second), strict=True):
        agent.start()
        agent.tell(part)
    meeting = Gathered(address="address-of-n1", port=20007)
    assert [agents[0].gather(first), agents[1].gather(second)] == [meeting, meeting]


def test_a_node_that_has_no_sandbox_is_named_with_its_reason(slurm, gang, job):
    other = gang("n2")
    other.start()
    other.tell(job(name="failed", blame="user", reason="no such image: x"))
    gathered = gang("n1").gather(job())
    assert gathered.failed_node == "n2"
    assert (gathered.failed.blame, gathered.failed.reason) == ("user", "no such image: x")


def test_a_sandbox_that_is_not_ready_here_is_waited_for(slurm, gang, job):
    slurm.comments["n2"] = Standing(RUN).word
    here = job(name="accepted")
    here.say("pulling image x")
    agent = gang("n1")
    result = []
    thread = threading.Thread(target=lambda: result.append(agent.gather(here)), daemon=True)
    thread.start()
    thread.join(0.2)
    assert thread.is_alive()
    assert here.progress == "pulling image x", "that says more than that others are ready"
    here.state.name = "ready"
    thread.join(10)
    assert result == [Gathered(address="address-of-n1", port=0)]


@pytest.mark.parametrize(
    ("nodes", "named"),
    [("n[1-6]", "n2, n4, n5, n6"), ("n[1-8]", "n2, n4, n5, n6 and 2 more nodes")],
)
def test_nodes_that_tell_nothing_yet_are_named_to_who_waits(slurm, gang, job, nodes, named):
    slurm.comments = dict.fromkeys(expand_hostlist(nodes), "")
    slurm.comments["n3"] = Standing(RUN).word
    here = job(nodes=nodes)
    stopping(here, lambda: here.progress.startswith("waiting"))
    assert gang("n1").gather(here) is None
    assert here.progress == f"waiting for the job's sandbox on {named}"


def test_where_this_nodes_sandbox_is_not_ready_its_own_patience_counts(slurm, gang, job):
    here = job(name="accepted", waited_s=999)
    here.say("pulling image x")
    stopping(here, lambda: slurm.asked > 2)
    assert gang("n1").gather(here) is None
    assert here.progress == "pulling image x"


def test_another_runs_word_counts_for_nothing(slurm, gang, job):
    slurm.comments["n2"] = Standing(RunId(7, 1)).word
    here = job()
    stopping(here, lambda: here.progress.startswith("waiting"))
    assert gang("n1").gather(here) is None
    assert here.progress == "waiting for the job's sandbox on n2"


def test_slurm_that_cannot_be_asked_is_asked_again(slurm, gang, job):
    slurm.comments["n2"] = Standing(RUN).word
    slurm.troubles = [TemporaryError("slurmctld is away")] * 3
    here = job()
    assert gang("n1").gather(here).address == "address-of-n1"
    assert here.progress == "waiting for Slurm: slurmctld is away"


@pytest.mark.parametrize("trouble", [[], [TemporaryError("slurmctld is away")] * 9999])
def test_patience_ends_half_a_minute_after_that_of_other_nodes(slurm, gang, job, trouble):
    slurm.troubles = trouble
    patient = job(waited_s=60 + 29)
    stopping(patient, lambda: patient.progress.startswith("waiting"))
    assert gang("n1").gather(patient) is None
    with pytest.raises(TemporaryError, match=r"still waiting for .*, after 9\d s"):
        gang("n1").gather(job(waited_s=60 + 31))


def test_others_words_in_a_nodes_comment_stay(slurm, gang, job):
    slurm.comments["n1"] = "rack 7"
    agent = gang("n1")
    agent.start()
    part = job(master_port=20007)
    agent.tell(part)
    until(lambda: slurm.comments["n1"] == "rack 7 sbridge1/7.0/ready/20007")
    slurm.comments["n1"] += " and row 2"
    agent.withdraw(RUN)
    until(lambda: slurm.comments["n1"] == "rack 7 and row 2")


def test_words_of_an_earlier_agent_are_taken_back(slurm, gang):
    slurm.comments["n1"] = f"rack 7 {Standing(RUN).word}"
    gang("n1").start()
    until(lambda: slurm.comments["n1"] == "rack 7")


def test_a_job_on_one_node_is_not_told_of(slurm, gang, job):
    slurm.comments["n1"] = "rack 7"
    agent = gang("n1")
    agent.tell(job(nodes="n1"))
    assert not agent._news.is_set()
    agent.start()
    until(lambda: not agent._news.is_set())
    assert slurm.comments["n1"] == "rack 7"


def test_a_word_that_somebody_deleted_is_told_again(slurm, gang, job):
    agent = gang("n1")
    agent.start()
    agent.tell(job())
    until(lambda: slurm.comments["n1"])
    asked = slurm.asked
    agent.remind()
    until(lambda: slurm.asked > asked)
    assert slurm.written == 1, "it is there"
    slurm.comments["n1"] = ""
    agent.remind()
    until(lambda: slurm.comments["n1"] == Standing(RUN).word)


@pytest.mark.parametrize(
    ("trouble", "event"),
    [(TemporaryError("slurmctld is away"), "gang_not_told"), (KeyError("n1"), "gang_crashed")],
)
def test_what_could_not_be_told_is_told_later(slurm, gang, job, log, trouble, event):
    slurm.troubles = [trouble] * 2
    agent = gang("n1")
    agent.tell(job())
    agent.start()
    until(lambda: slurm.comments["n1"] == Standing(RUN).word)
    assert log.events == [event] * 2


def test_a_node_that_slurm_does_not_know_is_no_reason_to_stop(slurm, gang, job, log):
    del slurm.comments["n1"]
    agent = gang("n1")
    agent.tell(job())
    agent.start()
    until(lambda: "gang_not_told" in log.events)
    slurm.comments["n1"] = ""
    until(lambda: slurm.comments["n1"] == Standing(RUN).word)


def test_other_nodes_that_still_tell_of_a_run_are_named(slurm, gang, job):
    slurm.comments = {"n1": Standing(RUN).word, "n2": Standing(RUN).word, "n3": "rack 7"}
    part = job(nodes="n[1-4]")
    assert gang("n1").telling(part) == ["n2"]
    assert gang("n3").telling(part) == ["n1", "n2"]
    slurm.troubles = [TemporaryError("slurmctld is away")]
    with pytest.raises(TemporaryError):
        gang("n1").telling(part)
