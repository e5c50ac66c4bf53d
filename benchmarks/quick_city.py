"""The small made-up city that benchmarks and tests run the whole pipeline on."""

from pathlib import Path
from typing import Any

import yaml

from ueloc_core.city import City
from ueloc_core.synthetic import synthetic_city

SMALL: dict[str, Any] = {
    "bbox": (24.9397, 60.1703, 24.9457, 60.1721),
    "window": {"size_m": 128, "shift_m": 16},
    "schedule": "0 3 * * 0",
    "site_plan": {"inter_site_distance_m": 120, "snap_radius_m": 50},
    "ray_tracing": {"rays_per_site": 20_000, "max_depth": 2, "diffraction": False},
    "splits": {
        "validation": ["e3014n52127"],
        "calibration": ["e3015n52126"],
        "test": ["e3015n52127"],
        "guard_m": 8,
    },
    "training": {"epochs": 1, "reports_per_epoch": 64, "channels": 8},
    "evaluation": {
        "max_reports": 20,
        "max_tracks": 3,
        "example_posteriors": 1,
        "path_traced_reports": 16,
    },
}


def write_city_file(city: City, folder: Path) -> Path:
    """Write a city's file into a folder of city files."""
    path = folder / f"{city.name}.yaml"
    content = city.model_dump(mode="json")
    if city.extends:
        content["extends"] = city.extends[0]
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


def write_quick_city(folder: Path, **sections: Any) -> City:
    """Write the extract and the file of a city of about 330 x 200 m; sections replace `SMALL`."""
    city = synthetic_city(folder, **{**SMALL, **sections})
    write_city_file(city, folder)
    return city
