"""Who is compared with whom, pair by pair, as the documentation of the losses says."""

import numpy as np

IGNORED, UNLABELLED = -7, -1


def related(labels, rule, i, j):
    """1 for a positive, -1 for a negative, 0 where view i[1] of sample i[0] is not compared with j."""
    (b, v), (c, w) = i, j
    same = bool((labels[b] * labels[c]).any()) or b == c if labels.ndim == 2 else labels[b] == labels[c]
    if labels.ndim == 1 and IGNORED in (labels[b], labels[c]) and rule.get("ignore_class"):
        return 0
    if labels.ndim == 1 and labels[b] == UNLABELLED and rule.get("unlabelled_class"):
        same = b == c
    roles = rule.get("roles")
    if roles:
        if "anchor" not in (roles[v], roles[w]) or roles[v] == roles[w] or roles[v] == "negative":
            return 0
        if roles[v] == "positive" and not rule.get("symmetric"):
            return 0
        if roles[w] == "negative":
            return -1
    elif i == j or (rule.get("cross_view_only") and v == w):
        return 0
    if rule.get("same_label") == "ignore" and same and b != c:
        return 0
    return 1 if same else -1


def masks(labels, rule, views):
    """Positives and negatives `(B * V, B * V)`."""
    all_views = [(b, v) for b in range(len(labels)) for v in range(views)]
    relation = np.array([[related(labels, rule, i, j) for j in all_views] for i in all_views])
    return relation > 0, relation < 0
