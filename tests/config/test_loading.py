"""Configuration: layering, types, every problem at once, before torch is imported."""

import json
import subprocess
import sys
from dataclasses import is_dataclass
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worldmodel import build, registry
from worldmodel.config import component_settings, loading, preset_files, schema

ROOT = Path(__file__).resolve().parents[2]


def train(*args):
    return subprocess.run(
        [sys.executable, str(ROOT / "train.py"), *args],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=ROOT,
    )


@pytest.mark.parametrize("name", preset_files.list_presets())
def test_every_preset_is_a_valid_configuration(name):
    saved = loading.read_yaml(preset_files.find_preset_files()[name])
    assert loading.parse([name]).run.name == saved.get("run", {}).get("name", name)


def test_a_preset_is_found_by_its_bare_name_in_any_folder():
    files = [f for f in preset_files.CONFIG_DIR.rglob("*.yaml") if f.name != "defaults.yaml"]
    assert len({f.stem for f in files}) == len(files), "two presets have the same name"
    assert sorted(f.stem for f in files) == preset_files.list_presets()


def test_layers_apply_left_to_right_and_overrides_last():
    c = loading.parse(["small", "planet", "--model.deter", "77", "env.repeat=3"])
    assert c.model.latent == "gaussian" and c.model.deter == 77 and c.env.repeat == 3
    assert loading.parse(["planet", "small"]).model.latent == "categorical"


def test_a_table_of_weights_is_replaced_by_a_preset_and_edited_by_an_override():
    values = {"loss": {"objective": {"reconstruction": 1.0}}}
    loading.merge(values, {"loss": {"objective": {"other": 2.0}}})
    assert values["loss"]["objective"] == {"other": 2.0}
    assert loading.parse(["--loss.objective.reconstruction", "0.5"]).loss.objective == {
        "reconstruction": 0.5
    }


def test_a_saved_configuration_without_the_newest_keys_takes_their_defaults_and_says_so(
    tmp_path, caplog
):
    c = loading.parse(["planet"])
    older = loading.to_plain(c)
    del older["critic"], older["replay"]["burnin"]
    (tmp_path / "c.yaml").write_text(json.dumps(older))
    assert loading.load(tmp_path / "c.yaml") == c
    lacking = len(c.critic.__dict__) + 1
    named = "lacks replay.burnin, critic.head, critic.slow"
    assert f"{named} and {lacking - 3} keys more: their defaults" in caplog.text
    (tmp_path / "c.yaml").write_text(
        json.dumps({**older, "replay": {**older["replay"], "bath": 3}})
    )
    with pytest.raises(loading.ConfigError, match="unknown key 'replay.bath'"):
        loading.load(tmp_path / "c.yaml")


def test_a_key_of_an_earlier_version_is_read_by_its_new_name_and_says_so(
    tmp_path, caplog, monkeypatch
):
    said = "train.ratio is now called train.updates_per_step"
    wanted = loading.parse(["train.updates_per_step=0.125"])
    assert caplog.text == ""
    assert loading.parse(["--train.ratio", "0.125"]) == wanted
    assert [r.message for r in caplog.records] == [said]
    older = loading.to_plain(wanted)
    older["train"]["ratio"] = older["train"].pop("updates_per_step")
    for folder in ("old", "presets"):
        (tmp_path / folder).mkdir()
    (tmp_path / "old" / "c.yaml").write_text(json.dumps(older))
    assert loading.load(tmp_path / "old" / "c.yaml") == wanted
    assert caplog.records[-1].message == f"{tmp_path}/old/c.yaml: {said}"
    preset = tmp_path / "presets" / "mine.yaml"
    preset.write_text("train: {ratio: 0.125}")
    monkeypatch.setattr(loading, "find_preset_files", lambda: {"mine": preset})
    assert loading.parse(["mine"]).train == wanted.train
    assert caplog.records[-1].message == f"mine.yaml: {said}" and len(caplog.records) == 3
    preset.write_text("train: {ratio: 0.125, updates_per_step: 0.25}")
    with pytest.raises(loading.ConfigError, match="unknown key 'train.ratio'"):
        loading.parse(["mine"])


def test_defaults_are_the_same_without_their_comments(tmp_path):
    path = preset_files.CONFIG_DIR / "defaults.yaml"
    assert loading.read_yaml(path, one_line_strings=True) == loading.read_yaml(path)
    tricky = tmp_path / "tricky.yaml"
    tricky.write_text("a: {b: 'x # y', c: z#z}  # it's\n# d: 1\ne: \"q #\" # f\n  # g\nh: 1 # i\n")
    found = loading.read_yaml(tricky, one_line_strings=True)
    assert found == {"a": {"b": "x # y", "c": "z#z"}, "e": "q #", "h": 1}


def test_yaml_round_trip(tmp_path):
    c = loading.parse(["planet", "--env.camera", "1"])
    (tmp_path / "c.yaml").write_text(loading.to_yaml(c))
    assert loading.load(tmp_path / "c.yaml") == c
    assert loading.find_differences(c, loading.parse(["planet"])) == {"env.camera": (1, None)}


@pytest.mark.fault(
    17, "six mistakes on one command line", "exit 2, one line each, with suggestions"
)
def test_all_problems_are_reported_at_once_with_hints():
    result = train(
        "planett",
        "--model.detr",
        "3",
        "--optim.lr",
        "-1",
        "--run.frames",
        "many",
        "--planner.name",
        "cme",
        "--env.task",
        "dmc:cartpole_balanse",
    )
    assert result.returncode == 2
    lines = result.stderr.splitlines()
    for wanted in (
        "unknown preset 'planett' (did you mean planet?)",
        "unknown key 'model.detr' (did you mean model.deter?)",
        "optim.lr: -1.0 is out of range",
        "run.frames: expected int, got str 'many'",
        "planner.name: 'cme' is not one of cem, mppi, shooting, gradient, ilqr (did you mean cem?)",
        "did you mean 'dmc:cartpole_balance'?",
    ):
        assert sum(wanted in line for line in lines) == 1, (wanted, lines)
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("args", "wanted"),
    [
        (["--planner.elites", "500"], "planner.elites: 500 is more than planner.candidates"),
        (["--model.transition", "rnn"], "needs model.latent deterministic"),
        (["--env.size", "[60, 64]"], "env.size: 60x64 must be divisible by 16"),
        (["--optim.decay", "[9, 9]"], "optim.decay: [9, 9] must go from an update to a later one"),
        (["--model.blocks", "7"], "model.blocks: 7 does not divide model.deter 200"),
        (["--loss.overshooting", "32"], "must be shorter than replay.length 32"),
        (
            ["--loss.corrective", "1", "--loss.corrective_steps", "31"],
            "and one more must be fewer",
        ),
        (["--actor.target_entropy", "0.5", "--actor.dist", "tanh"], "no known range of entropies"),
        (["--actor.target_entropy", "1"], "no actor reaches a share of 1"),
        (["--actor.target_entropy", "0.5", "--actor.entropy", "0"], "starts at actor.entropy"),
        (["--actor.population", "7"], "7 is odd, and perturbations come in pairs"),
        (["--imag.pessimism", "1"], "needs members that disagree; raise ensemble.size"),
        (["--behavior.name", "plan2explore"], "set ensemble.size, to 5 for example"),
        (
            ["--behavior.name", "actor_critic", "--loss.reward_free", "true"],
            "critic.replay: 0.3 trains the model by rewards",
        ),
        (["--ensemble.bootstrap", "true"], "a single member has no other to differ from"),
        (
            ["--ensemble.size", "3", "--ensemble.dropout", "0.1", "--ensemble.bootstrap", "true"],
            "with ensemble.dropout all members are one network",
        ),
        (["--train.prefill", "80"], "fewer than the 32 of a sequence"),
        (["--run.frames", "100"], "less than train.prefill"),
        (["--loss.objective.reconstruction", "0"], "every weight is zero"),
        (["--run.frames"], "--run.frames needs a value"),
        (["--optim.lr", "nan"], "expected float, got str 'nan'"),
        (["--optim.lr", ".inf"], "expected a finite number"),
        (["--env.size", "64"], "env.size: expected 2 values, got int '64'"),
        (["--model", "3"], "unknown key 'model'"),
        (["--run.seed", "true"], "run.seed: expected int, got bool 'True'"),
        (["--loss.objective", "{recon: 1}"], "'recon' is not one of reconstruction"),
    ],
)
def test_what_cannot_be(args, wanted):
    with pytest.raises(loading.ConfigError) as caught:
        loading.parse(args)
    assert any(wanted in problem for problem in caught.value.problems), caught.value.problems


# Updates to wait for, and how many states of a batch are taken at most: nothing grows with them.
UNBOUNDED = {"imag.starts", "imag.every", "model.backdrop", "prototypes.freeze"}


def test_no_size_of_a_model_or_plan_is_endless():
    plain = loading.to_plain(loading.parse([]))
    sizes = [
        f"{section}.{key}"
        for section in ("model", "planner", "imag", "contrastive", "inverse", "prototypes")
        for key, value in plain[section].items()
        if type(value) is int
    ]
    assert {"model.layers", "model.stoch", "planner.horizon", "planner.iterations"} < set(sizes)
    for size in set(sizes) - UNBOUNDED:
        with pytest.raises(loading.ConfigError, match=f"^{size}: "):
            loading.parse(["--" + size, str(2**62)])


def test_whole_floats_count_as_integers():
    assert loading.parse(["--run.frames", "1e5"]).run.frames == 100_000


def test_config_errors_come_without_torch():
    code = (
        "import sys; from worldmodel.command_line.main import main; main(['train', 'nope']); "
        "main(['train', '--help']); sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr


def test_unreadable_yaml_is_one_line(tmp_path):
    bad = tmp_path / "bad.yaml"
    for text in (
        "a: [1, 2",
        "- just\n- a list",
        "a: &x [*x",
        "\x00",
        "!!python/object:os.system {}",
    ):
        bad.write_text(text)
        with pytest.raises(loading.ConfigError):
            loading.build_config(loading.read_yaml(bad), [])


def test_the_schema_names_exactly_the_heads_that_can_be_built():
    assert set(get_args(get_type_hints(schema.ModelConfig)["reward_head"])) == set(
        {*build.SCALAR_HEADS, *build.QUADRATIC_HEADS, "known"}
    )


@pytest.mark.parametrize("table", registry.TABLES, ids=lambda table: min(table))
def test_every_component_is_where_its_registry_says_with_the_settings_read_from_its_file(table):
    for name, place in table.items():
        kind = registry.import_class(table, name)
        own = getattr(sys.modules[kind.__module__], "Settings", None)
        read = component_settings.read_settings(place)
        assert (own is None) == (read is None)
        if own is not None:
            assert get_type_hints(own, include_extras=True) == get_type_hints(
                read, include_extras=True
            )
            facts = {
                k: v for k, v in vars(own).items() if isinstance(v, bool | str) and k[0] != "_"
            }
            assert facts == {k: getattr(read, k) for k in facts}
            section = schema.get_settings(loading.parse([]), table, name)
            assert isinstance(section, read) == is_dataclass(own)


def test_components_that_share_a_section_agree_on_the_types_of_its_keys():
    for table in registry.TABLES:
        for kinds in component_settings.group_settings(table).values():
            types = {}
            for kind in kinds:
                for key, hint in get_type_hints(kind, include_extras=True).items():
                    assert types.setdefault(key, hint) == hint, (kind.__module__, key)


KNOWN = [f"{s}.{k}" for s, t in loading.to_plain(loading.parse([])).items() for k in t]


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(KNOWN), st.text(max_size=12) | st.integers().map(str) | st.floats().map(str)
)
def test_any_value_either_parses_or_is_refused_cleanly(key, text):
    try:
        loading.parse([f"{key}={text}"])
    except loading.ConfigError as error:
        assert error.problems and all("\n" not in p for p in error.problems)
