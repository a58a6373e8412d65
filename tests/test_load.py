"""Several pipelines on one store all finish on their own tables; the driver's memory stays flat (see `make load`)."""

import sys

import pytest
from chaos import load
from conftest import Store


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
def test_pipelines_finish_one_after_another_and_at_once(store: Store) -> None:
    memory = load.serial(store, 5)
    load.at_once(store, 3)
    load.check(store, 8)
    assert memory[-1] < memory[1] * 1.2, memory
