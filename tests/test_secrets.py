"""What must not be published is found wherever it stands, and plain content is left alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kpi_bench._secrets import find_private, redact

RESULTS = Path(__file__).parents[1] / "leaderboard" / "results"
TOKEN = "hf_" + "A1b2" * 8


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (TOKEN, "a Hugging Face token"),
        (f"https://user:{TOKEN}@huggingface.co/x", "a Hugging Face token"),
        ("ghp_" + "a" * 36, "a GitHub token"),
        ("github_pat_" + "a" * 30, "a GitHub token"),
        ("glpat-" + "a" * 20, "a GitLab token"),
        ("AKIAIOSFODNN7EXAMPLE", "an AWS access key"),
        ("sk-" + "a" * 40, "an API key"),
        ("Authorization: Bearer " + "a" * 20, "a bearer token"),
        ("-----BEGIN OPENSSH PRIVATE KEY-----", "a private key"),
        ("git clone https://ann:secret@example.org/x", "an address with a password"),
        ("/home/ann/runs", "an absolute path"),
        ("/data", "an absolute path"),
        ("wrote /tmp/x/y.json", "an absolute path"),
        ("path=/mnt/disk/a", "an absolute path"),
        ("('/usr/lib/python3',)", "an absolute path"),
        ("~/runs/x", "an absolute path"),
        ("~ann/runs", "an absolute path"),
        ("file:///etc/passwd", "an absolute path"),
        (r"C:\Users\ann", "an absolute path"),
        ("D:/data/x", "an absolute path"),
        (r"\\server\share\x", "an absolute path"),
        ("ann.b+c@mail.example.ac.uk", "an e-mail address"),
        ("Ann <ann@example.org>", "an e-mail address"),
    ],
)
def test_found(text: str, why: str) -> None:
    assert ("", why) in find_private(text)
    assert all(len(text) < 6 or text not in reason for _, reason in find_private(text))


@pytest.mark.parametrize(
    "text",
    [
        "https://arxiv.org/abs/2405.13085",
        "http://localhost:8000/a/b",
        "hf://kpi/tiny@0123456789abcdef0123456789abcdef01234567",
        "git@github.com:owner/name.git",
        "tail/mrr",
        "train+valid/test",
        "ndcg@20",
        "kg-embedding@roth-wn18rr",
        "mudok@base",
        "predictions/amazon_music",
        "3 / 4 of them, and/or 1/2",
        "about ~10/20",
        "LightGCN (He et al., 2020); see 4.1: a/b",
        "c" * 64,
        "",
    ],
)
def test_left_alone(text: str) -> None:
    assert find_private(text) == []


def test_where() -> None:
    value = {
        "notes": {"source": [{"file": "a.csv"}, {"file": "/data/a.csv"}]},
        "password": "hunter2",
        "mask_token": "[MASK]",
        "api_key": "",
        f"x {TOKEN}": {"y": "ann@example.org"},
        "/home/ann": 1,
        "n": [1, 2.5, None, True],
    }
    found = dict(find_private(value))
    assert found == {
        "notes.source[1].file": "an absolute path",
        "password": "a field named like a secret",
        "<key 4>": "a Hugging Face token as the name of a field",
        "<key 4>.y": "an e-mail address",
        "<key 5>": "an absolute path as the name of a field",
    }


def test_published_results_are_clean() -> None:
    files = sorted(RESULTS.rglob("*.json"))
    assert files
    for file in files:
        assert find_private(json.loads(file.read_text())) == []


_JSON = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False) | st.text(alphabet="ab .-", max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(alphabet="ab", max_size=3), inner, max_size=3)
    ),
    max_leaves=10,
)


@given(value=_JSON, key=st.text(alphabet="xyz", min_size=1, max_size=3), depth=st.integers(0, 4))
def test_any_depth(value: object, key: str, depth: int) -> None:
    assert find_private(value) == []
    hidden: object = f"say {TOKEN}!"
    where = ""
    for level in range(depth):
        hidden, where = ([value, hidden], f"[1]{where}") if level % 2 else ({key: hidden}, f".{key}{where}")
    assert find_private(hidden) == [(where.removeprefix("."), "a Hugging Face token")]


def test_redact() -> None:
    assert redact(f"no {TOKEN}, no mine, yes /home/x", ("mine",)) == "no ***, no ***, yes /home/x"
