"""The colour of each training, which is the same in every plot of the page."""

from __future__ import annotations

# Of lines on light and on dark ground.
COLOURS = {
    "v05": ("#7a8087", "#a9b2bc"),
    "v10": ("#0072b2", "#56b4e9"),
    "v15": ("#d55e00", "#f0803c"),
    "v15_mppi": ("#c99700", "#e6c34a"),
    "v2_ensemble": ("#00795a", "#3ccf9f"),
    "v20": ("#c0529a", "#ef9fd3"),
    "v25": ("#6a3fb5", "#b79bf0"),
    "v30": ("#b3123c", "#ff8f8f"),
    "v4": ("#16202b", "#ffffff"),
    "model_free": ("#0b8fa8", "#5fd6ea"),
    "rollout_5": ("#d98a1f", "#f5bf6b"),
    "rollout_15": ("#4f8a10", "#a4d65e"),
    "rollout_50": ("#2a4b8d", "#8fb3ff"),
}
DASHES = 4  # that are told apart at the width of a line
# Rollouts stand in a plot with v30, which has the last dash.
ROLLOUTS = [label for label in COLOURS if label.startswith("rollout_")]


def choose_style(label: str) -> str:
    """The CSS classes of a training's lines, dots and bars."""
    if label not in COLOURS:
        return "c0 d0"
    order = ROLLOUTS if label in ROLLOUTS else list(COLOURS)
    return f"of-{label} d{order.index(label) % DASHES}"


def make_stylesheet() -> str:
    light, dark = (
        "".join(f".of-{label} {{ --own: {pair[i]}; }}\n" for label, pair in COLOURS.items())
        for i in range(2)
    )
    return f"{light}@media (prefers-color-scheme: dark) {{\n{dark}}}\n"
