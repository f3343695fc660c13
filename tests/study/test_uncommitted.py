"""How many committed records are of uncommitted code, and that each document says so of its own."""

import re
import subprocess

import pytest

from experiments.records.files import read_record
from experiments.records.uncommitted import uncommitted_note
from tests.study.committed import ROOT, text

SAID = {  # sweep: its document, and the sentence
    "study/rates": (
        "results/study/first",
        "Of the search of rates {dirty} of {all} are of such a tree.",
    ),
    "study/transfer": ("docs/parametrization", "All {all} runs have three blocks"),
    "study/muon": ("docs/parametrization", "and so are all {dirty} of [Muon](#muon)"),
    "lifelong/streams": (
        "docs/lifelong",
        "Of the {all} records in results/lifelong/streams {dirty} are of a working tree",
    ),
    "growth/square": ("docs/growth", "{dirty} of the {all} records are of a working tree"),
    "study/causes": ("results/study/first", "and {dirty} of the causes"),
    "study/isoflop": (
        "results/study/first",
        "24 of 42 of the isoFLOP runs at 1e13, 28 of 42 at 3e13",
    ),
}
LACKED = {  # commits that no branch of the repository has
    "03cbb98b9f01", "0dca8ec823e2", "871ffdb70eb6", "d6809b945181",
}  # fmt: skip
UNKNOWN = {"study/precision_bf16": 22, "study/precision_float32": 22, "retrofit/tuning": 17}


@pytest.fixture(scope="module")
def sweeps():
    """Records that git has, by sweep: runs of one's own are beside them."""
    listed = ["git", "ls-files", "-z", "results/*record.json"]
    names = subprocess.run(listed, cwd=ROOT, capture_output=True, check=True, text=True).stdout
    found = {}
    for path in (ROOT / name for name in names.split("\0") if name):
        sweep = path.parent.parent.relative_to(ROOT / "results").as_posix()
        found.setdefault(sweep, []).append(read_record(path))
    return found


def test_each_document_counts_its_own(sweeps):
    dirty = {
        sweep: sum(bool(r.environment.get("git_dirty")) for r in records)
        for sweep, records in sweeps.items()
    }
    assert {sweep for sweep, count in dirty.items() if count} == set(SAID)
    for sweep, (document, sentence) in SAID.items():
        said = sentence.format(dirty=dirty[sweep], all=len(sweeps[sweep]))
        assert said in text(f"{document}.md"), sweep
        assert f"{dirty[sweep]} of a working tree" in uncommitted_note(sweeps[sweep])
    assert f"{dirty['study/transfer']} of them are of a working tree" in text(
        "docs/parametrization.md"
    )
    assert dirty["study/isoflop"] == 24 + 28
    (all_of_them,) = re.findall(r"(\d+) records are of a working tree", text("README.md"))
    assert int(all_of_them) == sum(dirty.values())


def test_which_records_name_a_commit_that_is_not_there(sweeps):
    found = {
        sweep: [r for r in records if (r.environment.get("git_commit") or "")[:12] in LACKED]
        for sweep, records in sweeps.items()
    }
    assert not any(r.environment["git_dirty"] for records in found.values() for r in records)
    assert {sweep: len(records) for sweep, records in found.items() if records} == {
        "adapters/domains": 27, "growth/square": 4, "lifelong/facts": 15, "lifelong/streams": 8,
    }  # fmt: skip
    assert "The 27 records in results/adapters/domains name a commit that" in text(
        "docs/adapters.md"
    )
    assert "4 others name a commit that is not there" in text("docs/growth.md")
    assert "its 15 records name a commit that" in text("docs/lifelong.md")
    assert "8 others name a commit that is not there" in text("docs/lifelong.md")
    assert "54 name a commit that is not in the repository" in text("README.md")


def test_which_records_name_no_commit(sweeps):
    unknown = {
        sweep: sum(r.environment.get("git_dirty") is None for r in records)
        for sweep, records in sweeps.items()
    }
    assert {sweep: count for sweep, count in unknown.items() if count} == UNKNOWN
    assert "17 records that don't name their commit" in text("docs/retrofit.md")
    assert "These 44 don't name their commit." in text("docs/performance.md")
