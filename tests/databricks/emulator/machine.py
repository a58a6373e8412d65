"""The machine of a cluster: a task's process tree in namespaces of its own, where /Volumes, /dbfs and /databricks are.

There the checkout is an empty directory, the host has the cluster's name, and whatever the task starts dies with it.
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
# As root of the namespace: a root directory like this machine's, with the cluster's and the shared folders added.
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
# Its end is that of all it started, however it comes; and the emulator's own end is its end too.
BOUND = ["setpriv", "--pdeathsig", "KILL", "unshare", "--pid", "--fork", "--kill-child"]
BOUND += [] if os.geteuid() == 0 else ["--map-root-user"]
ISOLATED = [*BOUND, "--mount-proc", "--mount", "--uts"]


def check() -> str | None:
    """Return why this machine can't be an emulated cluster, or None."""
    if not shutil.which("unshare") or not shutil.which("setpriv"):
        return "the emulator needs unshare and setpriv (util-linux, Linux only)"
    done = subprocess.run([*ISOLATED, "true"], capture_output=True, text=True, check=False)
    return f"the emulator needs mount and process namespaces: {done.stderr.strip()}" if done.returncode else None


def start(
    cluster: Cluster, files: Files, task: dict[str, Any], env: dict[str, str], log: Path
) -> subprocess.Popen[bytes]:
    """Start a task on a cluster; its output goes to `log`, what it raised to a file of the cluster (`outcome`)."""
    binaries = cluster.folder / "bin"
    if not binaries.exists():
        binaries.mkdir()
        shutil.copy(HERE / "rsync", binaries)
        shutil.copy(HERE / "launcher.py", cluster.folder)
    surroundings = {
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
    places = [cluster.id, cluster.folder / "root", files.folder, cluster.folder, CHECKOUT, " ".join(ROOTS)]
    program = [
        "/databricks/python/bin/python",
        "/databricks/launcher.py",
        json.dumps(task),
        f"/databricks/{log.stem}.json",
    ]
    command = [*ISOLATED, "sh", "-c", SCRIPT, "sh", *map(str, places), *program]
    with log.open("wb") as output:
        return subprocess.Popen(
            command, env=surroundings, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )


def outcome(cluster: Cluster, log: Path) -> dict[str, str]:
    """Return what the task raised, as it said so itself; a task that was killed says nothing."""
    found = cluster.folder / f"{log.stem}.json"
    return dict(json.loads(found.read_text())) if found.exists() else {}
