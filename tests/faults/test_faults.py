"""The switches of the fault tests."""
import faults


def test_a_scale_never_leaves_a_test_without_work():
    assert faults.count(0) == 1 and faults.count(1, least=3) >= 3
