from watcher.condition import Condition


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
