"""The trials of a search in Optuna's storage (SQLite): who draws them, what is kept of each."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
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
_NO_PRUNER = optuna.pruners.NopPruner()


class Trials:
    """The trials of one plan, those of earlier sessions included.

    Trial 0 is that of the submission's own parameters; the others are drawn by TPE with a generator of their own, made from the
    plan's seed and the trial's number. Of ``plan.parallel`` trials at once, trial n is drawn from what trials 0 to n - ``parallel``
    came to; those after them count as under way (constant liar), also where one has ended. So a trial depends on the plan and on the
    trials before it alone, not on which of them ends first, and a search that was interrupted draws what it would have drawn.
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
            pruner=_NO_PRUNER,
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

    def begin(
        self, under_way: Collection[int] = (), below: int | None = None
    ) -> tuple[int, dict[str, Any]] | None:
        """Number and searched parameters of the next trial that is not ``under_way``: one that was when an earlier session ended, or else a
        new one. None where its number is not ``below`` that, and while one that it would be drawn from has not ended."""
        trials = self._study.trials
        for trial in trials[:below]:
            if trial.state not in _STATE and trial.number not in under_way:
                return trial.number, self._params(trial)
        number = len(trials)
        if below is not None and number >= below:
            return None
        if any(trial.state not in _STATE for trial in trials[: self.known(number)]):
            return None
        drawn = self._draw(number)
        # Number and parameters are stored at once: a session that ends in between leaves no half of a trial.
        self._study.add_trial(drawn)
        return number, self._params(drawn)

    def known(self, number: int) -> int:
        """Trials below this have ended, and tell what they came to, when trial ``number`` is drawn."""
        return max(0, number - self.plan.parallel + 1)

    def end(self, trial: Trial, curves: Mapping[CurveKey, Curve]) -> None:
        """Keep what came of a trial that was begun, and the learning curves of its runs."""
        running = optuna.Trial(self._study, self._study.trials[trial.number]._trial_id)
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
                params=self._params(trial),
                value=trial.value if trial.state is optuna.trial.TrialState.COMPLETE else None,
                values=trial.user_attrs[KEPT]["values"],
                seconds=trial.user_attrs[KEPT]["seconds"],
                why=trial.user_attrs[KEPT]["why"],
            )
            for trial in self._study.trials
            if trial.state in _STATE
        )

    def curves(self, number: int) -> list[dict[CurveKey, Curve]]:
        """Learning curves of the runs of the finished trials that trial ``number`` knows of."""
        return [
            {
                CurveKey(task, seed, metric): {int(step): float(value) for step, value in points}
                for task, seed, metric, points in trial.user_attrs[KEPT]["curves"]
            }
            for trial in self._study.trials[: self.known(number)]
            if trial.state is optuna.trial.TrialState.COMPLETE
        ]

    def _draw(self, number: int) -> optuna.trial.FrozenTrial:
        """Trial ``number``, drawn in memory from as much as it may know of the others."""
        known = self.known(number)
        study = optuna.create_study(
            direction=self._study.direction, sampler=_sampler(self.plan.seed, number), pruner=_NO_PRUNER
        )
        study.add_trials(
            trial if trial.number < known else _running(trial) for trial in self._study.trials[:number]
        )
        space, params = self.plan.space, self.plan.params
        names = list(space)
        if number == 0:
            # Its own values, where the space has them.
            names = [name for name in space if space[name].holds(params[name])]
            study.enqueue_trial({name: _stored(space[name], params[name]) for name in names})
        trial = study.ask()
        for name in names:
            _suggest(trial, name, space[name])
        return _running(study.trials[number])

    def _params(self, trial: optuna.trial.FrozenTrial) -> dict[str, Any]:
        return {name: _restored(self.plan.space[name], value) for name, value in trial.params.items()}


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
    # Stated, as Optuna's defaults have changed: one parameter at a time, since trial 0 may lack some.
    return optuna.samplers.TPESampler(seed=int(state[0]), multivariate=False, constant_liar=True)


def _running(trial: optuna.trial.FrozenTrial) -> optuna.trial.FrozenTrial:
    """A trial as it was when it began."""
    return optuna.trial.create_trial(
        state=optuna.trial.TrialState.RUNNING, params=trial.params, distributions=trial.distributions
    )


def _suggest(trial: optuna.Trial, name: str, parameter: Parameter) -> None:
    low, high, step = parameter.low, parameter.high, parameter.step
    if parameter.type is Kind.CATEGORICAL or low is None or high is None:
        trial.suggest_categorical(name, [_stored(parameter, choice) for choice in parameter.choices])
    elif parameter.type is Kind.INT:
        trial.suggest_int(name, int(low), int(high), step=int(step or 1), log=parameter.log)
    else:
        trial.suggest_float(name, low, high, step=step, log=parameter.log)


def _stored(parameter: Parameter, value: Any) -> Any:
    """A value as Optuna keeps it: choices as JSON, since it knows neither lists nor the difference between 1 and true."""
    return json.dumps(value, sort_keys=True) if parameter.type is Kind.CATEGORICAL else value


def _restored(parameter: Parameter, value: Any) -> Any:
    return json.loads(value) if parameter.type is Kind.CATEGORICAL else value
