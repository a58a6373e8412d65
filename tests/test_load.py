"""Several pipelines on one store: all right, and apart; the driver's memory stays flat (`make load`: 50 and 8)."""

import sys

import pytest
from chaos import load
from conftest import Store


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
def test_pipelines_one_after_another_and_at_once_are_all_right(store: Store) -> None:
    memory = load.serial(store, 5)
    load.at_once(store, 3)
    load.check(store, 8)
    assert memory[-1] < memory[1] * 1.2, memory
