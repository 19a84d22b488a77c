"""The machine: versions, driver, clocks as found, and the two ceilings that other numbers are a share of."""

import sys

import torch
from measure import Report, copy_bandwidth, describe, matmul_rate, put_kernels_in_place, script_options


def main() -> int:
    """Print and write it."""
    options = script_options(__doc__ or "")
    report = Report(options.out, describe(options.device))
    for name, value in report.about.items():
        print(f"{name:<16}{value}")
    for name, how in put_kernels_in_place(options.device.type).origin.items():
        print(f"{name:<20}{how}")
        report.about[f"op {name}"] = how
    ceilings = {
        "copy, read + write, GB/s": (copy_bandwidth, 1e9),
        "bfloat16 product, TFLOP/s": (matmul_rate, 1e12),
    }
    for name, (measure, unit) in ceilings.items():
        for turn in ("first", "second"):
            found = measure(options.device, options.dry_run)
            if options.device.type == "cuda":
                torch.cuda.empty_cache()
            row = {"ceiling": name, "turn": turn, "median": found.median / unit}
            report.rows.append(row | {"p10": found.low / unit, "p90": found.high / unit, "repeats": found.repeats})
            report.check(name, found.median > 0)
            print(f"{name} ({turn}): {row['median']:.1f}  [{found.low / unit:.1f} to {found.high / unit:.1f}]")
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
