"""All measurements, one after the other: `python -m benchmarks` (about half an hour; needs root)."""

from __future__ import annotations

import subprocess
import sys
import time

MODULES = (
    "benchmarks.ready",
    "benchmarks.smtp",
    "benchmarks.mta",
    "benchmarks.sendmail",
    "benchmarks.storm",
    "benchmarks.deferred",
    "benchmarks.abuse",
    "benchmarks.dns_qps",
)


def main() -> None:
    begun = time.monotonic()
    for number, module in enumerate(MODULES, 1):
        passed = time.monotonic() - begun
        print(f"\n## {module} ({number} of {len(MODULES)}, {passed:.0f} s so far)", flush=True)
        result = subprocess.run([sys.executable, "-m", module], check=False)
        if result.returncode != 0:
            raise SystemExit(f"{module} failed")


if __name__ == "__main__":
    main()
