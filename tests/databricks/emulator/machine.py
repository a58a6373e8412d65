"""The machine of a cluster. A task runs in namespaces of its own, which have /Volumes, /dbfs and /databricks.

In these namespaces the checkout is an empty directory, the host name is that of the cluster, and all processes that a
task starts die with it.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

from emulator.clusters import CHECKOUT, Cluster
from emulator.files import ROOTS, Files

HERE = Path(__file__).parent
# Run as root of the namespace: make a root directory like this machine's, and add the cluster's and shared folders.
SCRIPT = """
set -e
hostname "$1"; new="$2"; shared="$3"; own="$4"; checkout="$5"; roots="$6"; shift 6
mount -t tmpfs -o mode=755 none "$new"
for entry in /* /.[!.]*; do
  [ -e "$entry" ] || continue
  if [ -L "$entry" ]; then cp -P "$entry" "$new$entry"
  elif [ -d "$entry" ]; then mkdir "$new$entry"; mount --rbind "$entry" "$new$entry"
  fi
done
for name in $roots; do mkdir -p "$new/$name"; mount --bind "$shared/$name" "$new/$name"; done
mkdir -p "$new/databricks"; mount --bind "$own" "$new/databricks"
mount -t tmpfs none "$new$checkout"
exec chroot "$new" /bin/sh -c 'cd /databricks/driver && exec "$@"' sh "$@"
"""
# When the process or the emulator ends for any reason, everything that the process started ends too.
BOUND = ["setpriv", "--pdeathsig", "KILL", "unshare", "--pid", "--fork", "--kill-child"]
BOUND += [] if os.geteuid() == 0 else ["--map-root-user"]
ISOLATED = [*BOUND, "--mount-proc", "--mount", "--uts"]


def check() -> str | None:
    """Return why this machine can't emulate a cluster, or None if it can."""
    if not shutil.which("unshare") or not shutil.which("setpriv"):
        return "the emulator needs the commands unshare and setpriv (package util-linux, Linux only)"
    done = subprocess.run([*ISOLATED, "true"], capture_output=True, text=True, check=False)
    return f"the emulator needs mount and process namespaces: {done.stderr.strip()}" if done.returncode else None


def start(
    cluster: Cluster, files: Files, task: dict[str, Any], env: dict[str, str], log: Path
) -> subprocess.Popen[bytes]:
    """Start a task on a cluster. Its output goes to `log`, and its exception to a file that `outcome` reads."""
    binaries = cluster.folder / "bin"
    if not binaries.exists():
        binaries.mkdir()
        shutil.copy(HERE / "rsync", binaries)
        shutil.copy(HERE / "launcher.py", cluster.folder)
    environment = {
        "PATH": "/databricks/bin:/databricks/python/bin:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin",
        "HOME": "/databricks/driver",
        "TMPDIR": "/databricks/tmp",
        "LANG": "C.UTF-8",
        "PYTHONUNBUFFERED": "1",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DATABRICKS_RUNTIME_VERSION": cluster.runtime,
        **cluster.env,
        **env,
    }
    script_arguments = [cluster.id, cluster.folder / "root", files.folder, cluster.folder, CHECKOUT, " ".join(ROOTS)]
    program = [
        "/databricks/python/bin/python",
        "/databricks/launcher.py",
        json.dumps(task),
        f"/databricks/{log.stem}.json",
    ]
    command = [*ISOLATED, "sh", "-c", SCRIPT, "sh", *map(str, script_arguments), *program]
    with log.open("wb") as output:
        return subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )


def outcome(cluster: Cluster, log: Path) -> dict[str, str]:
    """Return the exception that the launcher recorded; an empty dict if the task succeeded or was killed."""
    recorded = cluster.folder / f"{log.stem}.json"
    return dict(json.loads(recorded.read_text())) if recorded.exists() else {}
