"""Sensors: what starts work without anybody asking."""

import json

import dagster as dg

from ueloc_core.city import load_cities
from ueloc_core.errors import UelocError
from ueloc_core.provenance import digest_file

_EVERY_S = 300


def build_extract_sensor(job: dg.JobDefinition) -> dg.SensorDefinition:
    """A sensor that regenerates the cities whose extract's content has changed.

    Cities that extend another are left to people: each costs a training of its own.
    Its cursor holds the digest of each city's extract. A city that it has not seen before is
    noted, not regenerated: that is a person's decision.
    """

    @dg.sensor(
        name="changed_extracts",
        job=job,
        minimum_interval_seconds=_EVERY_S,
        description="Regenerates a city when the content of its OpenStreetMap extract changes.",
    )
    def changed_extracts(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        from ueloc_core.geodata.sources import local_source

        seen: dict[str, str] = json.loads(context.cursor or "{}")
        requests = []
        for name, city in load_cities().items():
            if city.extends:
                continue
            try:
                path = local_source(city)
                if path is None:
                    continue  # nothing downloads here; a run of the city does
                content = digest_file(path)
            except (UelocError, OSError) as error:
                context.log.warning("%s: its extract cannot be read: %s", name, error)
                continue
            if seen.get(name, content) != content:
                requests.append(dg.RunRequest(run_key=f"{name}:{content}", partition_key=name))
            seen[name] = content
        return dg.SensorResult(run_requests=requests, cursor=json.dumps(seen, sort_keys=True))

    return changed_extracts
