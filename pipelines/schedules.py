"""Schedules: each city is regenerated when its file says so."""

import dagster as dg

from assets.partitions import CITIES
from ueloc_core.city import City, cities_dir
from ueloc_core.errors import CityError


def build_schedules(job: dg.JobDefinition) -> list[dg.ScheduleDefinition]:
    """One schedule for every city whose file has a ``schedule`` (cron, UTC); off at first."""
    return [_schedule(job, city) for city in CITIES.values() if city.schedule]


def _schedule(job: dg.JobDefinition, city: City) -> dg.ScheduleDefinition:
    def regenerate(_context: dg.ScheduleEvaluationContext) -> dg.RunRequest:
        return dg.RunRequest(partition_key=city.name)

    try:
        return dg.ScheduleDefinition(
            name=f"regenerate_{city.name}",
            cron_schedule=city.schedule,
            execution_timezone="UTC",
            job=job,
            execution_fn=regenerate,
            description=f"Regenerates {city.title or city.name} at '{city.schedule}' (UTC).",
        )
    except dg.DagsterInvalidDefinitionError as error:
        raise CityError(
            f"schedule = '{city.schedule}' is not a cron expression",
            where=f"{cities_dir()}/{city.name}.yaml",
            remedy="Write minute, hour, day, month and weekday, such as '0 3 * * 0', or null.",
        ) from error
