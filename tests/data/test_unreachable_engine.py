"""A Spark Connect server that does not answer."""

from collections.abc import Callable

import pytest
from conftest import Result, Store


@pytest.mark.slow  # pyspark retries for a while
def test_an_unreachable_server_fails_the_step_in_one_line_and_leaves_no_run_running(
    shell: Callable[..., Result], store: Store
) -> None:
    result = shell("python", "driver.py", "--only=prepare_data", "--set=spark.engine=sc://127.0.0.1:1")
    assert result.code == 4, result.text
    line = next(line for line in result.out.splitlines() if "01_prepare_data" in line)
    assert "spark.engine=sc://127.0.0.1:1 doesn't start or doesn't answer" in line
    assert "Traceback" not in result.text
    assert {run.info.status for run in store.runs()} == {"FAILED"}
