"""What a city takes over from those that it extends instead of computing it."""

import errno
import json
import logging
import os
import uuid
from dataclasses import replace

import pytest

from ueloc_core import provenance
from ueloc_core.errors import StoreError
from ueloc_core.provenance import (
    MANIFEST,
    RUN_LOGS,
    TAKEN_OVER,
    ArtifactKey,
    Store,
    digest_folder,
)

BASE = ArtifactKey("town", "scene", "e1n2")
VARIANT = replace(BASE, city="town_osm")
EXTENDS = {"town_osm": ("town",), "town_far": ("town_osm", "town")}


def lenders(city):
    return EXTENDS.get(city, ())


@pytest.fixture(params=["local", "memory"])
def store(request, tmp_path):
    url = str(tmp_path / "data") if request.param == "local" else f"memory://{uuid.uuid4().hex}"
    return Store(url, tmp_path / "cache", lenders)


class Stage:
    """A stage that counts how often it runs."""

    def __init__(self, store):
        self.store, self.runs = store, []

    def __call__(self, key, text="walls", *, version="1", inputs=None):
        def compute(folder):
            self.runs.append(key.city)
            (folder / "meshes").mkdir()
            (folder / "meshes" / "a.ply").write_text(text)
            (folder / RUN_LOGS).mkdir()
            (folder / RUN_LOGS / "events").write_text("1")
            return {"letters": len(text)}

        return self.store.materialize(
            key, compute, code_version=version, params={}, inputs=inputs or {}
        )


@pytest.fixture
def stage(store):
    return Stage(store)


def test_a_variant_takes_over_what_would_be_the_same(stage):
    base, taken = stage(BASE), stage(VARIANT)
    assert stage.runs == ["town"]
    assert taken.key == VARIANT
    assert taken.cached
    assert (taken.fingerprint, taken.content) == (base.fingerprint, base.content)
    assert (taken.inputs, taken.elapsed_s) == (base.inputs, base.elapsed_s)
    assert taken.metadata == {"letters": 5, TAKEN_OVER: "town"}
    assert base.metadata == {"letters": 5}
    assert (taken.path / "meshes" / "a.ply").read_text() == "walls"
    assert digest_folder(taken.path) == taken.content


def test_from_then_on_it_is_the_variants_own(stage):
    """Said so for ever, and none of the base's business."""
    first = stage(BASE)
    stage(VARIANT)
    again = stage(VARIANT)
    assert again.metadata[TAKEN_OVER] == "town"
    stage(BASE, "new walls", version="2")
    assert stage.store.require(VARIANT).content == first.content
    assert stage(VARIANT).fingerprint == first.fingerprint
    assert stage.runs == ["town", "town"]


def test_logs_of_the_run_come_along(stage):
    stage(BASE)
    taken = stage(VARIANT)
    log = stage.store._join(VARIANT, taken.fingerprint, RUN_LOGS, "events")
    assert stage.store._fs.cat_file(log) == b"1"


def test_what_differs_is_computed(stage):
    stage(BASE)
    own = stage(VARIANT, inputs={"world": "other"})
    assert stage.runs == ["town", "town_osm"]
    assert not own.cached
    assert TAKEN_OVER not in own.metadata


def test_nothing_is_borrowed_by_a_base_or_a_stranger(stage):
    stage(VARIANT)
    stage(BASE)
    stage(replace(BASE, city="village"))
    stage(replace(VARIANT, partition="e1n3"))
    stage(replace(VARIANT, stage="sites"))
    assert stage.runs == ["town_osm", "town", "village", "town_osm", "town_osm"]


def test_the_whole_chain_lends(stage):
    stage(BASE)
    far = stage(replace(BASE, city="town_far"))
    assert far.metadata[TAKEN_OVER] == "town"
    stage(VARIANT, inputs={"world": "other"})
    far = stage(replace(BASE, city="town_far"), inputs={"world": "other"})
    assert far.metadata[TAKEN_OVER] == "town_osm"
    assert stage.runs == ["town", "town_osm"]


def test_its_own_former_version_is_kept_as_ever(stage):
    old = stage(VARIANT, "old walls", version="0")
    stage(BASE)
    stage(VARIANT)
    assert stage(VARIANT).metadata[TAKEN_OVER] == "town"
    manifest = json.loads(stage.store._fs.cat_file(stage.store._join(VARIANT, MANIFEST)))
    assert manifest["previous"] == [old.fingerprint]
    stage(VARIANT, "newer walls", version="2")
    stage(VARIANT, "newest walls", version="3")
    names = {
        str(p).rsplit("/", 1)[1] for p in stage.store._fs.ls(stage.store._join(VARIANT), False)
    }
    assert len(names - {MANIFEST}) == 2


@pytest.mark.parametrize("damage", ["missing", "truncated", "manifest"])
def test_what_is_damaged_is_not_taken_over(stage, caplog, damage):
    base = stage(BASE)
    fs, join = stage.store._fs, stage.store._join
    file = join(BASE, base.fingerprint, "meshes", "a.ply")
    if damage == "missing":
        fs.rm(file)
    elif damage == "truncated":
        fs.pipe_file(file, b"wal")
    else:
        fs.pipe_file(join(BASE, MANIFEST), b"{")
    with caplog.at_level(logging.WARNING):
        own = stage(VARIANT)
    assert stage.runs == ["town", "town_osm"]
    assert TAKEN_OVER not in own.metadata
    assert "town_osm/scene/e1n2 is not taken over from town" in caplog.text


def test_files_are_one_where_the_file_system_can(tmp_path):
    """And pruning the one leaves the other."""
    store = Store(str(tmp_path), lenders=lenders)
    stage = Stage(store)
    base, taken = stage(BASE), stage(VARIANT)
    files = [artifact.path / "meshes" / "a.ply" for artifact in (base, taken)]
    assert files[0].samefile(files[1])
    for version in ("2", "3"):
        stage(BASE, "other walls", version=version)
    assert not files[0].exists()
    assert files[1].read_text() == "walls"


def test_they_are_copied_where_it_cannot(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

    monkeypatch.setattr(os, "link", refuse)
    stage = Stage(Store(str(tmp_path), lenders=lenders))
    base, taken = stage(BASE), stage(VARIANT)
    files = [artifact.path / "meshes" / "a.ply" for artifact in (base, taken)]
    assert not files[0].samefile(files[1])
    assert digest_folder(taken.path) == base.content
    assert stage.runs == ["town"]


def test_a_copy_that_breaks_off_leaves_the_old_artifact_and_no_litter(tmp_path, monkeypatch):
    stage = Stage(Store(str(tmp_path), lenders=lenders))
    old = stage(VARIANT, "old walls", version="0")
    stage(BASE)

    def fail(*_):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr(provenance, "_link", fail)
        with pytest.raises(RuntimeError, match="computed"):
            stage.store.materialize(VARIANT, _refuse, code_version="1", params={}, inputs={})
    assert stage.store.require(VARIANT).content == old.content
    assert {p.name for p in old.path.parent.iterdir()} == {MANIFEST, old.fingerprint}


def _refuse(_):
    raise RuntimeError("computed")


def test_a_lender_that_has_gone_in_between_is_none(tmp_path, monkeypatch):
    """Its manifest was read, then its folder was pruned: the stage is computed."""
    stage = Stage(Store(str(tmp_path), lenders=lenders))
    base = stage(BASE)
    plain = Store._is_whole

    def whole_until_now(self, key, manifest):
        found = plain(self, key, manifest)
        if key == BASE:
            (base.path / "meshes" / "a.ply").unlink()
        return found

    monkeypatch.setattr(Store, "_is_whole", whole_until_now)
    assert not stage(VARIANT).cached
    assert stage.runs == ["town", "town_osm"]


def test_the_pipelines_store_knows_who_lends(tmp_path, monkeypatch):
    from assets.resources import ArtifactStore

    cities = tmp_path / "cities"
    cities.mkdir()
    box = "source: {kind: bundled}\nbbox: [24.935, 60.164, 24.953, 60.179]\n"
    (cities / "town.yaml").write_text(f"name: town\n{box}")
    (cities / "town_osm.yaml").write_text("name: town_osm\nextends: town\n")
    monkeypatch.setenv("UELOC_CITIES", str(cities))
    stage = Stage(ArtifactStore(url=str(tmp_path / "store")).open())
    stage(BASE)
    assert stage(VARIANT).metadata[TAKEN_OVER] == "town"
    with pytest.raises(StoreError, match="has not been computed"):
        stage.store.require(replace(VARIANT, partition="e9n9"))
