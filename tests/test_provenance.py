"""The store: work is skipped when nothing changed, and never left half done."""

import errno
import json
import os
import signal
import subprocess
import sys
import uuid

import pytest

from ueloc_core.errors import StoreError
from ueloc_core.provenance import (
    MANIFEST,
    RUN_LOGS,
    ArtifactKey,
    Store,
    digest,
    digest_file,
    digest_folder,
    fingerprint_of,
    with_metadata,
)

KEY = ArtifactKey("town", "scene", "e1n2")


class _Stage:
    """A stage that counts how often it runs."""

    def __init__(self, store, key=KEY):
        self.store = store
        self.key = key
        self.runs = 0

    def __call__(self, text="walls", *, version="1", params=None, inputs=None):
        def compute(folder):
            self.runs += 1
            (folder / "meshes").mkdir()
            (folder / "meshes" / "a.ply").write_text(text)
            return {"letters": len(text)}

        return self.store.materialize(
            self.key, compute, code_version=version, params=params or {}, inputs=inputs or {}
        )


def _stores(tmp_path):
    return {
        "local": Store(str(tmp_path / "data")),
        "memory": Store(f"memory://{uuid.uuid4().hex}", cache_dir=tmp_path / "cache"),
    }


@pytest.fixture(params=["local", "memory"])
def stage(request, tmp_path):
    return _Stage(_stores(tmp_path)[request.param])


def test_the_same_fingerprint_is_computed_once(stage):
    first, second = stage(), stage()
    assert stage.runs == 1
    assert (first.cached, second.cached) == (False, True)
    assert second.metadata == {"letters": 5}
    assert (second.path / "meshes" / "a.ply").read_text() == "walls"
    assert (second.fingerprint, second.content) == (first.fingerprint, first.content)
    assert stage.store.require(KEY).content == first.content


@pytest.mark.parametrize(
    "change", [{"version": "2"}, {"params": {"seed": 2}}, {"inputs": {"extract": "abc"}}]
)
def test_code_parameters_and_inputs_each_change_the_fingerprint(stage, change):
    first, second = stage(), stage(**change)
    assert stage.runs == 2
    assert not second.cached
    assert first.fingerprint != second.fingerprint


def test_the_same_result_has_the_same_content_so_propagation_stops(stage):
    first, second = stage(version="1"), stage(version="2")
    assert first.content == second.content
    assert stage("other walls", version="3").content != first.content


def test_the_stage_is_part_of_the_fingerprint(tmp_path):
    store = Store(str(tmp_path))
    names = {_Stage(store, ArtifactKey("town", name))().fingerprint for name in ("scene", "sites")}
    assert len(names) == 2


@pytest.mark.parametrize("damage", ["missing", "truncated"])
def test_a_damaged_artifact_is_noticed_and_computed_again(tmp_path, damage):
    stage = _Stage(Store(str(tmp_path)))
    file = stage().path / "meshes" / "a.ply"
    file.unlink() if damage == "missing" else file.write_text("wal")
    assert stage.store.current(KEY) is None
    with pytest.raises(StoreError, match="missing or truncated"):
        stage.store.require(KEY)
    repaired = stage()
    assert stage.runs == 2
    assert not repaired.cached
    assert stage.store.require(KEY).content == repaired.content


def test_a_damaged_remote_artifact_is_computed_again(tmp_path):
    stage = _Stage(_stores(tmp_path)["memory"])
    artifact = stage()
    store = stage.store
    store._fs.rm(store._join(KEY, artifact.fingerprint, "meshes", "a.ply"))
    assert store.current(KEY) is None
    stage()
    assert stage.runs == 2
    assert store.require(KEY).content == artifact.content


def test_a_failed_computation_leaves_the_old_artifact(stage):
    before = stage()

    def fail(folder):
        (folder / "half").write_text("written")
        raise RuntimeError("no more rays")

    with pytest.raises(RuntimeError, match="no more rays"):
        stage.store.materialize(KEY, fail, code_version="2", params={}, inputs={})
    after = stage.store.require(KEY)
    assert after.fingerprint == before.fingerprint
    assert (after.path / "meshes" / "a.ply").read_text() == "walls"


def test_a_killed_writer_leaves_the_old_artifact(tmp_path):
    stage = _Stage(Store(str(tmp_path)))
    before = stage()
    code = f"""
import sys, time
from ueloc_core.provenance import ArtifactKey, Store
def compute(folder):
    (folder / "half").write_text("written")
    print("writing", flush=True)
    time.sleep(60)
Store({str(tmp_path)!r}).materialize(
    ArtifactKey("town", "scene", "e1n2"), compute, code_version="2", params={{}}, inputs={{}})
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as writer:
        assert writer.stdout.readline() == b"writing\n"
        os.kill(writer.pid, signal.SIGKILL)
    after = stage.store.require(KEY)
    assert after.fingerprint == before.fingerprint
    assert stage().cached
    assert stage(version="2").path.joinpath("meshes", "a.ply").is_file()


def test_a_folder_without_manifest_is_replaced(tmp_path):
    stage = _Stage(Store(str(tmp_path)))
    artifact = stage()
    manifest = artifact.path.parent / MANIFEST
    manifest.unlink()
    (artifact.path / "stray").write_text("left by a killed run")
    assert stage.store.current(KEY) is None
    again = stage()
    assert stage.runs == 2
    assert digest_folder(again.path) == artifact.content


def test_an_unreadable_manifest_names_its_file_and_the_remedy(tmp_path):
    stage = _Stage(Store(str(tmp_path)))
    manifest = stage().path.parent / MANIFEST
    manifest.write_text(manifest.read_text()[:30])
    with pytest.raises(StoreError, match="Delete this file") as caught:
        stage.store.current(KEY)
    assert MANIFEST in caught.value.where


def test_what_was_never_computed_says_what_to_do(stage):
    assert stage.store.current(KEY) is None
    with pytest.raises(StoreError, match="Materialize the asset 'scene' first"):
        stage.store.require(KEY)


def test_old_versions_are_pruned_and_the_previous_one_is_kept(tmp_path):
    stage = _Stage(Store(str(tmp_path)))
    versions = [stage(version=str(number)).fingerprint for number in range(4)]
    folder = tmp_path / "town" / "scene" / "e1n2"
    assert {path.name for path in folder.iterdir()} == {MANIFEST, *versions[-2:]}


def test_a_full_disk_says_so_and_loses_nothing(stage):
    before = stage()

    def fill(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(StoreError, match=r"No space left.*nothing was lost"):
        stage.store.materialize(KEY, fill, code_version="2", params={}, inputs={})
    assert stage.store.require(KEY).fingerprint == before.fingerprint


def test_no_path_of_this_machine_is_in_the_manifest(tmp_path):
    stage = _Stage(Store(str(tmp_path)))
    text = (stage().path.parent / MANIFEST).read_text()
    assert str(tmp_path) not in text
    assert json.loads(text)["files"] == {"meshes/a.ply": 5}


def test_digests():
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
    assert digest({"a": 1}) != digest({"a": 2})


def test_a_folder_is_its_names_and_bytes(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name / "sub").mkdir(parents=True)
        (tmp_path / name / "sub" / "file").write_text("same")
    assert digest_folder(tmp_path / "one") == digest_folder(tmp_path / "two")
    assert digest_file(tmp_path / "one/sub/file") == digest_file(tmp_path / "two/sub/file")
    (tmp_path / "two" / "sub" / "file").rename(tmp_path / "two" / "sub" / "renamed")
    assert digest_folder(tmp_path / "one") != digest_folder(tmp_path / "two")


def test_with_metadata_copies(tmp_path):
    artifact = _Stage(Store(str(tmp_path)))()
    assert with_metadata(artifact, tiles=3).metadata == {"letters": 5, "tiles": 3}
    assert artifact.metadata == {"letters": 5}


@pytest.mark.parametrize("url", ["bogus://bucket/x", "github://x"])
def test_a_place_that_can_be_no_store_is_named(url, monkeypatch):
    monkeypatch.setitem(sys.modules, "fsspec.implementations.github", None)  # as if not installed
    with pytest.raises(StoreError, match=f"store = {url}: not the place of a store"):
        Store(url)


@pytest.mark.parametrize("kind", ["local", "memory"])
def test_logs_of_a_run_are_kept_but_do_not_count(tmp_path, kind):
    """Two runs that differ in their logs alone have the same content; no manifest names them."""
    contents = []
    for run in ("first", "second"):
        (tmp_path / run).mkdir()
        store = _stores(tmp_path / run)[kind]

        def compute(folder, run=run):
            (folder / "weights").write_text("7")
            (folder / RUN_LOGS).mkdir()
            (folder / RUN_LOGS / f"events.{run}").write_text(run)
            return {}

        made = store.materialize(KEY, compute, code_version="1", params={}, inputs={})
        contents.append(made.content)
        logs = store._join(KEY, made.fingerprint, RUN_LOGS, f"events.{run}")
        assert store._fs.cat_file(logs) == run.encode()
        manifest = json.loads(store._fs.cat_file(store._join(KEY, MANIFEST)))
        assert list(manifest["files"]) == ["weights"]
        store._fs.rm(logs)
        assert store.require(KEY).content == made.content
    assert contents[0] == contents[1]


def test_the_fingerprint_is_known_before_the_result(stage):
    made = stage(params={"a": 1}, inputs={"x": "f00"})
    assert fingerprint_of(KEY, "1", {"a": 1}, {"x": "f00"}) == made.fingerprint


def test_scratch_outlives_a_failed_run_and_is_no_artifact(tmp_path):
    for store in _stores(tmp_path).values():
        folder = store.scratch(KEY)

        def fail(_, folder=folder):
            folder.mkdir(parents=True)
            (folder / "state").write_text("half")
            raise RuntimeError("killed")

        with pytest.raises(RuntimeError, match="killed"):
            store.materialize(KEY, fail, code_version="1", params={}, inputs={})
        assert store.current(KEY) is None
        assert (folder / "state").read_text() == "half"
        _Stage(store)()
        assert (folder / "state").read_text() == "half"
        assert store.current(KEY).metadata == {"letters": 5}
        assert store.scratch(ArtifactKey("town", "scene", "e1n3")) != folder
        (folder / "state").unlink()
