"""How long does a city take, stage by stage, and how long when nothing has changed?

``python -m benchmarks.pipeline [--city helsinki | --quick]`` runs the whole pipeline through
Dagster in a fresh store, then again. The last line is one JSON object.
"""

import argparse
import json
import resource

from benchmarks.workplace import workplace
from pipelines.regenerate import STAGES

_KIB_PER_GB = 1e9 / 1024


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pipeline", description=__doc__)
    parser.add_argument("--city", default="helsinki", help="name of a city file")
    parser.add_argument("--quick", action="store_true", help="a small made-up city instead")
    options = parser.parse_args()
    with workplace(options.city, quick=options.quick) as place:
        total_s = place.regenerate()
        peak_kib = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
        cached_rerun_s = place.regenerate()
        found = {stage: place.artifacts(stage).values() for stage in STAGES}
        (measurement_set,) = found["measurement_set"]
        result = {
            "stages_s": {
                stage: round(sum(artifact.elapsed_s for artifact in artifacts), 2)
                for stage, artifacts in found.items()
            },
            "total_s": round(total_s, 1),
            "cached_rerun_s": round(cached_rerun_s, 1),
            "tiles": len(place.city.tile_names),
            "sectors": sum(artifact.metadata["sectors"] for artifact in found["radio_map"]),
            "reports": measurement_set.metadata["reports"],
            "peak_rss_gb": round(peak_kib / _KIB_PER_GB, 2),
        }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
