"""The page, in a browser; the tables of a profile and of two."""

import re

import pytest
from browser import dump_dom, needs_browser
from profiling_example import HOSTILE, profile

from jaxtag.errors import UserError
from jaxtag.perf.profile import diff, report, tables


@needs_browser
def test_the_page_in_a_browser(tmp_path):
    report.write_html(profile(), tmp_path)
    dom = dump_dom(tmp_path / "profile.html", tmp_path)
    # The page's own script draws each section.
    assert '<td class="name">fusion.1</td>' in dom and "3 of 3 kernels, 100.0 %" in dom
    assert dom.count("<circle") == 2 and '<path class="roof"' in dom
    assert "Compiled again in call 3, 2.0 s" in dom and "4.0 MiB" in dom
    # Hostile names are text: nothing of them became an element or was run.
    assert "<img" not in dom.replace(HOSTILE.replace("<", "\\u003c"), "")
    assert "taken</title>" not in dom and "<title>Profile: classify" in dom
    assert "&lt;img src=x" in dom
    # Nothing is loaded from elsewhere.
    assert not re.search(r"""(src|href)\s*=\s*["']?\w+:""", page_text(tmp_path))
    assert "http" not in page_text(tmp_path).replace("http://www.w3.org/2000/svg", "")


def page_text(folder) -> str:
    return (folder / "profile.html").read_text()


def test_the_table_of_a_profile():
    text = tables.as_text(profile())
    for part, share in (("data", "5.2%"), ("host", "1.3%"), ("checkpoint", "2.6%")):
        assert re.search(rf"^  {part} .*{share}", text, re.M), text
    assert f"{8 / 0.077:.1f} images/s" in text
    assert re.search(r"^group1/conv1 +50\.00 ms +83\.3% +30\.00 ms +20\.00 ms", text, re.M)
    assert "83.3% of the kernels' time has a part" in text
    assert "4.00 GFLOP analytic, 4.10 by XLA" in text
    assert "compiled again in call 3 (2.0 s), since\n  [1]['x']: a → b" in text


def test_the_difference_of_two_profiles():
    old, new = profile(), profile(scale=2.0, title="another", dtype="bfloat16")
    new["config"] = {"batch_size": 8, "model": {"dtype": "bfloat16"}}
    text = diff.table(old, new)
    assert re.search(r"^config\.model\.dtype +float32 +bfloat16$", text, re.M)
    assert "batch_size" not in text
    assert re.search(r"^  device +70\.00 ms +100\.00 ms +x 1\.429$", text, re.M)
    assert re.search(
        r"^group1/conv1 forward fusion +30\.00 ms +60\.00 ms +\+30\.00 ms$", text, re.M
    )
    assert re.search(r"^group1/conv1 +50\.00 ms +80\.00 ms +\+30\.00 ms$", text, re.M)
    assert diff.table(old, old).startswith("the same settings")
    # Steps of 70 and 80 ms: the mean of two is known to 6.7 %, a difference of means to 18.9 %.
    assert text.endswith(
        "noise: below 18.9%, twice the standard error of the mean times of 2 and 2 steps"
    )
    text = diff.table(old, profile(scale=1.1))
    assert re.search(r"^  device +70\.00 ms +\S+ ms +x 1\.0\d\d \(noise\)$", text, re.M)
    assert re.search(r"^group1/conv1 +50\.00 ms +\S+ ms +\+\S+ ms +noise$", text, re.M)


def test_profiles_are_found_by_folder_and_file(tmp_path):
    folder = tmp_path / "profile"
    folder.mkdir()
    report.write_json(profile(), folder)
    for path in (tmp_path, folder, folder / "profile.json"):
        assert report.load(str(path))["step"]["batch_size"] == 8
    with pytest.raises(UserError, match=r"nowhere: no profile\.json is there"):
        report.load("nowhere")
    for text, message in (("{", "is damaged"), ("[]", "is no profile"), ('{"a": 1}', "no profile")):
        (folder / "profile.json").write_text(text)
        with pytest.raises(UserError, match=message):
            report.load(str(folder))


@pytest.mark.parametrize(
    "change",
    [
        {"costs": None},
        {"step": 3},
        {"step": {}},
        {"kernels": 5},
        {"kernels": [1]},
        {"config": None},
    ],
)
def test_a_damaged_profile_is_not_compared(change):
    damaged = {name: value for name, value in (profile() | change).items() if value is not None}
    with pytest.raises(UserError, match="damaged, or of another version"):
        diff.table(profile(), damaged)
