"""Resources that the assets share: the store of artifacts."""

import os
from pathlib import Path

import dagster as dg
from pydantic import Field

from ueloc_core.city import load_city
from ueloc_core.provenance import Store

PROJECT_DIR = Path(__file__).resolve().parent.parent


class ArtifactStore(dg.ConfigurableResource):
    """Where the artifacts of all stages are kept."""

    url: str = Field(
        default="",
        description=(
            "Local folder or fsspec URL (s3://bucket/prefix). Empty: the environment variable "
            "UELOC_STORE, else the folder 'data' of the project. A relative folder starts at "
            "the project."
        ),
    )

    def open(self) -> Store:
        """The store, ready to read and write; a city takes over from those that it extends."""
        url = self.url or os.environ.get("UELOC_STORE") or "data"
        place = url if "://" in url else str(PROJECT_DIR / Path(url).expanduser())
        return Store(place, lenders=lambda city: load_city(city).extends)
