"""`make test-changed` runs the tests of the rooms that changed and of those that import them."""

import subprocess

import pytest

from tests.changed import changed_files, chosen

TESTS = dict.fromkeys(
    (
        "tests/analysis/multiplier/test_multiplier.py",
        "tests/analysis/report/test_page.py",
        "tests/analysis/table/test_cells.py",
        "tests/analysis/test_command.py",
        "tests/budget/test_plan.py",
        "tests/soak/test_judge.py",
        "tests/tasks/test_items.py",
        "tests/test_documents.py",
        "tests/test_evaluate.py",
        "tests/training/test_ddp.py",
    ),
    "",
)
ALWAYS = {"tests/test_documents.py"}


@pytest.mark.parametrize(
    ("changed", "files"),
    [
        (set(), set()),
        ({"docs/data.md"}, ALWAYS),
        ({"tests/tasks/test_items.py"}, {"tests/tasks/test_items.py"} | ALWAYS),
        ({"tests/conftest.py"}, set(TESTS)),
        ({"conf/model/peer.yaml"}, set(TESTS)),
        # a file that is no more is of its room all the same
        (
            {"src/experiments/tasks/removed.py"},
            {"tests/tasks/test_items.py", "tests/test_evaluate.py", "tests/soak/test_judge.py"}
            | ALWAYS,
        ),
        (
            {"analysis/multiplier/__init__.py"},
            {
                "tests/analysis/multiplier/test_multiplier.py",
                "tests/analysis/report/test_page.py",
                "tests/analysis/test_command.py",
                "tests/soak/test_judge.py",  # publish makes a report
            }
            | ALWAYS,
        ),
        # analysis reads records, and no test of training reads analysis
        ({"src/experiments/records/record.py"}, set(TESTS) - {"tests/budget/test_plan.py"}),
        (
            {"src/experiments/evaluate.py", "pyproject.toml"},
            {"tests/test_evaluate.py", "tests/soak/test_judge.py"} | ALWAYS,
        ),
    ],
    ids=lambda value: ",".join(sorted(value))[:40] or "nothing",
)
def test_rooms_and_those_above_them(changed, files):
    assert set(chosen(changed, TESTS)) == files


def test_a_helper_s_readers_are_found_by_its_name():
    tests = {**TESTS, "tests/training/test_ddp.py": "from tests.adapters.small import tiny"}
    assert (
        set(chosen({"tests/adapters/small.py"}, tests)) == {"tests/training/test_ddp.py"} | ALWAYS
    )


def test_what_changed_since_main(tmp_path):
    def git(*words):
        identity = ("-c", "user.name=a", "-c", "user.email=a@b")
        subprocess.run(["git", *identity, *words], cwd=tmp_path, check=True, capture_output=True)

    def commit(name):
        (tmp_path / name).write_text(name)
        git("add", name)
        git("commit", "-qm", name)

    git("init", "-q", "-b", "main")
    commit("before")
    git("checkout", "-qb", "mine")
    commit("mine")
    git("checkout", "-q", "main")
    commit("of main")
    git("checkout", "-q", "mine")
    (tmp_path / "before").write_text("edited")
    (tmp_path / "new").write_text("new")
    assert changed_files(root=tmp_path) == {"before", "mine", "new"}
    assert changed_files("HEAD", tmp_path) == {"before", "new"}
    with pytest.raises(ValueError, match="nowhere"):
        changed_files("nowhere", tmp_path)
