from watcher.slurm_gate import SlurmGate


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
