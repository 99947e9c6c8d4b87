"""The report is well-formed, self-contained, small and safe, and says what is missing."""

import html
import json
import re
import shlex
import shutil
from html.parser import HTMLParser

import numpy as np
import pytest

import browser
from reported import make_results, write_run
from runs import evaluate, seed_dir, train
from worldmodel.config import loading as configs
from worldmodel.evaluation.plotting import media
from worldmodel.evaluation.report import findings, learning_section
from worldmodel.evaluation.report.html import PictureEmbedder
from worldmodel.evaluation.report.page import render_page, write_report
from worldmodel.evaluation.report.reported_run import read_run

BARE = ("--loss.objective", "{}", "--loss.overshooting", "1")
VOID = {"meta", "link", "img", "br", "hr", "input"}


class Reader(HTMLParser):
    """Collects a page's unbalanced tags, headings, ids, text and everything it could fetch."""

    def __init__(self, text):
        super().__init__()
        self.open, self.faults, self.headings, self.fetched, self.links, self.ids, self.words = (
            [],
            [],
            [],
            [],
            [],
            [],
            [],
        )
        self.images = []
        self.feed(text)
        self.close()
        self.faults += [f"<{tag}> is never closed" for tag in self.open]

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.images += [found] * (tag == "img")
        self.headings += [int(n) for n in re.findall("^h([1-6])$", tag)]
        self.ids += [value for key, value in attrs if key == "id"]
        self.faults += [f"<{tag} {k}>" for k in found if k.startswith("on")] + ["a script"] * (
            tag == "script"
        )
        self.links += [value for key, value in attrs if (tag, key) == ("a", "href")]
        kinds = ("src", "srcset", "poster", "data", "xlink:href", "action") + ("href",) * (
            tag != "a"
        )
        self.fetched += [found[k] for k in kinds if k in found]
        self.fetched += re.findall(r"url\(([^)]*)", found.get("style", ""))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.faults.append(f"</{tag}> closes nothing")

    def handle_data(self, data):
        self.words.append(data)
        if self.open and self.open[-1] == "style":
            self.fetched += re.findall(r"url\(([^)]*)|@import([^;]*)", data)


def check(text):
    """Assert what holds for every report."""
    reader = Reader(text)
    assert reader.faults == []
    assert all(image.get("alt", "").strip() for image in reader.images)
    assert all(source.startswith("data:") for source in reader.fetched) and reader.fetched
    assert all(link.startswith("#") and link[1:] in reader.ids for link in reader.links)
    assert len(set(reader.ids)) == len(reader.ids)
    levels = reader.headings
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after <= before + 1 for before, after in zip(levels, levels[1:], strict=False))
    assert len(text.encode()) < 10_000_000
    return reader


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    root = tmp_path_factory.mktemp("reported")
    train(root, "--env.task", "pointmass", "--env.time_limit", "15", "--run.frames", "60")
    return seed_dir(root, "pointmass")


@pytest.fixture(scope="module")
def measured_dir(run_dir, tmp_path_factory):
    """A run with every result of eval.py."""
    path = tmp_path_factory.mktemp("measured") / "seed0"
    shutil.copytree(run_dir, path)
    quick = ("--planner.candidates", "12", "--planner.elites", "4")
    evaluate(path, "--episodes", "3")
    evaluate(path, "imagine", "--length", "6")
    evaluate(path, "model", "--episodes", "3", "--length", "6", "--starts", "2", "--plans", "4")
    evaluate(path, "compare", "--episodes", "1", "--budgets", "1", *quick)
    evaluate(path, "probe", "--episodes", "3")
    media.save_gif(path / "eval" / "play-000.gif", np.zeros((2, 32, 64, 3), np.uint8))
    return path


def test_a_run_without_results_lists_the_commands_that_measure_them(run_dir):
    out, _ = evaluate(run_dir, "report")
    text = (run_dir / "eval" / "report.html").read_text()
    words = "".join(check(text).words)
    assert str(run_dir / "eval" / "report.html") in out
    for command in ("--episodes 10", "model", "probe", "compare", "imagine"):
        line = f"./wm eval {run_dir} {command}"
        assert line in words and line in out
    block = html.unescape(
        text[text.index("To measure everything: 6 commands") :]
        .split("</code>")[0]
        .split("<code>")[1]
    )
    wanted = ("--episodes 10", "model", "probe", "compare", "imagine", "report")
    assert block.splitlines() == [f"./wm eval {run_dir} {what}" for what in wanted]
    assert "--run.fresh true" in words and "--run.name NAME" in words
    assert "No published score is known for pointmass" in words and "Not finished" not in words
    assert text.count("<svg viewBox") > 8  # the learning curve and the losses


@pytest.mark.parametrize("kind", ["sac", "sac_pixels", "simulator"])
def test_a_run_without_a_model_is_not_told_to_look_at_one(tmp_path, kind):
    words = {
        "sac": ("sac", "--run.frames", "9000"),
        "sac_pixels": ("sac_pixels", "--run.frames", "9000"),
        "simulator": ("--model.dynamics", "simulator", "--env.obs", "state", *BARE),
    }[kind]
    path = write_run(tmp_path / "run", *words)
    text, missing = render_page([read_run(path)])
    said = text + "\n".join(missing)
    for command in ("model", "imagine", "play"):
        assert f"{path} {command}" not in said
    assert f"{path} probe" in said and f"{path} --episodes 10" in said
    assert (f"{path} compare" in said) == (kind == "simulator")
    assert "This run trains no model" in text


def test_the_simulator_in_place_of_a_model_is_shown_once_measured(tmp_path):
    words = ("--model.dynamics", "simulator", "--env.obs", "state", *BARE)
    path = write_run(tmp_path / "run", *words, model=make_results()["model.json"])
    text, _ = render_page([read_run(path)])
    section = text.split('<section id="model"')[1].split("</section>")[0]
    assert "reward error (RMSE)" in section and "This run trains no model" not in section


@pytest.mark.parametrize("measured", [True, False])
def test_two_probes_are_compared_only_if_both_were_measured(tmp_path, measured):
    model, probe = (make_results()[f"{name}.json"] for name in ("model", "probe"))
    found = model if measured else {k: v for k, v in model.items() if k != "probe"}
    path = write_run(tmp_path / "run", model=found, probe=probe)
    text, _ = render_page([read_run(path)])
    assert ('The plot "simulator state" above' in html.unescape(text)) == measured


def test_a_run_with_all_results_shows_them(measured_dir):
    out, _ = evaluate(measured_dir, "report")
    reader = check((measured_dir / "eval" / "report.html").read_text())
    words = "".join(reader.words)
    assert not any(
        line in words + out
        for line in ("not been measured", "Not measured yet", "To measure everything")
    )
    found = json.loads((measured_dir / "eval" / "returns.json").read_text())
    assert f"{found['eval/score']:.1f}, 95 % interval" in words
    assert "exploitation" in words and "ms per action" in words and "coordinate" in words
    # Two videos from the end of training, six and a clip from eval.py, three stills of imagined
    # rollouts; plots are no pictures.
    assert len(reader.images) == 12


def test_two_videos_are_open_and_captions_name_the_embedded_files(measured_dir):
    text, _ = render_page([read_run(measured_dir)])
    shown = re.findall(
        r'<details( open)?[^>]*><summary>[^<]*<span class="file">seed 0, ([^<]*)', text
    )
    assert [name for state, name in shown if state] == ["videos/agent.gif", "eval/imagine.webp"]
    assert len(shown) == 9 and all((measured_dir / name).exists() for _, name in shown)
    kinds = re.findall(
        r'<img src="data:image/(\w+);base64,[^"]*" alt="seed 0, [^":]*\.(\w+):', text
    )
    assert len(kinds) == 9 and all(kind == suffix for kind, suffix in kinds)


def test_the_page_begins_with_key_findings(measured_dir, tmp_path):
    path = tmp_path / "seed0"
    shutil.copytree(measured_dir, path)
    found = findings.list_findings(read_run(path))
    files = [file for _, file, _ in found]
    assert set(files) == {"scores.jsonl", "returns.json", "model.json", "compare.json"}
    text, _ = render_page([read_run(path)])
    assert all(
        said in html.unescape(text.split("<nav")[0]) and f'href="#{part}"' in text
        for said, _, part in found
    )
    assert not any("Measured at" in said for said, _, _ in found)
    with (path / "metrics.jsonl").open("a") as file:
        file.write('{"frames": 1060}\n')
    assert (
        sum(
            "(Measured at 60 frames.)" in said
            for said, _, _ in findings.list_findings(read_run(path))
        )
        == len(found) - 1
    )
    (path / "eval" / "model.json").write_text('{"mse": [], "reward": 3}')
    (path / "eval" / "compare.json").unlink()
    assert {file for _, file, _ in findings.list_findings(read_run(path))} == {
        "scores.jsonl",
        "returns.json",
    }


def test_names_and_values_are_escaped(run_dir, tmp_path):
    """In the run's name, its path, its configuration and its logs."""
    path = tmp_path / "<script>alert(1)</script>" / "seed0"
    shutil.copytree(run_dir, path, ignore=shutil.ignore_patterns("eval"))
    evil = "\"><script>alert('x')</script><img src=x onerror=alert(1)>&amp;"
    c = configs.apply_overrides(
        read_run(path).config,
        [("run.name", json.dumps(evil)), ("run.root", json.dumps("</pre><b>"))],
    )
    (path / "config.yaml").write_text(configs.to_yaml(c))
    lines = [json.loads(text) for text in (path / "metrics.jsonl").read_text().splitlines()]
    lines.append({"frames": 50, "train/loss/<script>": 1.0, 'train/loss/a"b': 2.0})
    (path / "metrics.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    made, _ = write_report([path], path / "eval" / "report.html")
    text = made.read_text()
    reader = check(text)
    assert (
        "<script" not in text
        and evil in "".join(reader.words)
        and "loss/<script>" in "".join(reader.words)
    )


def test_two_seeds_share_a_report(run_dir, tmp_path):
    other = tmp_path / "seed1"
    train(
        tmp_path,
        "--env.task",
        "pointmass",
        "--env.time_limit",
        "15",
        "--run.frames",
        "60",
        "--run.seed",
        "1",
        "--model.deter",
        "24",
    )
    other = seed_dir(tmp_path, "pointmass", seed=1)
    before = (run_dir / "eval").exists() and set((run_dir / "eval").iterdir())
    out, _ = evaluate(other, run_dir, "report")
    words = "".join(check((other / "eval" / "report.html").read_text()).words)
    assert "2 seeds" in words and "mean of the seeds" in words and "seed 1" in words
    assert "differ in more than their seeds" in words and "model.deter" in words
    assert str(other / "eval" / "report.html") in out
    assert before == ((run_dir / "eval").exists() and set((run_dir / "eval").iterdir()))


def test_the_printed_command_reproduces_the_configuration(run_dir):
    odd = [
        ("run.name", "'1e3'"),
        ("run.root", "a b$(c)"),
        ("optim.lr", "1.5e-7"),
        ("env.camera", "2"),
        ("run.seed", "4"),
        ("loss.objective", "{contrastive: 0.5, inverse: 2}"),
        ("model.cnn", "[4, 8]"),
        ("env.time_limit", "null"),
    ]
    for config in (
        read_run(run_dir).config,
        configs.apply_overrides(read_run(run_dir).config, odd),
    ):
        program, command, *words = shlex.split(learning_section.format_train_command(config))
        assert (program, command) == ("./wm", "train") and configs.parse(words) == config


def test_damaged_files_are_named_and_the_rest_is_shown(measured_dir, tmp_path):
    path = tmp_path / "seed0"
    shutil.copytree(measured_dir, path)
    (path / "eval" / "model.json").write_text('{"episodes": 3}')
    (path / "eval" / "compare.json").write_text("{")
    (path / "eval" / "probe.json").write_text('["r2"]')
    (path / "scores.jsonl").write_text('{"frames": "many"}\n7\n{"torn')
    (path / "status.json").write_text("[")
    for file in path.glob("checkpoints/*/state.json"):
        file.write_text("{}")
    made, missing = write_report([path], path / "eval" / "report.html")
    words = "".join(check(made.read_text()).words)
    for name in ("model", "compare", "probe"):
        assert any(f"{name}.json cannot be read" in line for line in missing)
    assert (
        "no evaluation yet" in words
        and "No checkpoint of this run can be read" in words
        and "Not finished" in words
    )


def test_a_page_has_a_size_limit(run_dir, tmp_path):
    path = tmp_path / "seed0"
    shutil.copytree(run_dir, path, ignore=shutil.ignore_patterns("eval"))
    noise = np.random.default_rng(0).integers(0, 256, (40, 192, 192, 3), np.uint8)
    clip = media.save_gif(path / "eval" / "play-000.gif", noise)
    for number in range(1, 9):
        shutil.copy(clip, clip.with_name(f"play-{number:03}.gif"))
    with (path / "metrics.jsonl").open("a") as file:
        for frames in range(60, 20060):
            file.write(
                json.dumps(
                    {"frames": frames, "train/loss/total": frames * 1.0, "episode/score": 1.0}
                )
                + "\n"
            )
    text, _ = render_page([read_run(path)])
    assert "would make this page too large" in "".join(check(text).words)
    assert text.count("data:image/gif") >= 3


@pytest.mark.parametrize(
    ("args", "code", "wanted"),
    [
        (["nowhere", "report"], 4, "is not a run directory"),
        (["{run}", "nowhere", "report"], 4, "nowhere is not a run directory"),
        (["{run}", "{run}", "report"], 2, "named twice"),
        (["{run}", "{run}"], 2, "named twice"),
        (["{run}", "{run}", "model"], 2, "only returns and report take several"),
        (["{run}", "reports"], 2, "invalid choice"),
    ],
)
def test_user_errors_have_exit_codes(run_dir, args, code, wanted):
    assert wanted in evaluate(*[a.format(run=run_dir) for a in args], expect=code)[1]


def test_runs_of_two_tasks_are_refused(run_dir, tmp_path):
    path = tmp_path / "seed0"
    path.mkdir()
    (path / "config.yaml").write_text(
        configs.to_yaml(
            configs.apply_overrides(read_run(run_dir).config, [("env.task", "catcher")])
        )
    )
    assert "of different tasks: " in evaluate(run_dir, path, "report", expect=2)[1]


def test_oversized_and_missing_pictures_are_named(tmp_path):
    path = media.save_gif(tmp_path / "a.gif", np.zeros((2, 32, 32, 3), np.uint8))
    assert "too large" in PictureEmbedder(most=50).embed(path, "x")
    assert "cannot be read" in PictureEmbedder().embed(tmp_path / "none.gif", "x")


@pytest.mark.skipif(
    browser.PROGRAM is None, reason="there is no chromium here (apt-get install chromium)"
)
def test_a_browser_opens_it_from_disk(measured_dir, tmp_path):
    made, _ = write_report([measured_dir], measured_dir / "eval" / "report.html")
    chromium = browser.Browser(tmp_path / "profile", 360, 740, "dark")
    try:
        chromium.open(f"file://{made}")
        assert chromium.run("document.documentElement.scrollWidth") <= 360
        assert chromium.run("[...document.images].every(i => i.complete && i.naturalWidth > 0)")
        columns = (
            "[...document.querySelectorAll('.plots')].map(g => "
            "getComputedStyle(g).gridTemplateColumns.split(' '))"
        )
        assert chromium.run(f"{columns}.every(c => c.length === 1)")
        heights = (
            "[...document.querySelectorAll('.plot text')].map(t => "
            "t.getBoundingClientRect().height)"
        )
        assert chromium.run(f"Math.min(...{heights})") >= 10
        calm = "[...document.querySelectorAll('img.paper')].map(i => getComputedStyle(i).filter)"
        assert set(chromium.run(calm)) == {"brightness(0.72)"}
        chromium.key("Tab")
        assert chromium.run("document.activeElement.className") == "skip"
        assert chromium.run("getComputedStyle(document.activeElement).outlineStyle") != "none"
        assert chromium.errors() == []
    finally:
        chromium.close()
