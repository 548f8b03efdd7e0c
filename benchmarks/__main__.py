"""All measurements, one after the other: `python -m benchmarks` (about five minutes; needs root)."""

from __future__ import annotations

import subprocess
import sys

MODULES = ("benchmarks.ready", "benchmarks.smtp", "benchmarks.mta", "benchmarks.dns_qps")


def main() -> None:
    for module in MODULES:
        print(f"\n## {module}", flush=True)
        result = subprocess.run([sys.executable, "-m", module], check=False)
        if result.returncode != 0:
            raise SystemExit(f"{module} failed")


if __name__ == "__main__":
    main()
