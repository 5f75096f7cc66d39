"""The trials of a search in Optuna's storage (SQLite): who draws them, what is kept of each."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import optuna

from kpi_bench._schema import encode
from kpi_bench.errors import RunError
from kpi_bench.harness.tuning.curves import Curve, CurveKey
from kpi_bench.harness.tuning.record import Ended, Plan, Trial
from kpi_bench.harness.tuning.space import Kind, Parameter

STUDY = "trials.db"
KEPT = "kept"
"""Attribute of a trial with what Optuna has no place for."""
OPTUNA = optuna.__version__

_ENDED = {
    Ended.FINISHED: optuna.trial.TrialState.COMPLETE,
    Ended.PRUNED: optuna.trial.TrialState.PRUNED,
    Ended.FAILED: optuna.trial.TrialState.FAIL,
}
_STATE = {state: ended for ended, state in _ENDED.items()}


class Trials:
    """The trials of one plan, those of earlier sessions included.

    Trial 0 is that of the submission's own parameters; the others are drawn by TPE with a generator of their own, made from the
    plan's seed and the trial's number. So a trial depends on the plan and the trials before it alone, and a search that was
    interrupted draws what it would have drawn.
    """

    def __init__(self, folder: Path, plan: Plan) -> None:
        """Open the storage in ``folder``.

        Raises:
            RunError: it holds the trials of another plan.
        """
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.plan = plan
        self._study = optuna.create_study(
            storage=f"sqlite:///{folder.resolve() / STUDY}",
            study_name="search",
            direction="maximize" if plan.higher_is_better else "minimize",
            pruner=optuna.pruners.NopPruner(),
            load_if_exists=True,
        )
        stated = encode(plan)
        known = self._study.user_attrs.get("plan", stated)
        different = [
            describe(name, known.get(name), stated[name])
            for name in stated
            if known.get(name) != stated[name]
        ]
        if different:
            raise RunError(
                f"{folder} holds another search: {'; '.join(different)}. Continue it as it was begun, or name another --out"
            )
        self._study.set_user_attr("plan", stated)

    def begin(self) -> tuple[int, dict[str, Any]]:
        """Number and searched parameters of the next trial; of the one that was under way when an earlier session ended, if any."""
        unfinished = self._unfinished()
        number = unfinished[0].number if unfinished else len(self._study.trials)
        self._study.sampler = _sampler(self.plan.seed, number)
        if not self._study.trials:
            fixed = {name: self.plan.params[name] for name in self._names(0)}
            self._study.enqueue_trial(
                {name: _stored(self.plan.space[name], value) for name, value in fixed.items()}
            )
        running = [trial for trial in unfinished if trial.state is optuna.trial.TrialState.RUNNING]
        trial = optuna.Trial(self._study, running[0]._trial_id) if running else self._study.ask()
        return trial.number, {
            name: _draw(trial, name, self.plan.space[name]) for name in self._names(trial.number)
        }

    def end(self, trial: Trial, curves: Mapping[CurveKey, Curve]) -> None:
        """Keep what came of the trial that was begun, and the learning curves of its runs."""
        (stored,) = self._unfinished()
        running = optuna.Trial(self._study, stored._trial_id)
        kept = {
            "values": dict(trial.values),
            "seconds": trial.seconds,
            "why": trial.why,
            "curves": [
                [key.task, key.seed, key.metric, list(curve.items())] for key, curve in curves.items()
            ],
        }
        running.set_user_attr(KEPT, kept)
        self._study.tell(running, trial.value, _ENDED[trial.ended])

    def ended(self) -> tuple[Trial, ...]:
        """Trials that have ended, by number."""
        return tuple(
            Trial(
                number=trial.number,
                ended=_STATE[trial.state],
                params={
                    name: _restored(self.plan.space[name], value) for name, value in trial.params.items()
                },
                value=trial.value if trial.state is optuna.trial.TrialState.COMPLETE else None,
                values=trial.user_attrs[KEPT]["values"],
                seconds=trial.user_attrs[KEPT]["seconds"],
                why=trial.user_attrs[KEPT]["why"],
            )
            for trial in self._study.trials
            if trial.state in _STATE
        )

    def curves(self) -> list[dict[CurveKey, Curve]]:
        """Learning curves of the finished trials' runs."""
        return [
            {
                CurveKey(task, seed, metric): {int(step): float(value) for step, value in points}
                for task, seed, metric, points in trial.user_attrs[KEPT]["curves"]
            }
            for trial in self._study.get_trials(states=(optuna.trial.TrialState.COMPLETE,))
        ]

    def _names(self, number: int) -> list[str]:
        """Parameters that a trial draws: trial 0 none whose own value lies outside of the space."""
        space, params = self.plan.space, self.plan.params
        return [name for name in space if number or space[name].holds(params[name])]

    def _unfinished(self) -> list[optuna.trial.FrozenTrial]:
        return [trial for trial in self._study.trials if not trial.state.is_finished()]


def describe(name: str, known: Any, stated: Any) -> str:
    """Which part of a plan's field is another now, in a few words."""
    if isinstance(known, Mapping) and isinstance(stated, Mapping):
        keys = sorted(key for key in {*known, *stated} if known.get(key) != stated.get(key))
        return f"{name} differs in {', '.join(keys)}"
    return f"{name} is {_brief(stated)}, there {_brief(known)}"


def _brief(value: Any) -> str:
    text = str(value)
    return f"{text[:16]}..." if len(text) > 40 else text


def _sampler(seed: int, number: int) -> optuna.samplers.BaseSampler:
    state = np.random.SeedSequence([seed, number]).generate_state(1)
    # Stated, as Optuna's default has changed: one parameter at a time, since trial 0 may lack some.
    return optuna.samplers.TPESampler(seed=int(state[0]), multivariate=False)


def _draw(trial: optuna.Trial, name: str, parameter: Parameter) -> Any:
    low, high, step = parameter.low, parameter.high, parameter.step
    if parameter.type is Kind.CATEGORICAL or low is None or high is None:
        choices = [_stored(parameter, choice) for choice in parameter.choices]
        return _restored(parameter, trial.suggest_categorical(name, choices))
    if parameter.type is Kind.INT:
        return trial.suggest_int(name, int(low), int(high), step=int(step or 1), log=parameter.log)
    return trial.suggest_float(name, low, high, step=step, log=parameter.log)


def _stored(parameter: Parameter, value: Any) -> Any:
    """A value as Optuna keeps it: choices as JSON, since it knows neither lists nor the difference between 1 and true."""
    return json.dumps(value, sort_keys=True) if parameter.type is Kind.CATEGORICAL else value


def _restored(parameter: Parameter, value: Any) -> Any:
    return json.loads(value) if parameter.type is Kind.CATEGORICAL else value
