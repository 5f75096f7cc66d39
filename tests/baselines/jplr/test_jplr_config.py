"""Parameters of JPLR: which are refused, and what submission.toml says of them."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from baselines.common.config import config_keys
from baselines.common.config import read_config as typed
from baselines.jplr.config import CHOICES, JplrConfig
from baselines.jplr.submission import Jplr
from kpi_bench.errors import SubmissionError
from kpi_bench.harness.config import load_class, read_config

FOLDER = Path(__file__).resolve().parents[3] / "submissions" / "jplr"
CHOSEN = {
    "batch_size",
    "teacher_epochs",
    "teacher_lr",
    "epochs",
    "lr",
    "eval_every",
    "patience",
    "valid_triples",
}
"""What submission.toml sets by runs on the suites; all else in it is the default."""

OF_CONFIG: dict[str, dict[str, Any]] = {
    "scratch": {"teacher": "none"},
    "scratch-long": {"teacher": "none", "epochs": 11},
    "own": {"teacher": "own"},
    "feature": {"network": 0.0, "prediction": 0.0},
    "network": {"feature": 0.0, "prediction": 0.0},
    "prediction": {"feature": 0.0, "network": 0.0},
    "link-only": {"feature": 0.0, "network": 0.0, "prediction": 0.0},
    "no-link": {"link_hops": 0},
    "teacher": {"serve": "teacher"},
    "unlinked": {"links": "none"},
    "name-links": {"links": "name"},
    "rsn": {"encoder": "rsn"},
    "rnn": {"encoder": "rnn"},
    "cf": {},
    "minilm": {},
}


def test_the_defaults_are_valid_and_choices_are_fields() -> None:
    JplrConfig()
    assert CHOICES.keys() <= {field.name for field in fields(JplrConfig)}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name in CHOICES for value in CHOICES[name]])
def test_every_choice_is_accepted(name: str, value: str) -> None:
    assert getattr(JplrConfig(**{name: value}), name) == value


@pytest.mark.parametrize("name", CHOICES)
def test_another_choice_is_refused_with_the_allowed_ones(name: str) -> None:
    allowed = ", ".join(CHOICES[name])
    with pytest.raises(SubmissionError, match=f"{name} = 'Both'; use one of {allowed}"):
        JplrConfig(**{name: "Both"})


@pytest.mark.parametrize(
    ("name", "refused", "accepted"),
    [
        *((name, 0, 1) for name in ("hops", "negatives", "batch_size", "layers", "heads", "teacher_layers")),
        *((name, 0, 1) for name in ("teacher_heads", "eval_every", "patience", "link_triples", "hub_keep")),
        *((name, 0, 64) for name in ("hub_limit", "hidden", "teacher_hidden")),
        *((name, 0, 1) for name in ("teacher_epochs", "epochs")),
        *((name, -1, 0) for name in ("link_hops", "valid_triples")),
        *(
            (name, -0.1, 0.0)
            for name in ("later_weight", "decay", "align", "feature", "network", "prediction")
        ),
        *((name, 0.0, 1e-6) for name in ("teacher_lr", "lr", "temperature", "align_temperature")),
        *((name, float("nan"), 0.5) for name in ("teacher_lr", "lr", "temperature", "align_temperature")),
        *((name, bad, 0.5) for name in ("depth", "crossing") for bad in (0.0, 1.0, -0.5, float("nan"))),
        *((name, bad, 0.0) for name in ("dropout", "warmup", "holdout") for bad in (-0.2, 1.1, float("nan"))),
        ("dropout", 0.91, 0.9),
        ("holdout", 0.51, 0.5),
    ],
)
def test_values_out_of_range_are_refused(name: str, refused: float, accepted: float) -> None:
    assert getattr(JplrConfig(**{name: accepted}), name) == accepted
    with pytest.raises(SubmissionError, match=f"^{name} = {refused}; it must"):
        JplrConfig(**{name: refused})


@pytest.mark.parametrize(("width", "heads"), [("hidden", "heads"), ("teacher_hidden", "teacher_heads")])
def test_heads_share_the_width(width: str, heads: str) -> None:
    assert JplrConfig(**{width: 12, heads: 3})
    with pytest.raises(SubmissionError, match=f"{width} = 14; it must be a multiple of {heads} = 3"):
        JplrConfig(**{width: 14, heads: 3})


def test_a_teacher_that_is_not_there_cannot_serve() -> None:
    with pytest.raises(SubmissionError, match="serve = 'teacher' needs a teacher"):
        JplrConfig(serve="teacher", teacher="none")
    for teacher in ("own", "joint"):
        assert JplrConfig(serve="teacher", teacher=teacher).serve == "teacher"


def test_the_file_names_every_parameter_and_no_other() -> None:
    params = read_config(FOLDER).params
    own = {name for name in params if name.startswith("jplr_")}
    assert own == config_keys(JplrConfig, "jplr_") == set(Jplr.own_keys)


def test_parameters_of_the_file_are_the_defaults_but_for_those_that_runs_chose() -> None:
    stated = typed(JplrConfig, read_config(FOLDER).params, "jplr_")
    differ = {field.name for field in fields(JplrConfig) if getattr(stated, field.name) != field.default}
    assert differ <= CHOSEN


def test_every_config_of_the_file_says_what_its_name_does() -> None:
    config = read_config(FOLDER)
    assert load_class(config) is Jplr
    assert config.configs.keys() == OF_CONFIG.keys() | {"base"}
    standard = typed(JplrConfig, config.params, "jplr_")
    for name, changed in OF_CONFIG.items():
        found = typed(JplrConfig, config.resolve_params("any", name, {}), "jplr_")
        differ = {
            field.name: getattr(found, field.name)
            for field in fields(JplrConfig)
            if getattr(found, field.name) != getattr(standard, field.name)
        }
        assert differ == changed, name


@pytest.mark.parametrize("suite", ["any", "kpi-mini", "kpi-open", "fb15k-237-db15k"])
@pytest.mark.parametrize("name", [None, *OF_CONFIG, "base"])
def test_every_config_is_valid_on_every_suite(name: str | None, suite: str) -> None:
    submission = Jplr(read_config(FOLDER).resolve_params(suite, name, {}))
    # A student is the smaller one, and principal components of a teacher fill its width.
    assert submission.jplr.hidden < submission.jplr.teacher_hidden


def test_the_reconstruction_is_declared_as_one() -> None:
    config = read_config(FOLDER)
    assert config.fidelity is not None
    assert config.fidelity.level == "reconstruction"
    assert "No number is the paper's" in config.fidelity.notes
