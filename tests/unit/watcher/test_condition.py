from watcher.condition import Condition
from watcher.slurm_gate import SlurmGate


def test_a_change_is_told_once(mocker):
    log = mocker.Mock()
    condition = Condition(log, "nas_unreachable", "nas_reachable")
    condition.worked()
    condition.failed("gone", folder="/x")
    condition.failed("still gone")
    assert not condition.is_good
    condition.worked()
    condition.worked()
    assert condition.is_good
    log.warning.assert_called_once_with("nas_unreachable", reason="gone", folder="/x")
    log.info.assert_called_once()
    assert log.info.call_args.args == ("nas_reachable",)


def test_the_gate_is_open_until_slurm_fails():
    gate = SlurmGate()
    assert gate.lets_through(0, under_way=7)


def test_a_closed_gate_lets_one_through_after_a_pause_that_grows():
    gate = SlurmGate()
    gate.failed(100)
    assert not gate.lets_through(100.4, under_way=0)
    assert gate.lets_through(100.5, under_way=0)
    assert not gate.lets_through(100.5, under_way=1)
    gate.failed(100.5)
    assert gate.retry_at == 101.5
    for _ in range(20):
        gate.failed(200)
    assert gate.retry_at == 230


def test_an_answer_opens_the_gate():
    gate = SlurmGate()
    gate.failed(100)
    gate.worked()
    assert gate.lets_through(100, under_way=3)
