"""Check the locked packages against the lists of known vulnerabilities (pip-audit), if the lists can be reached."""

import json
import subprocess
import sys
from pathlib import Path


def main() -> int:
    """Return 1 if a package has a known vulnerability. Offline, print that the check was skipped and return 0."""
    program = Path(sys.executable).parent / "pip-audit"
    options = ["--disable-pip", "--require-hashes", "-r", "requirements.lock", "--timeout", "10", "--format", "json"]
    try:
        result = subprocess.run([str(program), *options], capture_output=True, text=True, timeout=240)
        packages = json.loads(result.stdout)["dependencies"]
    except (ValueError, subprocess.TimeoutExpired):
        sys.stdout.write("dependency audit: skipped, the lists can't be reached from here\n")
        return 0
    audited = [package for package in packages if "vulns" in package]
    for package in audited:
        for vulnerability in package["vulns"]:
            fix_versions = ", ".join(vulnerability["fix_versions"]) or "no version"
            sys.stdout.write(
                f"{package['name']} {package['version']}: {vulnerability['id']}, mended in {fix_versions}\n"
            )
    skipped = f", {len(packages) - len(audited)} skipped: not to be looked up from here" * (
        len(packages) > len(audited)
    )
    sys.stdout.write(f"dependency audit: {len(audited)} of {len(packages)} looked up{skipped}\n")
    return int(any(package["vulns"] for package in audited))


if __name__ == "__main__":
    sys.exit(main())
