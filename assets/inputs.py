"""What stages read from the store, and the digests by which they depend on it.

A stage depends on the files that it opens, not on the whole folder: a new preview image of a
scene traces nothing again.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ueloc_core.city import City
from ueloc_core.errors import StoreError
from ueloc_core.provenance import Artifact, ArtifactKey, Store, digest, digest_file, digest_folder
from ueloc_core.training_cities import training_cities

if TYPE_CHECKING:
    import xarray as xr

    from ueloc_core.measurement.city_reports import CityReports
    from ueloc_core.radio.atlas import MapAtlas

WORLD_STAGES = {"scenes": "world_scene", "sites": "world_sites", "maps": "world_radio_map"}
"""Stages of the world, as `AtlasInputs.require` takes them."""


def place_params(city: City) -> dict[str, float]:
    """What readers of maps at places take of the ray tracing's settings."""
    return {"terminal_height_m": city.ray_tracing.terminal_height_m}


SCENE_GEOMETRY = ("scene.xml", "scene.json", "meshes", "context.zarr", "terrain.zarr")


def content_of(artifact: Artifact, *names: str) -> str:
    """Digest of the named files and folders of an artifact."""
    paths = [artifact.path / name for name in names]
    return digest([digest_folder(path) if path.is_dir() else digest_file(path) for path in paths])


@dataclass(frozen=True)
class AtlasInputs:
    """Stored scenes, sites and radio maps of the same tiles: what composes a `MapAtlas`."""

    scenes: dict[str, Artifact]
    sites: dict[str, Artifact]
    radio_maps: dict[str, Artifact]

    @classmethod
    def require(
        cls,
        store: Store,
        city: City,
        tiles: Iterable[str],
        *,
        scenes: str = "scene",
        sites: str = "sites",
        maps: str = "radio_map",
    ) -> "AtlasInputs":
        """The artifacts of some tiles: the twin's, or those of the stages that are named.

        Raises
        ------
        StoreError
            If one of them has not been computed or is damaged.
        """
        names = list(tiles)
        return cls(
            *(
                {name: store.require(ArtifactKey(city.name, stage, name)) for name in names}
                for stage in (scenes, sites, maps)
            )
        )

    @property
    def digests(self) -> dict[str, str]:
        """Content digests of what the atlas reads."""
        found = {}
        for name, scene in self.scenes.items():
            found[f"context/{name}"] = content_of(scene, "context.zarr")
            found[f"sectors/{name}"] = content_of(self.sites[name], "sectors.parquet")
            found[f"radio_map/{name}"] = content_of(self.radio_maps[name], "radio_map.zarr")
        return found

    @property
    def folders(self) -> tuple[dict[str, Path], dict[str, Path], dict[str, Path]]:
        """Folders of the scenes, the sites and the radio maps by tile name."""
        scenes, sites, radio_maps = (
            {name: artifact.path for name, artifact in tiles.items()}
            for tiles in (self.scenes, self.sites, self.radio_maps)
        )
        return scenes, sites, radio_maps

    def load(self, city: City) -> "MapAtlas":
        """Compose the atlas."""
        from ueloc_core.radio.atlas import MapAtlas

        return MapAtlas.load(city, *self.folders)


_FILES_READ = {
    "measurement_set": ("reports.zarr",),
    "map_error": ("map_error.json", "plain_error.json"),
    "posterior_model": ("checkpoint.pt", "history.parquet"),
    "calibration": ("calibration.json", "refinement.json"),
    "path_traced_measurements": ("reports.zarr",),
}


@dataclass(frozen=True)
class CityInputs:
    """What a stage of a whole city reads: the twin's maps, the reports, and earlier results.

    Attributes
    ----------
    city
        The city.
    tiles
        Scenes, sites and the twin's radio maps of all its tiles.
    results
        Artifacts of the city by stage, the measurement set among them.
    """

    city: City
    tiles: AtlasInputs
    results: dict[str, Artifact]

    @classmethod
    def require(cls, store: Store, city: City, *stages: str) -> "CityInputs":
        """All tiles, the measurement set, and the results of more stages of a city.

        Raises
        ------
        StoreError
            If one of them has not been computed or is damaged.
        """
        names = ("measurement_set", *stages)
        return cls(
            city,
            AtlasInputs.require(store, city, city.tile_names),
            {name: store.require(ArtifactKey(city.name, name)) for name in names},
        )

    @property
    def digests(self) -> dict[str, str]:
        """Content digests of what is read."""
        results = {
            name: content_of(artifact, *_FILES_READ[name])
            for name, artifact in self.results.items()
        }
        return {**self.tiles.digests, **results}

    def load(self) -> tuple["MapAtlas", "xr.Dataset"]:
        """The twin's atlas and the reports."""
        from ueloc_core.measurement.dataset import load_reports

        return self.tiles.load(self.city), load_reports(self.results["measurement_set"].path)

    def folders(self, *stages: str) -> list[Path]:
        """Folders of earlier results, in the order asked for."""
        return [self.results[name].path for name in stages]

    @property
    def named_digests(self) -> dict[str, str]:
        """The digests under the city's name, where those of other cities stand beside them."""
        return {f"{self.city.name}/{name}": content for name, content in self.digests.items()}

    def reports_with_maps(self) -> "CityReports":
        """The reports beside the maps that they are read against."""
        from ueloc_core.measurement.city_reports import CityReports

        return CityReports(self.city, *self.load())


@dataclass(frozen=True)
class TrainingInputs:
    """What a stage that learns reads: maps and reports of the training cities, earlier results.

    Attributes
    ----------
    city
        The city that the stage is of.
    cities
        What it reads of the cities that train its model (`training_cities`).
    results
        Artifacts of the city by stage.
    """

    city: City
    cities: tuple[CityInputs, ...]
    results: dict[str, Artifact]

    @classmethod
    def require(cls, store: Store, city: City, *stages: str) -> "TrainingInputs":
        """The data of the training cities, and the results of stages of the city.

        Raises
        ------
        CityError
            If the city file names other cities that cannot train it.
        StoreError
            If something has not been computed or is damaged.
        """
        read = tuple(_of_training_city(store, city, other) for other in training_cities(city))
        return cls(
            city, read, {name: store.require(ArtifactKey(city.name, name)) for name in stages}
        )

    @property
    def digests(self) -> dict[str, str]:
        """Content digests of what is read; those of named cities under the city's name."""
        named = bool(self.city.training.cities)
        read: dict[str, str] = {}
        for of in self.cities:
            read |= of.named_digests if named else of.digests
        if named and not self.city.unseen:  # `load` sets aside what stands there
            read["tested_ground"] = digest(self.city.params("bbox", "grid", "tiles", "splits"))
        return read | {n: content_of(a, *_FILES_READ[n]) for n, a in self.results.items()}

    def load(self) -> "list[CityReports]":
        """The twin's atlas and the reports of each training city, off the tested ground."""
        from ueloc_core.measurement.splits import off_tested_ground

        sets = [of.reports_with_maps() for of in self.cities]
        kept = off_tested_ground(self.city, [(one.city, one.reports) for one in sets])
        return [replace(one, reports=own) for one, own in zip(sets, kept, strict=True)]

    def folders(self, *stages: str) -> list[Path]:
        """Folders of earlier results, in the order asked for."""
        return [self.results[name].path for name in stages]


def _of_training_city(store: Store, city: City, other: City) -> CityInputs:
    try:
        return CityInputs.require(store, other)
    except StoreError as error:
        if other.name == city.name:
            raise
        raise StoreError(
            f"{city.name} is trained on {other.name}, but {error.problem}",
            where=error.where,
            remedy=f"'make demo CITY={city.name}' brings both up to date, or materialize "
            f"measurement_set of {other.name} and what it reads.",
        ) from error
