"""The report's plots: where numbers lie, styles that tell lines apart, contrast, and what is
published beside a run.
"""

import itertools
import re

import numpy as np
import pytest

from reported import SEEDS, measured, score, write_run
from test_report import Reader, check
from worldmodel.evaluation.plotting import media
from worldmodel.evaluation.plotting import style as plots
from worldmodel.evaluation.quality import page as quality_page
from worldmodel.evaluation.report import glossary, learning_section, panels, reference, svg
from worldmodel.evaluation.report.gather import read
from worldmodel.evaluation.report.page import STYLE, page

LIGHT, DARK = re.search(
    r":root \{(.*?)\}.*?:root \{(.*?)\}", STYLE.read_text(), re.DOTALL
).groups()


def colours(text):
    return dict(re.findall(r"--([\w]+): (#[0-9a-f]{6})", text))


def style_of(kind):
    """The colour and the dash that the page's style gives to the classes of a line."""
    rules = dict(re.findall(r"(?<!\w)\.(\w+) \{([^}]*)\}", STYLE.read_text()))
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
def test_words_and_lines_stand_out(text):
    found = colours(text)
    for name, ground in itertools.product(("ink", "soft", "strong"), ("ground", "panel")):
        assert contrast(found[name], found[ground]) >= 4.5, name
    for name in (f"c{i}" for i in range(svg.STYLES)):
        assert contrast(found[name], found["panel"]) >= 3, name


def test_no_seed_looks_like_a_mean_or_what_is_published():
    styles = [style_of(svg.kind(s)) for s in [*range(8), svg.MEAN, *svg.REFERENCES]]
    assert len(set(styles)) == len(styles)
    own = {colour for colour, _ in styles[:8]}
    assert not own & {colour for colour, _ in styles[8:]}


def test_eight_seeds_their_mean_and_what_is_published(tmp_path):
    task = ("--env.task", "dmc:walker_walk", "--run.frames", "200000")
    seeds = [
        read(
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
    text, lacking = page(seeds)
    check(text)
    drawn = learning_section.scores(seeds, [])
    kinds = re.findall(r'<path class="line ([^"]*?)(?: thin)?" d="M0,6H28"', drawn)
    assert kinds[:8] == [svg.kind(i) for i in range(8)] and kinds[8] == svg.MEAN
    assert kinds[9:] == list(svg.REFERENCES[: len(kinds) - 9]) and len(kinds) > 10
    assert drawn.count("training episodes") <= 1
    assert any(
        f"seeds.json has not been measured: ./wm eval {tmp_path}/seed0 {tmp_path}/seed1" in x
        for x in lacking
    )


def test_plots_are_drawn_in_the_page_and_no_pictures(tmp_path):
    path = write_run(
        tmp_path / "seed0", **{name.removesuffix(".json"): x for name, x in measured().items()}
    )
    for name in ("model", "compare"):
        media.save_png(path / "eval" / f"{name}.png", np.zeros((900, 1600, 3), np.uint8))
    text, lacking = page([read(path)])
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
        "on the line is honest",
        "imagined returns of plans",
        "imagined returns of policies",
        "imagined minus real",
        "policies: imagined minus real",
        "action sensitivity",
        "true state read off",
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


def test_every_plot_of_a_model_has_a_line_in_plain_words(tmp_path):
    content = measured()["model.json"]
    drawn = panels.quality(content)
    lacking = set(glossary.PLOTS) - {
        key for key, line in glossary.PLOTS.items() if f">{line}" in drawn
    }
    assert not lacking and drawn.count('class="note"') == drawn.count("<figure")


def test_where_nothing_ended_a_line_stands_for_three_plots():
    content = measured()["model.json"]
    titles = ("Brier", "calibration error", "how often episodes went on")
    content["continuation"]["ends_seen"] = 3
    drawn = panels.quality(content)
    assert all(title in drawn for title in titles) and glossary.UNENDED not in drawn
    content["continuation"]["ends_seen"] = 0
    drawn = panels.quality(content)
    assert not any(title in drawn for title in titles) and glossary.UNENDED in drawn


def test_kinds_of_plans_look_as_in_the_picture():
    assert panels.KINDS.keys() == quality_page.KINDS.keys()
    shapes = {"o": 0, "s": 1, "D": 3}  # circle, square and diamond among SPOTS
    for name, (colour, marker) in quality_page.KINDS.items():
        style, mark = panels.KINDS[name]
        assert mark == shapes[marker]
        assert colour == (plots.COLORS[style] if isinstance(style, int) else "#999999")
    assert style_of(svg.kind(panels.KINDS["random"][0]))[0] == "soft"


def test_what_lies_below_a_plot_is_said_and_shallow_values_are_shown():
    shallow = [
        svg.Series("one", [(0, 0.9), (9, -0.3)]),
        svg.Series("two", [(0, 0.5), (9, 0.1)], 1),
    ]
    drawn = svg.lines("x", shallow, "steps", floor=-1.05)
    bottom = svg.HEIGHT - svg.BOTTOM
    assert (
        f"{svg.WIDTH - svg.RIGHT}.0,{bottom}.0" in drawn
        and "goes down" not in drawn
        and "all below" not in drawn
    )
    deep = [*shallow, svg.Series("<three>", [(0, -1e4), (9, -2.0)], 2)]
    drawn = svg.lines("x", deep, "steps", floor=-1.05)
    assert (
        "&lt;three&gt; goes down to -1e+04" in drawn and "&lt;three&gt; (all below -1.05)" in drawn
    )


def test_marks_at_the_ends_of_axes_have_room():
    drawn = svg.lines("x", [svg.Series("one", [(0, 0), (10, 4)], bars=True)], "steps")
    places = [tuple(map(float, at)) for at in re.findall(r"translate\(([\d.]+),([\d.]+)\)", drawn)]
    for x, y in [place for place in places if place != (14.0, 6.0)]:
        assert (
            svg.LEFT + 8 <= x <= svg.WIDTH - svg.RIGHT - 8
            and svg.TOP + 8 <= y <= svg.HEIGHT - svg.BOTTOM - 8
        )


def test_a_label_keeps_away_from_other_lines():
    line = svg.Series("line", [(0, 0), (9.5, 9.6)])
    places = []
    for y in (9.0, 10.0):
        drawn = svg.lines(
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


def test_losses_that_are_the_same_are_drawn_once(tmp_path):
    lines = [
        {"frames": f, "train/loss/dyn": 1.0 + f, "train/loss/rep": 1.0 + f, "train/kl": 1.5 + f}
        for f in (1, 2)
    ]
    drawn = learning_section.losses([read(write_run(tmp_path / "seed0", metrics=lines))], [])
    assert (
        drawn.count("<figure") == 2
        and "<b>loss/dyn = loss/rep</b>" in drawn
        and "<b>kl</b>" in drawn
    )
    for key in ("loss/dyn", "loss/rep", "kl"):
        assert glossary.LOSSES[key] in drawn


def test_what_is_published_far_beyond_a_run_is_not_put_beside_it(tmp_path):
    path = write_run(
        tmp_path / "seed0", "--env.task", "dmc:cartpole_balance", scores=[score(48_000, 900.0)]
    )
    drawn = learning_section.scores([read(path)], [])
    table = drawn[drawn.index("published, at the nearest") :]
    assert "Left out" in table and "Dreamer (first)" in table[table.index("Left out") :]
    assert "Dreamer (first)" not in table[: table.index("</table>")] and "DreamerV3" in table


def test_what_cannot_be_drawn_is_not_advised(tmp_path):
    path = write_run(tmp_path / "seed0", "--env.obs", "state")
    blind = write_run(
        tmp_path / "seed1", "--loss.probe", "false", "--loss.objective", "{contrastive: 1.0}"
    )
    for run in (path, blind):
        text, lacking = page([read(run)])
        assert "imagine" not in "".join(lacking) and "imagine" not in text
    assert any("imagine" in line for line in page([read(write_run(tmp_path / "seed2"))])[1])


def test_wide_pictures_scroll_and_keep_their_width(tmp_path):
    path = write_run(tmp_path / "seed0")
    for name, width in (("long", 1600), ("latents", 320)):
        media.save_png(path / "eval" / f"{name}.png", np.zeros((64, width, 3), np.uint8))
    picture = r'(<div class="scroll" tabindex="0" role="region"[^>]*>)?<img [^>]*class="([\w ]*)"'
    found = re.findall(picture, page([read(path)])[0])
    assert [(bool(box), kind) for box, kind in found] == [(True, "paper wide"), (False, "paper")]


def test_several_runs_show_their_aggregate(tmp_path):
    seeds = [
        read(write_run(tmp_path / f"seed{i}", "--run.seed", str(i), seeds=SEEDS)) for i in range(2)
    ]
    text, lacking = page(seeds)
    assert "2.2 (1.2 to 3.2)" in text and "IQM over the runs of pointmass" in text
    assert not any("seeds.json" in line for line in lacking)


def test_the_page_opens_with_the_curve_and_ends_with_the_configuration(tmp_path):
    ids = Reader(page([read(write_run(tmp_path / "seed0"))])[0]).ids
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
    drawn = learning_section.scores([read(path)], [])
    assert "nearest number of frames, 50,000; this run has reached 30,000" in drawn
    assert 'class="spot r0"' in drawn and ">50k</text>" in drawn and ">DreamerV3</text>" in drawn
    longer = write_run(
        tmp_path / "seed1", "--env.task", "dmc:quadruped_walk", scores=[score(210_000, 100.0)]
    )
    assert (
        "nearest number of frames, 200,000; this run has reached 210,000"
        in learning_section.scores([read(longer)], [])
    )


@pytest.mark.parametrize(
    ("task", "obs", "names", "words"),
    [
        ("dmc:walker_walk", "state", {"dreamerv3_state", "tdmpc2_state"}, "given the simulator"),
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
    found = reference.published(task, obs)
    assert {method.method for method in found} == names and len(found) <= len(svg.REFERENCES)
    assert all(
        len(method.frames) == len(method.std) and max(method.frames) <= 505_000 for method in found
    )
    path = write_run(
        tmp_path / "seed0", "--env.task", task, "--env.obs", obs, scores=[score(100_000, 1.0)]
    )
    drawn = learning_section.scores([read(path)], [])
    assert words in drawn and ("those of training episodes" in drawn) == any(
        "v3" in name for name in names
    )


def test_constant_and_huge_numbers_have_axes():
    for numbers in ([1e300, 1e300], [-1e300, 1e300], [1e17, 1e17], [3.1, 4.9]):
        for log in (False, True):
            axis = svg.Axis(numbers, 0, 100, log)
            assert 2 <= len(axis.ticks()) <= 12 and all(
                -1e-6 <= axis.at(t) <= 100 + 1e-6 for t in axis.ticks()
            )


@pytest.mark.parametrize(
    ("low", "high"), [(0, 1), (3, 3), (-5, 1e6), (1e-9, 2e-9), (0.02, 0.021), (-3, -3)]
)
def test_axes_have_a_few_round_ticks_within_their_ends(low, high):
    axis = svg.Axis([low, high], 50, 350)
    ticks = axis.ticks()
    assert 2 <= len(ticks) <= 8 and all(50 - 1e-6 <= axis.at(t) <= 350 + 1e-6 for t in ticks)


@pytest.mark.parametrize(("low", "high"), [(1e-8, 1), (0.5, 40), (3, 2000), (1, 1e30)])
def test_logarithmic_axes_too(low, high):
    axis = svg.Axis([low, high], 200, 10, log=True)
    ticks = axis.ticks()
    assert 2 <= len(ticks) <= 8 and all(10 - 1e-6 <= axis.at(t) <= 200 + 1e-6 for t in ticks)
    assert axis.at(low) == pytest.approx(200) and axis.at(high) == pytest.approx(10)


def test_a_plot_draws_its_numbers_where_they_are():
    drawn = svg.lines(
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
    assert svg.lines("empty", [svg.Series("one", [])], "x") == ""
    many = svg.thinned([(float(x), 2.0 * x) for x in range(10_001)])
    assert len(many) <= svg.MOST_POINTS and all(y == pytest.approx(2 * x) for x, y in many)


def test_published_scores_are_those_of_the_table():
    found = {method.name: method for method in reference.published("dmc:walker_walk", "pixels")}
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
        assert reference.published(task, obs) == []


def test_what_is_published_is_drawn_beside_a_run(tmp_path):
    lines = [score(f, f / 200) for f in (40_000, 120_000)]
    path = write_run(
        tmp_path / "seed0", "--env.task", "dmc:walker_walk", "--env.render", "auto", scores=lines
    )
    words = "".join(check(page([read(path)])[0]).words)
    assert "DreamerV3, published" in words and "643" in words and "danijar/dreamerv3" in words
    assert "renderer auto" in words
