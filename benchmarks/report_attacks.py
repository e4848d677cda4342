"""The table of attacks, as Markdown, from benchmarks/results/attacks.json."""

from typing import Any

from report_tables import load, machine, table


def attacks() -> str:
    result = load("attacks")
    rows = [["attack", "", "good requests", "failed", "median", "longest", "memory"]]
    for one in result["service"]["found"]:
        memory = " / ".join(
            f"{one[f'{when}_bytes'] / 1e6:.0f}" for when in ("before", "peak", "after")
        )
        rows.append(
            [
                one["what"],
                "held" if one["held"] else "**fell**",
                f"{one['good_requests']:,}",
                str(one["failed"]),
                f"{one['p50_ms']:,.0f} ms",
                f"{one['max_ms']:,.0f} ms",
                f"{memory} MB",
            ]
        )
    lines = [
        table(rows),
        "",
        "Good requests come from another address, each over a connection of its own. Memory is",
        "that of the server before, at most, and eight seconds after. One server outlived them;",
        f"{_lines(result['service']['found'])}; {machine(result['service'])}.",
    ]
    return "\n".join([*lines, *_others(result)])


def _lines(found: list[dict[str, Any]]) -> str:
    count = sum(one["lines"] for one in found)
    return f"it logged {count} line{'s' * (count != 1)}"


def _others(result: dict[str, Any]) -> list[str]:
    """A sentence per kind of attack on files and processes that was measured."""
    said = []
    if "files" in result:
        found = result["files"]["found"]
        held = sum(one["held"] for one in found)
        most = max(one["growth_bytes"] for one in found)
        said.append(
            f"Hostile files (pipes, empty gigabytes, archives that inflate to 1 GB, deep nesting, "
            f"checkpoints of another run): {held} of {len(found)} were refused in one line or "
            f"read, with {most / 1e6:.0f} MB at most."
        )
    if "fuzz" in result:
        found = result["fuzz"]["found"]
        said.append(
            "Malformed graphs, settings, runs and models, read in one process: "
            f"{found['cases']:,}; "
            f"{len(found['fallen'])} fell; {found['peak_growth_bytes'] / 1e6:.0f} MB at most."
        )
    if "signals" in result:
        found = result["signals"]["found"]
        said.append(
            "SIGINT and SIGTERM at random moments of start-up, train, compress, prepare, sweep: "
            f"{found['signals']}; {len(found['fallen'])} did not end as documented."
        )
    if "kills" in result:
        found = result["kills"]["found"]
        said.append(
            f"SIGKILL at a write, flush or rename: {found['kills']}; "
            f"{len(found['fallen'])} damaged anything."
        )
    return [f"\n{line}" for line in said]


TABLES = {"attacks": attacks}
