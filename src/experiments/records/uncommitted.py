"""Which records are of code that no commit has."""

from collections.abc import Sequence

from experiments.records.app_record import Record


def uncommitted_note(records: Sequence[Record]) -> str | None:
    """How many records are of a working tree with uncommitted changes, and how many don't know;
    None if each is of a commit. Records without an environment are not asked.
    """
    changed = [r.environment.get("git_dirty") for r in records if r.environment]
    counts = {
        "of a working tree with uncommitted changes (git_dirty)": sum(map(bool, changed)),
        "of an unknown commit": sum(value is None for value in changed),
    }
    found = [f"{count} {of}" for of, count in counts.items() if count]
    return f"of {len(records)} records: {'; '.join(found)}" if found else None
