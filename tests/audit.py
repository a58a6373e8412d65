"""Look up what is locked in the lists of known vulnerabilities (pip-audit), as far as they can be reached from here."""

import json
import subprocess
import sys
from pathlib import Path


def main() -> int:
    """Return 1 where something is known to be vulnerable; offline, say that nothing was looked up."""
    program = Path(sys.executable).parent / "pip-audit"
    options = ["--disable-pip", "--require-hashes", "-r", "requirements.lock", "--timeout", "10", "--format", "json"]
    try:
        done = subprocess.run([str(program), *options], capture_output=True, text=True, timeout=240)
        found = json.loads(done.stdout)["dependencies"]
    except (ValueError, subprocess.TimeoutExpired):
        sys.stdout.write("dependency audit: skipped, the lists can't be reached from here\n")
        return 0
    audited = [package for package in found if "vulns" in package]
    for package in audited:
        for known in package["vulns"]:
            fixed = ", ".join(known["fix_versions"]) or "no version"
            sys.stdout.write(f"{package['name']} {package['version']}: {known['id']}, mended in {fixed}\n")
    skipped = f", {len(found) - len(audited)} skipped: not to be looked up from here" * (len(found) > len(audited))
    sys.stdout.write(f"dependency audit: {len(audited)} of {len(found)} looked up{skipped}\n")
    return int(any(package["vulns"] for package in audited))


if __name__ == "__main__":
    sys.exit(main())
