"""Files that say what they said stay as they are; a new number or picture replaces them."""

import json
import re
import shutil
import subprocess

import matplotlib.pyplot as plt
import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from analysis.__main__ import main
from analysis.staging import staged

FITS = {"alpha": 0.3333333333333333, "n": 12, "gradient": 3e-11, "why": ["at 4.25", None, True]}
PAGE = '<p class="generated">2026 UTC</p><svg width="1"><path d="M0 1.25"/></svg><td>{}</td>'


def png(path, shift=0.0, **metadata):
    figure, axis = plt.subplots(figsize=(3, 2))
    axis.plot([0, 1, 2], [1.0, 1.5 + shift, 1.2])
    figure.savefig(path, dpi=80, metadata=metadata)
    plt.close(figure)


def write(folder, fits=FITS, number="4.1251", shift=0.0, **metadata):
    folder.mkdir(exist_ok=True)
    (folder / "fits.json").write_text(json.dumps(fits))
    (folder / "table.csv").write_text(f"a,b\nx,{number}\n")
    (folder / "report.html").write_text(PAGE.format(number))
    png(folder / "one.png", shift, **metadata)
    return folder


def replaced(folder, **made):
    """Names of the files that are others after the same was made again."""
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with staged(folder) as new:
        write(new, **made)
    return {name for name, content in before.items() if (folder / name).read_bytes() != content}


def test_roundings_are_no_news(tmp_path):
    folder = write(tmp_path)
    other = {**FITS, "alpha": 0.3333333333333391, "gradient": 8e-13, "why": ["at 4.26", None, True]}
    assert replaced(folder, fits=other, number="4.1252") == set()


@pytest.mark.parametrize(
    ("made", "files"),
    [
        ({"fits": {**FITS, "alpha": 0.3334}}, {"fits.json"}),
        ({"fits": {**FITS, "n": 13}}, {"fits.json"}),
        ({"fits": {**FITS, "why": []}}, {"fits.json"}),
        ({"fits": {**FITS, "more": 1}}, {"fits.json"}),
        ({"number": "4.1271"}, {"table.csv", "report.html"}),
        ({"number": "12"}, {"table.csv", "report.html"}),
        ({"shift": 0.05}, {"one.png", "report.html"}),
    ],
)
def test_what_is_new_replaces(tmp_path, made, files):
    folder = write(tmp_path)
    # a page has the pictures in it, and is as new as they are; its own numbers did not change
    (folder / "report.html").write_text(PAGE.format("4.1251").replace("1.25", "1.26"))
    assert replaced(folder, **made) == files


def test_another_release_of_matplotlib_draws_no_news_of_the_same_numbers(tmp_path):
    folder = write(tmp_path, Software="Matplotlib version3.0")
    assert replaced(folder, shift=0.05) == set()
    other = {**FITS, "alpha": 0.4}
    assert replaced(folder, fits=other, shift=0.05) == {"fits.json", "one.png"}


def test_a_few_pixels_at_edges_are_not_seen(tmp_path):
    folder = write(tmp_path)
    with Image.open(folder / "one.png") as picture:
        pixels, info = np.asarray(picture).copy(), picture.info
    pixels[5, 5, :3] = 0
    text = PngInfo()
    text.add_text("Software", info["Software"])
    Image.fromarray(pixels).save(folder / "one.png", pnginfo=text)
    assert replaced(folder) == set()
    pixels[5:25, 5:25, :3] = 0
    Image.fromarray(pixels).save(folder / "one.png", pnginfo=text)
    assert replaced(folder) == {"one.png"}


def test_a_damaged_file_is_replaced(tmp_path):
    folder = write(tmp_path)
    for name in ("fits.json", "one.png"):
        (folder / name).write_bytes(b"\0torn")
    assert replaced(folder) == {"fits.json", "one.png"}


def test_a_report_made_again_leaves_a_clean_tree(sweep, tmp_path_factory, few_draws):
    clone = tmp_path_factory.mktemp("clone")
    shutil.copytree(sweep, clone / "sweep", ignore=shutil.ignore_patterns("moe*", "peer*"))

    def git(*words):
        identity = ("-c", "user.name=a", "-c", "user.email=a@b")
        return subprocess.run(
            ["git", *identity, *words], cwd=clone, check=True, capture_output=True, text=True
        ).stdout

    (clone / ".gitignore").write_text("*.pdf\n")
    report = ["report", str(clone / "sweep")]
    assert main(report) == 0
    git("init", "-q")
    git("add", ".")
    git("commit", "-qm", "as drawn there")
    for name in ("fits.json", "report.html"):  # the date is another by a minute or more
        path = clone / "sweep" / name
        path.write_text(re.sub(r"2\d\d\d-\d\d-\d\d", "2020-01-01", path.read_text()))
    git("commit", "-qam", "some years ago")
    assert main(report) == 0
    assert git("status", "--porcelain") == ""
