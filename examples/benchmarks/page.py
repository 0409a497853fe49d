"""The page of the benchmarks, examples/results/README.md: every figure and every verdict comes from the rows."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence

import analysis
import numpy as np
from analysis import INFONCE, mean_score
from results import (
    ARCTANH,
    CANDIDATES,
    FIXED,
    LABELS,
    OTHERS,
    SETTINGS,
    TASKS,
    TRANSFERRED,
    TUNED,
    Result,
    decisive,
    grid,
    regrets,
    signed,
)

TABLE_NOTE = """
*Regret*: 0 is the best of seven temperatures on the test set, 1 the worst of them, below 0 is better than all of them.
*Mean* and *worst* are of the data sets on which best and worst temperature differ by at least 0.01; *of all* is the
mean of all, but elsewhere a regret divides by noise. *Not inferior, worse, open*: data sets by the 95 % interval of the
paired difference to the τ that was tuned on validation, with a margin of 0.01 of the metric. *Win, tie, loss*: by the
mean difference alone. *Runs*: trainings for one usable model.
"""

HOW = """
Five tasks, fourteen losses; in a task all have the same net, number of steps and optimizer. Margin, seeds and
statistics were fixed in [protocol.md](../benchmarks/protocol.md) before the first run, and the harness withholds the
test set until all settings of a seed are trained. [All numbers](benchmarks/tables.md): every setting, paired
differences with intervals, transfer of τ, geometry of the embeddings, time. The tasks are small enough for two cores:
they rank losses at that budget. `python examples/benchmarks/table.py` recomputes this page from the CSV files, and
`python examples/benchmarks/run_all.py` continues the runs.
"""


FISHER = "arctanh fisher"  # the form that the candidates change
POINT = 0.95  # the threshold of keras_tfcl.evaluation.diagnose
SEEDS = 7  # of the protocol, as every run takes less than five minutes

FORMS = """
Two forms change arctanh with c = √(D − 2). *Centred* subtracts the mean of the batch from the normalised embeddings and
normalises them again. *Studentised* divides arctanh(s) by its standard deviation over the negatives of the batch, and
has c = √(D − 2) at most. A form would enter the library if it were ahead of arctanh with c = √(D − 2) by the margin on
three tasks.
"""

# Edit this when it is run.
NOT_RUN = """
- The tasks are small. Of the data sets in the protocol, Amazon Beauty and NCI1 were not run for want of time.
"""


def page(results: Sequence[Result], law_rows: Sequence[dict[str, str]]) -> str:
    parts = ["# Is a contrastive loss without a temperature as good as a tuned one?"]
    if results:
        parts += [answer(results), "## The table", overview(results), TABLE_NOTE.strip()]
        parts += ["![Regret by method and data set](benchmarks/regret.png)"]
        parts += ["## When to use it, and when not", advice(results)]
    parts += [
        "## The scale",
        scale_law(law_rows),
        "## Two other forms of arctanh",
        forms(results),
        "## Limits",
        incomplete(results) + "\n" + NOT_RUN.strip(),
    ]
    return "\n\n".join([*parts, "## How it was made", HOW.strip()]) + "\n"


def answer(results: Sequence[Result]) -> str:
    deciding = decisive(results)
    fixed, arctanh = (best(deciding, names) for names in (INFONCE, ARCTANH))
    low, high = difference(deciding, arctanh, fixed)
    hours = sum(result.hours(INFONCE) for result in results)
    lines = [f"**{headline(results)}** {len(results)} data sets, {seeds_of(results)}. {provisional(results)}".rstrip()]
    lines.append("")
    for name in ARCTANH:
        fine, worse, undecided = verdicts(results, name)
        names = [r.dataset for r in results if name != r.tuned and r.against(name, r.tuned).verdict == "worse"]
        where = f" ({', '.join(names)})" if names else ""
        lines.append(
            f"- {LABELS[name]}: {summary(deciding, name)}. Beside the τ tuned on validation it is not inferior on "
            f"{fine} of {len(results)} data sets, worse on {worse}{where}, open on {undecided}."
        )
    same = (f"{LABELS[name]} {', '.join(map(str, verdicts(results, name)))}" for name in (*FIXED, "learnable"))
    lines += [
        f"- The same rule for what needs no search either (not inferior, worse, open): {'; '.join(same)}.",
        f"- The rival is one fixed temperature for everything, which needs no search either. The best, "
        f"{LABELS[fixed]}: {summary(deciding, fixed)}. The best arctanh, {short(arctanh)}, minus it: mean regret "
        f"{signed(mean(deciding, arctanh) - mean(deciding, fixed))}, 95 % interval {signed(low)} to {signed(high)}. "
        "Both were picked after the fact, from three scales and seven temperatures.",
        f"- Tuning τ on validation: {summary(deciding, TUNED)}, for seven times the training ({hours:.1f} hours here).",
    ]
    if len(deciding) > 1:
        lines.append(f"- A τ that was tuned on another data set: {summary(deciding, TRANSFERRED)}.")
    return "\n".join(lines)


def headline(results: Sequence[Result]) -> str:
    """By rule: yes if not inferior to the tuned τ everywhere, no if worse somewhere, else open.

    As long as a data set has fewer than five seeds, the state by mean differences alone.
    """
    if min(result.seeds for result in results) < 5:
        counts = [f"{short(name)}: {' / '.join(map(str, outcomes(results, name)))}" for name in ARCTANH]
        return f"Not decided yet. So far, win / tie / loss against a τ tuned on validation, {', '.join(counts)}."
    answers = []
    for name in ARCTANH:
        fine, worse, _ = verdicts(results, name)
        no = f"no (worse on {worse} of {len(results)} data sets)" if worse else "open"
        answers.append(f"{short(name)}: {'yes' if fine == len(results) else no}")
    return ", ".join(answers) + "."


def outcomes(results: Sequence[Result], name: str) -> list[int]:
    """Wins, ties and losses against the tuned τ."""
    found = [result.against(name, result.tuned).outcome for result in results]
    return [found.count(kind) for kind in ("win", "tie", "loss")]


def overview(results: Sequence[Result]) -> str:
    rows = []
    for name in (*ARCTANH, TUNED, *FIXED, TRANSFERRED, *OTHERS):
        compared = ["–", "–"]
        if name not in (TUNED, TRANSFERRED):
            compared = [", ".join(map(str, of(results, name))) for of in (verdicts, outcomes)]
        values, of_all = regrets(decisive(results), name), regrets(results, name)
        figures = [number(np.mean(values)), number(max(values))] if values else ["–", "–"]
        figures.append(number(np.mean(of_all)) if of_all else "–")
        rows.append([LABELS[name], *figures, *compared, "7" if name == TUNED else "1"])
    return grid(
        ["method", "mean regret", "worst", "of all", "not inferior, worse, open", "win, tie, loss", "runs"], rows
    )


def advice(results: Sequence[Result]) -> str:
    """Recommendations, each with the figures that it rests on; which one is printed depends on them."""
    deciding = decisive(results)
    arctanh, fixed = best(deciding, ARCTANH), best(deciding, INFONCE)
    low, high = difference(deciding, arctanh, fixed)
    regret_of = {name: mean(deciding, name) for name in (*ARCTANH, *INFONCE, *OTHERS, TUNED)}
    figures = f"mean regret {number(regret_of[arctanh])} beside {number(regret_of[fixed])} of {LABELS[fixed]}"
    if high < 0:
        first = f"**Without a search, take arctanh with {short(arctanh)}.** It is ahead of every fixed τ ({figures})."
    elif low > 0:
        first = f"**Without a search, take {LABELS[fixed]}.** It is ahead of arctanh at every scale ({figures})."
    else:
        first = (
            f"**Without a search, take arctanh with {short(arctanh)} or {LABELS[fixed]}.** These data do not tell "
            f"them apart ({figures})."
        )
    lines = [first]
    nearest = min(INFONCE, key=lambda name: abs(regret_of[name] - regret_of["arctanh 2"]))
    lines.append(
        f"**The paper's scale 2** has the mean regret {number(regret_of['arctanh 2'])}; the nearest fixed temperature "
        f"is {LABELS[nearest]} with {number(regret_of[nearest])}. Near s = 0 its logit has slope 2, as τ = 0.5 has."
    )
    gain = regret_of[fixed] - regret_of[TUNED]
    verb = "pays" if gain > 0.05 else "hardly pays"
    lines.append(
        f"**A search for τ {verb}**: its mean regret is {number(regret_of[TUNED])}, and "
        f"{LABELS[fixed]} for everything has {number(regret_of[fixed])}."
    )
    for name in ("learnable", "pps"):
        level = "behind" if regret_of[name] > regret_of[fixed] + 0.05 else "no worse than"
        lines.append(f"**{LABELS[name]}** is {level} {LABELS[fixed]} (mean regret {number(regret_of[name])}).")
    points = {name: [result.dataset for result in results if point(result, name)] for name in SETTINGS}
    if any(points.values()):
        listed = "; ".join(f"{LABELS[name]}, on {', '.join(where)}" for name, where in points.items() if where)
        lines.append(
            f"**Almost one point** (mean cosine of different samples above {POINT}) are the embeddings that the loss "
            f"sees with {listed}. The encoder's features before the projector can still differ; without a projector "
            "nothing is left. `CollapseMonitor` names it while it happens."
        )
    ahead = [result.dataset for result in deciding if result.regret("hard 0.3") < 0]
    if ahead:
        lines.append(
            f"**Hard negatives** at τ = 0.3 are ahead of every temperature on {len(ahead)} of {len(deciding)} data "
            f"sets ({', '.join(ahead)}): which negatives count can matter more than the temperature."
        )
    return "\n".join(f"- {line}" for line in lines)


def forms(results: Sequence[Result]) -> str:
    """The two candidates beside the form that they change, and whether they would enter the library."""
    parts, rows = [], []
    for name in CANDIDATES:
        compared = [(r, analysis.paired(r.candidates[name], r.test[FISHER])) for r in results if name in r.candidates]
        if compared:
            parts.append(verdict_of_form(name, compared))
        rows += [[LABELS[name], r.dataset, str(d.seeds), interval(d), d.outcome] for r, d in compared]
    if not rows:
        return f"{FORMS.strip()} They have not been run yet."
    wins, ties, losses = outcomes(results, FISHER)
    parts.append(
        "√(D − 2) as a scale with a name would need the same beside the τ tuned on validation. Win / tie / loss: "
        f"{wins} / {ties} / {losses}. {'It enters' if wins >= 3 else 'It does not enter'} the library."
    )
    table = grid(["form", "data set", "seeds", f"minus {LABELS[FISHER]}, 95 % interval", "outcome"], rows)
    return "\n\n".join([FORMS.strip(), "\n".join(f"- {part}" for part in parts), table])


def verdict_of_form(name: str, compared: Sequence[tuple[Result, analysis.Difference]]) -> str:
    """Counts a task as won if the form wins on one of its data sets and loses on none."""
    outcomes: dict[str, set[str]] = defaultdict(set)
    for result, difference in compared:
        outcomes[result.task].add(difference.outcome)
    won = sum("win" in found and "loss" not in found for found in outcomes.values())
    counts = [sum(difference.outcome == kind for _, difference in compared) for kind in ("win", "tie", "loss")]
    enters = "It enters" if won >= 3 else "It does not enter"
    return (
        f"**{LABELS[name]}**: win / tie / loss {' / '.join(map(str, counts))} on {len(compared)} data sets, ahead on "
        f"{won} of {len(outcomes)} tasks. {enters} the library."
    )


def interval(difference: analysis.Difference) -> str:
    return f"{signed(difference.mean, 4)} [{signed(difference.low, 4)}, {signed(difference.high, 4)}]"


def point(result: Result, name: str) -> bool:
    """Whether the embeddings of a setting have collapsed to a point."""
    return float(np.mean([float(row["mean_cosine"]) for row in result.rows[name]])) > POINT


def provisional(results: Sequence[Result]) -> str:
    """A warning as long as a data set has fewer seeds than the protocol asks for, or a task is missing."""
    if min(result.seeds for result in results) >= SEEDS and {result.task for result in results} == set(TASKS):
        return ""
    few = " One seed has no interval, and two have a wide one: *open* says no more than that."
    text = "Provisional: the runs of the protocol are not complete, and this changes with them."
    return text + few * (min(result.seeds for result in results) < 3)


def incomplete(results: Sequence[Result]) -> str:
    lines = []
    for task, title in TASKS.items():
        own = [result for result in results if result.task == task]
        lacking = [f"{result.dataset}: {result.seeds} of {SEEDS} seeds" for result in own if result.seeds < SEEDS]
        if lacking or not own:
            lines.append(f"- {title.capitalize()}: {', '.join(lacking) or 'no seed is complete'}.")
    flat = [result.dataset for result in results if not analysis.temperature_matters(result.test)]
    if flat:
        lines.append(
            f"- The temperature hardly matters (best and worst differ by less than 0.01) on {', '.join(flat)}."
        )
    untrained = [text for text in map(better_without_training, results) if text]
    if untrained:
        lines.append(
            f"- What needs no contrastive training is ahead of the best temperature on {'; '.join(untrained)}."
        )
    return "\n".join(lines)


def better_without_training(result: Result) -> str:
    """The data set and its best baseline, if that is ahead of every temperature; or nothing."""
    top = max(mean_score(result.test[setting]) for setting in INFONCE)
    own = {name: score for name, score in result.baselines.items() if not name.endswith("published")}
    name = max(own, key=lambda name: own[name], default="")
    if not name or own[name] <= top:
        return ""
    return f"{result.dataset} ({name} {own[name]:.3f}, best τ {top:.3f})"


def number(value: float) -> str:
    return f"{value:.2f}".replace("-", "−")


def verdicts(results: Sequence[Result], name: str) -> tuple[int, int, int]:
    """Numbers of data sets on which a method is not inferior to the tuned τ, worse, and neither."""
    found = [result.against(name, result.tuned).verdict for result in results if name != result.tuned]
    worse, undecided = found.count("worse"), found.count("open")
    return len(results) - worse - undecided, worse, undecided


def best(results: Sequence[Result], names: Sequence[str]) -> str:
    return min(names, key=lambda name: mean(results, name))


def mean(results: Sequence[Result], name: str) -> float:
    return float(np.mean(regrets(results, name)))


def summary(results: Sequence[Result], name: str) -> str:
    values = regrets(results, name)
    worst = results[int(np.argmax(values))].dataset
    return f"mean regret {number(np.mean(values))}, worst {number(max(values))} ({worst})"


def difference(results: Sequence[Result], first: str, second: str) -> tuple[float, float]:
    pairs = zip(regrets(results, first), regrets(results, second), strict=True)
    return analysis.bootstrap_interval([a - b for a, b in pairs])


def short(name: str) -> str:
    return LABELS[name].removeprefix("arctanh, ").partition(" (the")[0]


def seeds_of(results: Sequence[Result]) -> str:
    least, most = (function(result.seeds for result in results) for function in (min, max))
    if least == most:
        return f"{least} seed{'s' * (least > 1)} each"
    return f"{least} to {most} seeds each"


def scale_law(rows: Sequence[dict[str, str]]) -> str:
    """The best scale of each dimension and batch size, and the slope of log c* on log D."""
    scores: dict[str, dict[int, dict[float, float]]] = defaultdict(lambda: defaultdict(dict))
    for row in rows:
        scores[row["dataset"]][int(row["seed"])][float(row["setting"].split()[1])] = float(row["linear_accuracy"])
    scales = sorted({scale for seeds in scores.values() for of_seed in seeds.values() for scale in of_seed})
    complete = {
        name: [analysis.best_scale(of_seed) for of_seed in seeds.values() if len(of_seed) == len(scales)]
        for name, seeds in scores.items()
    }
    complete = {name: values for name, values in complete.items() if values}
    if not complete:
        return "The scale law (`scale_law.py`: five dimensions, five scales) has not been run yet."
    lines = []
    for name, values in complete.items():
        centre = float(np.exp(np.mean(np.log(values))))
        nearest = min(scales, key=lambda scale: abs(math.log(scale / centre)))
        own = [row for row in rows if row["dataset"] == name and float(row["setting"].split()[1]) == nearest]
        rank = np.mean([float(row["effective_rank"]) for row in own])
        dimension = int(name[2:]) if name.startswith("D=") else 128
        shown = ", ".join(f"{value:.1f}" for value in values)
        lines.append([name.replace("=", " = "), f"{math.sqrt(dimension - 2):.1f}", shown, f"{rank:.0f}"])
    text = grid(["", "√(D − 2)", "best scale of each seed", "effective rank at the nearest scale"], lines)
    dimensions = {int(name[2:]): values for name, values in complete.items() if name.startswith("D=")}
    if len(dimensions) > 2:
        seeds = min(len(values) for values in dimensions.values())
        slope, low, high = analysis.slope(list(dimensions), np.array([v[:seeds] for v in dimensions.values()]))
        text += (
            f"\n\nThe slope of log c* on log D is {signed(slope)}, 95 % interval {signed(low)} to {signed(high)} "
            f"(validation images, {seeds} seed{'s' * (seeds > 1)}). 1/2 would support √(D − 2), 0 a constant scale."
        )
    return text
