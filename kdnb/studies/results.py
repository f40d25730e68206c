"""What a study has found: a row for every run, a row for every arm, and what to be warned of."""

import math
from collections.abc import Iterator, Mapping

import pandas as pd
from scipy import stats

from kdnb.analysis import holm, paired_difference
from kdnb.runs.options import option_word
from kdnb.studies.cost import Cost
from kdnb.studies.plan import Arm, Values
from kdnb.studies.progress import Failed, Finished, Progress, counted_learner

LEVEL = 0.05  # of the family of all comparisons with the baseline


def results_table(progress: Progress) -> pd.DataFrame:
    """A row for every run of the study that has ended, in the order of the arms.

    Args:
        progress: Of the study.

    Returns:
        Columns: ``arm``, ``phase`` (search or report), ``seed``, ``setting``, ``status`` (finished or the
        kind of failure), ``learner``, ``validation`` after the last epoch, ``last`` and ``selected`` test
        accuracy with ``selected_epoch`` (empty in the search, which must not see them), ``seconds``, and
        ``run``, the folder. Accuracies are in percent.
    """
    rows = []
    for name, arm in progress.study.arms.items():
        for trial, seed, spec in progress.searched(arm):
            rows.append({"arm": name, "phase": "search", "seed": seed} | _row(progress, arm, trial, spec))
        for seed, spec in progress.reported(arm):
            choice = progress.choice(arm)
            rows.append({"arm": name, "phase": "report", "seed": seed} | _row(progress, arm, choice, spec))
    found = pd.DataFrame([row for row in rows if "status" in row])
    if found.empty:
        return found
    hidden = ["last", "selected", "selected_epoch"]
    found.loc[found["phase"] == "search", [name for name in hidden if name in found]] = math.nan
    return found


def comparison(progress: Progress, costs: Mapping[str, Cost]) -> pd.DataFrame:
    """A row for every arm: what it chose, how it did, and how it differs from the baseline.

    Differences are paired by seed. The p values of all arms are corrected together by Holm's method.

    Args:
        progress: Of the study.

        costs: Of one run of each arm, by name.

    Returns:
        Indexed by arm. Columns: ``setting``; ``seeds`` that finished; ``mean`` and ``std`` of the test
        accuracy in percent after the last epoch; ``selected``, its mean at the epochs chosen on validation;
        ``difference`` from the baseline with its 95 % interval ``low`` and ``high``; ``p`` after correction;
        ``verdict``; ``compute``, the multiplications of a run relative to the baseline's; ``hours`` that the
        reported runs took.
    """
    study, runs = progress.study, results_table(progress)
    reported = runs[(runs["phase"] == "report") & (runs["status"] == "finished")] if len(runs) else runs
    rows = {}
    for name, arm in study.arms.items():
        own = reported[reported["arm"] == name] if len(reported) else reported
        choice = progress.choice(arm)
        row = {"setting": "" if choice is None else setting_words(choice), "seeds": len(own)}
        if len(own):
            row |= {"mean": own["last"].mean(), "std": own["last"].std(), "selected": own["selected"].mean()}
            row |= {"hours": own["seconds"].sum() / 3600}
            if name != study.baseline:
                row |= _difference(own, reported[reported["arm"] == study.baseline])
        row["compute"] = costs[name].macs / costs[study.baseline].macs
        rows[name] = row
    columns = ["setting", "seeds", "mean", "std", "selected", "difference", "low", "high", "p", "verdict"]
    found = pd.DataFrame.from_dict(rows, orient="index", columns=[*columns, "compute", "hours"])
    tested = found["p"].notna()
    found.loc[tested, "p"] = holm(found.loc[tested, "p"].tolist())
    found["verdict"] = [_verdict(row) for row in found.itertuples()]
    return found.rename_axis("arm")


def warnings(progress: Progress) -> list[str]:
    """What a reader of the comparison must know.

    Args:
        progress: Of the study.

    Returns:
        Sentences: values at the edge of their search, seeds that collapsed, runs that failed, runs of
        different versions, missing runs, and a study without a search.
    """
    study, found = progress.study, []
    if not study.searches:
        found.append("No arm was tuned: every arm ran with the settings of the file.")
    for arm in study.arms.values():
        found += _edges(progress, arm)
        found += _ends(progress, arm)
    found += _versions(progress)
    return found


def setting_words(values: Values) -> str:
    """A trial's values in words, such as ``lr=0.1, temperature=4``."""
    return ", ".join(f"{name}={option_word(_tuples(value))}" for name, value in values.items())


def _row(progress: Progress, arm: Arm, values: Values | None, spec: object) -> dict[str, object]:
    outcome = None if spec is None else progress.outcome(spec)
    if outcome is None:
        return {}
    row = {"setting": setting_words(values), "run": spec.name}
    if isinstance(outcome, Failed):
        return row | {"status": outcome.kind}
    learner = counted_learner(arm, outcome.record)
    metrics = outcome.record.metrics[learner]
    return row | {
        "status": "finished",
        "learner": learner,
        "validation": outcome.validation[learner],
        "last": metrics["last"],
        "selected": metrics["selected"],
        "selected_epoch": metrics["selected_epoch"],
        "seconds": outcome.record.seconds,
    }


def _difference(own: pd.DataFrame, baseline: pd.DataFrame) -> dict[str, float]:
    both = own.merge(baseline, on="seed", suffixes=("", "_baseline"))
    if len(both) < 2:
        return {}
    pair = both["last"].tolist(), both["last_baseline"].tolist()
    gain = paired_difference(*pair)
    # Runs that are equal in every seed differ by nothing for certain; the t test would divide 0 by 0.
    p = 1.0 if gain.low == gain.high == 0 else float(stats.ttest_rel(*pair).pvalue)
    return {"difference": gain.mean, "low": gain.low, "high": gain.high, "p": p}


def _verdict(row: tuple) -> str:
    if math.isnan(row.p):
        return ""
    if row.p >= LEVEL:
        return "no difference shown"
    return "above" if row.difference > 0 else "below"


def _edges(progress: Progress, arm: Arm) -> Iterator[str]:
    choice = progress.choice(arm)
    if choice is None or len(arm.trials) == 1:
        return
    for name, value in choice.items():
        tried = sorted({trial[name] for trial in arm.trials if isinstance(trial[name], int | float)})
        if len(tried) > 1 and value in (tried[0], tried[-1]):
            end = "smallest" if value == tried[0] else "largest"
            yield (
                f"{arm.name}: the chosen {name}={option_word(value)} is the {end} that was tried. "
                f"A {end.replace('est', 'er')} one may be better still."
            )


def _ends(progress: Progress, arm: Arm) -> Iterator[str]:
    """How the runs of an arm ended, where that is not as it should be."""
    outcomes = {seed: spec and progress.outcome(spec) for seed, spec in progress.reported(arm)}
    scores = {seed: _last(arm, found) for seed, found in outcomes.items() if isinstance(found, Finished)}
    for number in collapsed(list(scores.values())):
        seed = list(scores)[number]
        yield f"{arm.name}: seed {seed} collapsed to {scores[seed]:.1f} %. It counts in every number here."
    for seed, found in outcomes.items():
        if isinstance(found, Failed):
            yield f"{arm.name}: seed {seed} failed ({found.kind}: {found.message})."
    if missing := [seed for seed, found in outcomes.items() if found is None]:
        reason = ": no trial of its search succeeded" if _hopeless(progress, arm) else ""
        yield f"{arm.name}: {len(missing)} of {len(outcomes)} reported runs are missing{reason}."
    tried = [spec and progress.outcome(spec) for _, _, spec in progress.searched(arm)]
    if failed := [found for found in tried if isinstance(found, Failed)]:
        kinds = ", ".join(sorted({found.kind for found in failed}))
        yield f"{arm.name}: {len(failed)} of {len(tried)} runs of its search failed ({kinds})."


def collapsed(scores: list[float]) -> list[int]:
    """Which runs of one arm ended far below the others.

    Args:
        scores: Accuracies in percent, one a seed.

    Returns:
        The places of those below half the median.
    """
    half = pd.Series(scores, dtype=float).median() / 2
    return [place for place, score in enumerate(scores) if score < half]


def _last(arm: Arm, outcome: Finished) -> float:
    return outcome.record.metrics[counted_learner(arm, outcome.record)]["last"]


def _hopeless(progress: Progress, arm: Arm) -> bool:
    scores = progress.scores(arm)
    return bool(scores) and None not in scores and max(scores) == float("-inf")


def _versions(progress: Progress) -> Iterator[str]:
    seen = set()
    for arm in progress.study.arms.values():
        for _, spec in progress.reported(arm):
            outcome = spec and progress.outcome(spec)
            if isinstance(outcome, Finished):
                record = outcome.record
                seen.add((record.versions["kdnb"], record.versions["torch"], record.device))
    if len(seen) > 1:
        listed = "; ".join(f"kdnb {kdnb}, torch {torch}, {device}" for kdnb, torch, device in sorted(seen))
        yield f"The runs were made by different versions or on different devices: {listed}."


def _tuples(value: object) -> object:
    """A TOML array as the tuple that an option is."""
    return tuple(_tuples(part) for part in value) if isinstance(value, list) else value
