"""`python -m ml_pipelines train-model ...` does the same as the console script `train-model ...`.

Some runners start a wheel task this way, with the task's package_name and entry_point.
"""

from __future__ import annotations

import sys

from ml_pipelines.cli import main, tasks

if __name__ == "__main__":
    if sys.argv[1:2] == ["ml-pipelines"]:
        del sys.argv[1]
        main.main()
    else:
        tasks.run_named_script()
