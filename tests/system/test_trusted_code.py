"""The key that only its user can read, and which configuration keys may name code."""

import os
import stat
from concurrent.futures import ThreadPoolExecutor
from typing import get_args, get_origin, get_type_hints

import pytest

from worldmodel.config import loading
from worldmodel.config.ranges import OneOf, Time
from worldmodel.config.schema import Config
from worldmodel.system import trusted_code
from worldmodel.system.trusted_code import CODE_KEYS, find_distrust, sign_code

# Keys of free text that name no code: places, a name for people, names of pictures.
HARMLESS = {
    *("run.root", "run.name", "log.project", "goal.image", "goal.run"),
    *("env.sizes", "env.image_keys", "env.vector_keys", "model.unseen"),
}
OTHERS = "you did not train this run here"


def takes_free_text(kind):
    """Say whether a value of this type may hold text that the schema does not restrict."""
    if any(isinstance(rule, OneOf | Time) for rule in get_args(kind)):
        return False
    return kind is str or (
        get_origin(kind) is not None and any(map(takes_free_text, get_args(kind)))
    )


def test_every_key_of_free_text_names_code_or_is_known_to_be_harmless():
    """A new key whose value is imported belongs into CODE_KEYS, any other into HARMLESS."""
    sections = get_type_hints(Config, include_extras=True)
    keys = {
        f"{name}.{key}": kind
        for name, section in sections.items()
        for key, kind in get_type_hints(section, include_extras=True).items()
    }
    assert {key for key, kind in keys.items() if takes_free_text(kind)} == {*CODE_KEYS, *HARMLESS}
    assert {key for called_with in CODE_KEYS.values() for key in called_with} <= keys.keys()


@pytest.fixture
def config():
    return loading.parse(["debug", "--env.task", "counter"])


@pytest.fixture
def key(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state" / "worldmodel" / "key"


def test_a_signature_belongs_to_a_key_and_to_what_is_called(key, config, tmp_path):
    assert find_distrust(tmp_path, config) == OTHERS  # there is no key
    sign_code(tmp_path, config)
    assert find_distrust(tmp_path, config) == "" and len(key.read_bytes()) == 32
    assert [p.name for p in key.parent.iterdir()] == ["key"]
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert stat.S_IMODE(key.parent.stat().st_mode) == 0o700
    for other in (("env.task", "catcher"), ("env.size", "[32, 40]")):
        changed = loading.apply_overrides(config, [other])
        assert find_distrust(tmp_path, changed) == OTHERS
    for same in (("env.repeat", "2"), ("run.name", "other"), ("env.timeout", "9")):
        assert find_distrust(tmp_path, loading.apply_overrides(config, [same])) == ""
    key.write_bytes(bytes(32))
    assert find_distrust(tmp_path, config) == OTHERS


def test_trainings_that_start_at_once_agree_on_a_key(key):
    with ThreadPoolExecutor(16) as pool:
        keys = list(pool.map(lambda _: trusted_code._make_key(), range(64)))
    assert set(keys) == {key.read_bytes()}
    assert [p.name for p in key.parent.iterdir()] == ["key"]


def test_a_key_that_others_may_know_or_have_made_is_none(key, config, tmp_path, monkeypatch):
    sign_code(tmp_path, config)
    for path, mode in ((key, 0o604), (key, 0o620), (key.parent, 0o701)):
        kept = stat.S_IMODE(path.stat().st_mode)
        path.chmod(mode)
        assert find_distrust(tmp_path, config) == f"{path}: others may open it, so it is no secret"
        path.chmod(kept)
    number = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: number + 1)
    assert find_distrust(tmp_path, config) == f"{key.parent}: it belongs to another user"
    monkeypatch.setattr(os, "geteuid", lambda: number)
    for place in (key, key.parent):
        kept = place.rename(place.with_name("kept"))
        place.symlink_to(kept)
        assert str(place) in find_distrust(tmp_path, config)
        place.unlink()
        kept.rename(place)
    assert find_distrust(tmp_path, config) == ""
    key.rename(key.with_name("kept"))
    os.mkfifo(key, 0o600)
    assert "damaged" in find_distrust(tmp_path, config)


def test_without_a_place_for_a_key_a_training_is_told_so(config, tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("XDG_STATE_HOME", "relative")
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    sign_code(tmp_path, config)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    (tmp_path / "file").touch()
    sign_code(tmp_path, config)
    assert [record.message.split(":")[0] for record in caplog.records] == [
        "this user has no home folder for a key",
        str(tmp_path / "file" / "worldmodel"),
    ]
    assert find_distrust(tmp_path, config) and list(tmp_path.iterdir()) == [tmp_path / "file"]
