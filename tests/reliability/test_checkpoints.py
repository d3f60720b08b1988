"""Seals: what damages a checkpoint is found and named, and whole ones are never lost."""

import json
import os
import shutil

import pytest

from trainers.checkpoints import (
    KEY_VARIABLE,
    SEAL_FILE,
    checkpoints,
    find_damage,
    has_pickles,
    missing_space,
    newest_whole,
    read_seal,
    rotate,
    seal,
    sealed_here,
    set_aside,
    size_of,
)

FILES = {"model.safetensors": 2 << 20, "optimizer.pt": 3000, "trainer_state.json": 40, "phoneme_tokenizer/a.json": 9}


@pytest.fixture(autouse=True)
def key(tmp_path, monkeypatch):
    monkeypatch.setenv(KEY_VARIABLE, str(tmp_path / "keys" / "seal.key"))


def make(run, step, *, sealed=True):
    folder = run / f"checkpoint-{step}"
    for name, size in FILES.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(os.urandom(size))
    if sealed:
        seal(folder, {"step": step})
    return folder


def test_a_sealed_checkpoint_is_whole(tmp_path):
    folder = make(tmp_path, 10)
    assert find_damage(folder) is None
    assert read_seal(folder)["facts"] == {"step": 10}
    assert size_of(folder) == sum(FILES.values())
    assert sealed_here(folder)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", ["deleted", "truncated", "flipped"])
def test_damage_to_any_file_is_found_and_named(tmp_path, name, damage):
    older, newer = make(tmp_path, 10), make(tmp_path, 20)
    path = newer / name
    if damage == "deleted":
        path.unlink()
    elif damage == "truncated":
        path.write_bytes(path.read_bytes()[:-1])
    else:
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    whole, damaged = newest_whole(tmp_path)
    assert whole == older
    assert list(damaged) == [newer] and name in damaged[newer]
    (moved,) = set_aside(damaged)
    assert moved.name == "damaged-checkpoint-20" and checkpoints(tmp_path) == [older]


@pytest.mark.parametrize("content", [None, "", "{", "[]", '{"format": 99, "files": {}}', '{"format": 1, "files": 3}'])
def test_a_checkpoint_without_a_readable_seal_is_passed_over(tmp_path, content):
    folder = make(tmp_path, 10, sealed=False)
    if content is not None:
        (folder / SEAL_FILE).write_text(content)
    assert SEAL_FILE in find_damage(folder)
    assert newest_whole(tmp_path)[0] is None
    assert not sealed_here(folder)


def test_setting_aside_twice_keeps_both(tmp_path):
    for _ in range(2):
        set_aside({make(tmp_path, 10, sealed=False): "for a test"})
    assert sorted(path.name for path in tmp_path.glob("damaged*")) == [
        "damaged-checkpoint-10",
        "damaged-checkpoint-10-2",
    ]


def test_rotation_counts_sealed_checkpoints_only_and_keeps_the_best(tmp_path):
    for step in (10, 20, 30, 40):
        make(tmp_path, step)
    make(tmp_path, 50, sealed=False)
    rotate(tmp_path, 2, best=str(tmp_path / "checkpoint-10"))
    assert [path.name for path in checkpoints(tmp_path)] == ["checkpoint-50", "checkpoint-40", "checkpoint-10"]
    rotate(tmp_path, 1)
    assert [path.name for path in checkpoints(tmp_path)] == ["checkpoint-50", "checkpoint-40"]
    rotate(tmp_path, None)
    assert len(checkpoints(tmp_path)) == 2


def test_a_checkpoint_of_someone_else_is_not_sealed_here(tmp_path, monkeypatch):
    folder = make(tmp_path, 10)
    monkeypatch.setenv(KEY_VARIABLE, str(tmp_path / "other" / "seal.key"))
    assert find_damage(folder) is None
    assert not sealed_here(folder)


def test_a_forged_seal_and_an_added_file_are_not_sealed_here(tmp_path):
    folder = make(tmp_path, 10)
    content = json.loads((folder / SEAL_FILE).read_text())
    content["facts"]["step"] = 11
    (folder / SEAL_FILE).write_text(json.dumps(content))
    assert not sealed_here(folder)
    folder = make(tmp_path, 20)
    (folder / "global_step20").mkdir()
    (folder / "global_step20" / "mp_rank_00_model_states.pt").write_bytes(b"x")
    assert has_pickles(folder) and not sealed_here(folder)


def test_pickled_files_have_cryptographic_digests(tmp_path):
    folder = make(tmp_path, 10, sealed=False)
    (folder / "global_step10").mkdir()
    (folder / "global_step10" / "states.pt").write_bytes(os.urandom(2 << 20))
    seal(folder, {})
    files = read_seal(folder)["files"]
    assert files["global_step10/states.pt"][1].startswith("sha256:")
    assert files["model.safetensors"][1].startswith("xxh3:")


def test_the_key_is_private_and_made_once(tmp_path):
    make(tmp_path, 10)
    path = tmp_path / "keys" / "seal.key"
    first = path.read_bytes()
    make(tmp_path, 20)
    assert path.read_bytes() == first and path.stat().st_mode & 0o077 == 0
    assert [entry.name for entry in path.parent.iterdir()] == ["seal.key"]


def test_missing_space_names_path_needed_and_free(tmp_path):
    assert missing_space(tmp_path, 1) is None
    free = shutil.disk_usage(tmp_path).free
    message = missing_space(tmp_path, free * 2)
    assert str(tmp_path) in message and f"{free * 2 / 1e6:,.1f} MB" in message
