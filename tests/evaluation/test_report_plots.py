"""The report's plots: positions, distinguishable styles, contrast, and published scores."""

import itertools
import re

import numpy as np
import pytest

from reported import SEEDS, make_results, score, write_run
from test_report import Reader, check
from worldmodel.evaluation.plotting import media
from worldmodel.evaluation.plotting import style as plots
from worldmodel.evaluation.quality import quality_plots
from worldmodel.evaluation.report import glossary, learning_section, panels, reference, svg
from worldmodel.evaluation.report.page import STYLESHEET, render_page
from worldmodel.evaluation.report.reported_run import read_run

LIGHT, DARK = re.search(
    r":root \{(.*?)\}.*?:root \{(.*?)\}", STYLESHEET.read_text(), re.DOTALL
).groups()


def colours(text):
    return dict(re.findall(r"--([\w]+): (#[0-9a-f]{6})", text))


def style_of(kind):
    """The colour and the dash of a line's CSS classes."""
    rules = dict(re.findall(r"(?<!\w)\.(\w+) \{([^}]*)\}", STYLESHEET.read_text()))
    body = " ".join(rules[name] for name in kind.split())
    return re.search(r"--own: var\(--(\w+)\)", body)[1], re.search(
        r"stroke-dasharray: ([^;]*);", body
    )[1]


def luminance(colour):
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one, other):
    a, b = sorted((luminance(one), luminance(other)))
    return (b + 0.05) / (a + 0.05)


@pytest.mark.parametrize("text", [LIGHT, DARK], ids=["light", "dark"])
def test_text_and_lines_have_enough_contrast(text):
    found = colours(text)
    for name, ground in itertools.product(("ink", "soft", "strong"), ("ground", "panel")):
        assert contrast(found[name], found[ground]) >= 4.5, name
    for name in (f"c{i}" for i in range(svg.STYLES)):
        assert contrast(found[name], found["panel"]) >= 3, name


def test_seeds_mean_and_published_curves_have_distinct_styles():
    styles = [style_of(svg.get_style_classes(s)) for s in [*range(8), svg.MEAN, *svg.REFERENCES]]
    assert len(set(styles)) == len(styles)
    own = {colour for colour, _ in styles[:8]}
    assert not own & {colour for colour, _ in styles[8:]}


def test_eight_seeds_their_mean_and_published_curves(tmp_path):
    task = ("--env.task", "dmc:walker_walk", "--run.frames", "200000")
    seeds = [
        read_run(
            write_run(
                tmp_path / f"seed{i}",
                *task,
                "--run.seed",
                str(i),
                scores=[score(f, f / 300 + i) for f in (60_000, 120_000)],
            )
        )
        for i in range(8)
    ]
    text, missing = render_page(seeds)
    check(text)
    drawn = learning_section.render_scores(seeds, [])
    kinds = re.findall(r'<path class="line ([^"]*?)(?: thin)?" d="M0,6H28"', drawn)
    assert kinds[:8] == [svg.get_style_classes(i) for i in range(8)] and kinds[8] == svg.MEAN
    assert kinds[9:] == list(svg.REFERENCES[: len(kinds) - 9]) and len(kinds) > 10
    assert drawn.count("training episodes") <= 1
    assert any(
        f"seeds.json has not been measured: ./wm eval {tmp_path}/seed0 {tmp_path}/seed1" in x
        for x in missing
    )


def test_plots_are_svg_elements_instead_of_pictures(tmp_path):
    path = write_run(
        tmp_path / "seed0", **{name.removesuffix(".json"): x for name, x in make_results().items()}
    )
    for name in ("model", "compare"):
        media.save_png(path / "eval" / f"{name}.png", np.zeros((900, 1600, 3), np.uint8))
    text, missing = render_page([read_run(path)])
    reader = check(text)
    assert "data:image/png" not in text and reader.images == []
    for title in (
        "picture MSE",
        "picture PSNR",
        "SSIM",
        "latent KL",
        "reward error",
        "reward correlation",
        "Brier",
        "calibration error",
        "share of episodes that continue",
        "imagined returns of plans",
        "imagined returns of policies",
        "imagined minus real",
        "policies: imagined minus real",
        "action sensitivity",
        "simulator state",
        "up is better, left is quicker",
    ):
        assert f"<figcaption><b>{title}" in text or re.search(
            f"<figcaption><b>[^<]*{title}", text
        ), title
    planners = text[text.index('id="planners"') :]
    drawn = planners[: planners.index("</section>")]
    assert (
        "larger marks have more candidates: 8, 32</span>" in drawn
        and drawn.count('class="spot') == 3 + 2
    )
    assert drawn.count("scale(1.4)") == 1


def test_every_plot_of_a_model_has_an_explanation(tmp_path):
    content = make_results()["model.json"]
    drawn = panels.render_quality_plots(content)
    missing = set(glossary.PLOT_NOTES) - {
        key for key, line in glossary.PLOT_NOTES.items() if f">{line}" in drawn
    }
    assert not missing and drawn.count('class="note"') == drawn.count("<figure")


def test_without_terminations_a_note_replaces_three_plots():
    content = make_results()["model.json"]
    titles = ("Brier", "calibration error", "share of episodes that continue")
    content["continuation"]["ends_seen"] = 3
    drawn = panels.render_quality_plots(content)
    assert all(title in drawn for title in titles) and glossary.NO_ENDINGS_NOTE not in drawn
    content["continuation"]["ends_seen"] = 0
    drawn = panels.render_quality_plots(content)
    assert not any(title in drawn for title in titles) and glossary.NO_ENDINGS_NOTE in drawn


def test_kinds_of_plans_look_as_in_model_png():
    assert panels.PLAN_STYLES.keys() == quality_plots.PLAN_STYLES.keys()
    shapes = {"o": 0, "s": 1, "D": 3}  # circle, square and diamond among MARK_SHAPES
    for name, (colour, marker) in quality_plots.PLAN_STYLES.items():
        style, mark = panels.PLAN_STYLES[name]
        assert mark == shapes[marker]
        assert colour == (plots.COLORS[style] if isinstance(style, int) else "#999999")
    assert style_of(svg.get_style_classes(panels.PLAN_STYLES["random"][0]))[0] == "soft"


def test_clipped_values_are_noted_and_others_are_shown():
    shallow = [
        svg.Series("one", [(0, 0.9), (9, -0.3)]),
        svg.Series("two", [(0, 0.5), (9, 0.1)], 1),
    ]
    drawn = svg.plot_lines("x", shallow, "steps", floor=-1.05)
    bottom = svg.HEIGHT - svg.BOTTOM
    assert (
        f"{svg.WIDTH - svg.RIGHT}.0,{bottom}.0" in drawn
        and "goes down" not in drawn
        and "all below" not in drawn
    )
    deep = [*shallow, svg.Series("<three>", [(0, -1e4), (9, -2.0)], 2)]
    drawn = svg.plot_lines("x", deep, "steps", floor=-1.05)
    assert (
        "&lt;three&gt; goes down to -1e+04" in drawn and "&lt;three&gt; (all below -1.05)" in drawn
    )


def test_marks_at_the_ends_of_axes_have_a_margin():
    drawn = svg.plot_lines("x", [svg.Series("one", [(0, 0), (10, 4)], intervals=True)], "steps")
    places = [tuple(map(float, at)) for at in re.findall(r"translate\(([\d.]+),([\d.]+)\)", drawn)]
    for x, y in [place for place in places if place != (14.0, 6.0)]:
        assert (
            svg.LEFT + 8 <= x <= svg.WIDTH - svg.RIGHT - 8
            and svg.TOP + 8 <= y <= svg.HEIGHT - svg.BOTTOM - 8
        )


def test_a_label_avoids_other_lines():
    line = svg.Series("line", [(0, 0), (9.5, 9.6)])
    places = []
    for y in (9.0, 10.0):
        drawn = svg.plot_lines(
            "x",
            [line, svg.Series("one", [(10, y)], 1, labels=["one"]), svg.Series("z", [(5, 0)])],
            "x",
        )
        label, mark = (
            re.search(r'class="label"[^>]* y="([\d.]+)"', drawn),
            re.search(r"c1[^>]*,([\d.]+)\) scale", drawn),
        )
        places.append(float(label[1]) - float(mark[1]))
        # Which is drawn over it
        assert drawn.index('class="label"') < drawn.rindex('<path class="line')
    assert places[0] > 0 > places[1]


def test_equal_losses_are_drawn_once(tmp_path):
    lines = [
        {"frames": f, "train/loss/dyn": 1.0 + f, "train/loss/rep": 1.0 + f, "train/kl": 1.5 + f}
        for f in (1, 2)
    ]
    drawn = learning_section.render_losses(
        [read_run(write_run(tmp_path / "seed0", metrics=lines))], []
    )
    assert (
        drawn.count("<figure") == 2
        and "<b>loss/dyn = loss/rep</b>" in drawn
        and "<b>kl</b>" in drawn
    )
    for key in ("loss/dyn", "loss/rep", "kl"):
        assert glossary.LOSS_NOTES[key] in drawn


def test_published_scores_far_beyond_a_run_are_left_out(tmp_path):
    path = write_run(
        tmp_path / "seed0", "--env.task", "dmc:cartpole_balance", scores=[score(48_000, 900.0)]
    )
    drawn = learning_section.render_scores([read_run(path)], [])
    table = drawn[drawn.index("published, at the nearest") :]
    assert "Left out" in table and "Dreamer (first)" in table[table.index("Left out") :]
    assert "Dreamer (first)" not in table[: table.index("</table>")] and "DreamerV3" in table


def test_rollouts_are_not_advised_for_models_that_cannot_draw(tmp_path):
    path = write_run(tmp_path / "seed0", "--env.obs", "state")
    blind = write_run(
        tmp_path / "seed1", "--loss.probe", "false", "--loss.objective", "{contrastive: 1.0}"
    )
    for run in (path, blind):
        text, missing = render_page([read_run(run)])
        assert "imagine" not in "".join(missing) and f"{run} imagine" not in text
    assert any(
        "imagine" in line for line in render_page([read_run(write_run(tmp_path / "seed2"))])[1]
    )


def test_wide_pictures_scroll_and_keep_their_width(tmp_path):
    path = write_run(tmp_path / "seed0")
    for name, width in (("long", 1600), ("latents", 320)):
        media.save_png(path / "eval" / f"{name}.png", np.zeros((64, width, 3), np.uint8))
    picture = r'(<div class="scroll" tabindex="0" role="region"[^>]*>)?<img [^>]*class="([\w ]*)"'
    found = re.findall(picture, render_page([read_run(path)])[0])
    assert [(bool(box), kind) for box, kind in found] == [(True, "paper wide"), (False, "paper")]


def test_several_runs_show_their_aggregate(tmp_path):
    seeds = [
        read_run(write_run(tmp_path / f"seed{i}", "--run.seed", str(i), seeds=SEEDS))
        for i in range(2)
    ]
    text, missing = render_page(seeds)
    assert "2.2 (1.2 to 3.2)" in text and "IQM over the runs of pointmass" in text
    assert not any("seeds.json" in line for line in missing)


def test_the_page_begins_with_the_curve_and_ends_with_how_to_reproduce_it(tmp_path):
    ids = Reader(render_page([read_run(write_run(tmp_path / "seed0"))])[0]).ids
    parts = [name for name in ids if not name.startswith("h-") and name != "main"]
    assert parts[:2] == ["scores", "returns"] and parts[-3:] == [
        "configuration",
        "environment",
        "reproduce",
    ]


def test_the_first_published_point_is_drawn_beside_a_shorter_run(tmp_path):
    path = write_run(
        tmp_path / "seed0", "--env.task", "dmc:quadruped_walk", scores=[score(30_000, 100.0)]
    )
    drawn = learning_section.render_scores([read_run(path)], [])
    assert "nearest number of frames, 50,000; this run has 30,000" in drawn
    assert 'class="spot r0"' in drawn and ">50k</text>" in drawn and ">DreamerV3</text>" in drawn
    longer = write_run(
        tmp_path / "seed1", "--env.task", "dmc:quadruped_walk", scores=[score(210_000, 100.0)]
    )
    assert (
        "nearest number of frames, 200,000; this run has 210,000"
        in learning_section.render_scores([read_run(longer)], [])
    )


@pytest.mark.parametrize(
    ("task", "obs", "names", "words"),
    [
        (
            "dmc:walker_walk",
            "state",
            {"dreamerv3_state", "tdmpc2_state"},
            "vector with action repeat",
        ),
        (
            "distract:dmc:walker_run",
            "pixels",
            {"dreamerpro_video", "tpc_video", "dreamerv2_video"},
            "natural videos",
        ),
        (
            "dmc:walker_walk",
            "pixels",
            {"dreamerv3", "dreamerv2", "dreamer", "drqv2", "planet"},
            "standard picture",
        ),
    ],
)
def test_each_setting_has_its_own_published_runs(tmp_path, task, obs, names, words):
    found = reference.load_published_scores(task, obs)
    assert {method.method for method in found} == names and len(found) <= len(svg.REFERENCES)
    assert all(
        len(method.frames) == len(method.std) and max(method.frames) <= 505_000 for method in found
    )
    path = write_run(
        tmp_path / "seed0", "--env.task", task, "--env.obs", obs, scores=[score(100_000, 1.0)]
    )
    drawn = learning_section.render_scores([read_run(path)], [])
    assert words in drawn and ("are from training episodes" in drawn) == any(
        "v3" in name for name in names
    )


def test_constant_and_huge_numbers_have_axes():
    for numbers in ([1e300, 1e300], [-1e300, 1e300], [1e17, 1e17], [3.1, 4.9]):
        for log in (False, True):
            axis = svg.Axis(numbers, 0, 100, log)
            assert 2 <= len(axis.ticks()) <= 12 and all(
                -1e-6 <= axis.position(t) <= 100 + 1e-6 for t in axis.ticks()
            )


@pytest.mark.parametrize(
    ("low", "high"), [(0, 1), (3, 3), (-5, 1e6), (1e-9, 2e-9), (0.02, 0.021), (-3, -3)]
)
def test_axes_have_a_few_round_ticks_within_their_ends(low, high):
    axis = svg.Axis([low, high], 50, 350)
    ticks = axis.ticks()
    assert 2 <= len(ticks) <= 8 and all(50 - 1e-6 <= axis.position(t) <= 350 + 1e-6 for t in ticks)


@pytest.mark.parametrize(("low", "high"), [(1e-8, 1), (0.5, 40), (3, 2000), (1, 1e30)])
def test_logarithmic_axes_too(low, high):
    axis = svg.Axis([low, high], 200, 10, log=True)
    ticks = axis.ticks()
    assert 2 <= len(ticks) <= 8 and all(10 - 1e-6 <= axis.position(t) <= 200 + 1e-6 for t in ticks)
    assert axis.position(low) == pytest.approx(200) and axis.position(high) == pytest.approx(10)


def test_a_plot_draws_its_numbers_where_they_are():
    drawn = svg.plot_lines(
        "a < b", [svg.Series("one", [(0, 0), (10, 4)]), svg.Series("two", [(5, 2)], 1)], "x & y"
    )
    assert (
        f"M{svg.LEFT}.0,{svg.HEIGHT - svg.BOTTOM}.0L{svg.WIDTH - svg.RIGHT}.0,{svg.TOP}.0" in drawn
    )
    assert (
        "a &lt; b" in drawn
        and "x &amp; y" in drawn
        and 'class="spot' in drawn
        and Reader(drawn).faults == []
    )
    assert svg.plot_lines("empty", [svg.Series("one", [])], "x") == ""
    many = svg.thin_points([(float(x), 2.0 * x) for x in range(10_001)])
    assert len(many) <= svg.MAX_POINTS and all(y == pytest.approx(2 * x) for x, y in many)


def test_published_scores_are_those_of_the_table():
    found = {
        method.name: method
        for method in reference.load_published_scores("dmc:walker_walk", "pixels")
    }
    theirs = found["DreamerV3, published"]
    assert theirs.frames[:2] == [50_000, 100_000] and theirs.seeds == "10"
    assert (
        theirs.mean[1] == 643.3
        and theirs.std[1] == 117.6
        and found["DrQ-v2, published"].repeat == "2"
    )
    for task, obs in (
        ("distract:pendulum", "pixels"),
        ("walker_walk", "pixels"),
        ("dmc:nothing", "pixels"),
    ):
        assert reference.load_published_scores(task, obs) == []


def test_published_scores_are_drawn_beside_a_run(tmp_path):
    lines = [score(f, f / 200) for f in (40_000, 120_000)]
    path = write_run(
        tmp_path / "seed0", "--env.task", "dmc:walker_walk", "--env.render", "auto", scores=lines
    )
    words = "".join(check(render_page([read_run(path)])[0]).words)
    assert "DreamerV3, published" in words and "643" in words and "danijar/dreamerv3" in words
    assert "renderer auto" in words


def test_bars_may_have_dots_and_levels_to_compare_with():
    rows = [("a", 5.0, 4.0, 6.0), ("b", 10.0, 10.0, 10.0)]
    levels = {"expert": 20.0}
    drawn = svg.plot_bars(
        "x", rows, note="n", dots=[[4.0, 6.0], [10.0]], levels=levels, form=".1f"
    )
    assert drawn.count('class="seed"') == 3 and ">a: 5.0</text>" in drawn
    assert "expert 20.0</span>" in drawn
    dots = [float(x) for x in re.findall(r'class="seed" cx="([\d.]+)"', drawn)]
    level = float(re.search(r'class="line r0" d="M([\d.]+),', drawn.split("</figcaption>")[1])[1])
    assert level - 16 == pytest.approx(2 * (dots[2] - 16)) and level == svg.WIDTH - svg.RIGHT


def test_ticks_may_be_named_and_an_axis_may_span_more_than_its_points():
    series = [svg.Series("one", [(0, 0), (1, 4)])]
    plain = svg.plot_lines("x", series, "steps")
    drawn = svg.plot_lines(
        "x", series, "steps", y_name="return <R>", x_labels={0.0: "-10", 1.0: "1000"}, span=(0, 8)
    )
    assert ">1000</text>" in drawn and ">-10</text>" in drawn
    assert ">0.2</text>" not in drawn and ">0.2</text>" in plain
    assert "return &lt;R&gt;</span>" in drawn and ">8</text>" in drawn and ">8</text>" not in plain
