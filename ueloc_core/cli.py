"""The command line: locate a user's own reports, and look at what the pipeline made.

Heavy libraries are imported by the command that needs them, so ``--help`` is quick.
"""

import csv
import functools
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ueloc_core.city import CITIES_DIR, City, cities_dir, load_cities, load_city
from ueloc_core.errors import ReportError, StoreError, UelocError

if TYPE_CHECKING:
    import pandas as pd

    from ueloc_core.localization.localize import Fix, Locator
    from ueloc_core.measurement.report_rows import ReportFile
    from ueloc_core.measurement.report_tables import BadRow
    from ueloc_core.provenance import Store

_BATCH = 32
_SHOWN_BAD_ROWS = 10


class _Commands(click.Group):
    """Prints the errors of the project as one line, without a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except UelocError as error:
            click.echo(f"error: {' '.join(str(error).split())}", err=True)
            ctx.exit(2)


def _city_option(command: Callable[..., None]) -> Callable[..., None]:
    @click.option(
        "--city",
        "city_name",
        required=True,
        help="Name of a city (see 'ueloc cities'), or the path of its YAML file.",
    )
    @functools.wraps(command)
    def wrapped(city_name: str, **options: Any) -> None:
        command(city=load_city(city_name), **options)

    return wrapped


_store_option = click.option(
    "--store",
    "store_url",
    metavar="URL",
    help="Where the pipeline keeps its results: a folder, or s3://... and the like. "
    "[default: the environment variable UELOC_STORE, else the project's folder 'data']",
)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="ueloc")
def main() -> None:
    """Locate mobile terminals in a city from their 5G measurement reports.

    The pipeline ('make demo', or the Dagster UI) must have trained the city's model once.
    """


@main.command()
@click.argument("reports", type=click.Path(path_type=Path))
@_city_option
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    required=True,
    help="File to write; its ending chooses the format: .geojson, .csv or .parquet.",
)
@_store_option
@click.option(
    "--format",
    "format_name",
    metavar="FORMAT",
    help="What wrote the file: drive_test, mdt or opencellid (see 'ueloc formats'), or a mapping "
    "of your own (.yaml). [default: the project's own format]",
)
@click.option(
    "--bad-rows",
    "bad_rows_path",
    type=click.Path(path_type=Path),
    help="CSV file for the rows that could not be used: line, field, value, reason.",
)
def localize(
    reports: Path,
    city: City,
    output: Path,
    store_url: str | None,
    format_name: str | None,
    bad_rows_path: Path | None,
) -> None:
    """Locate the terminals of a file of REPORTS.

    The file is .csv or .parquet, with one row per report and sector and the columns report_id,
    sector_id, rsrp_dbm and, if known, serving, rsrq_db, sinr_db, cqi, ta and more
    (docs/reports.md); with --format it is a log of another program. Every report gets a
    position, the radii of circles around it, and the regions that hold the terminal with 50% and
    90% probability. Bad rows are listed and left out; the other rows are still used. Where the
    file states true positions, the distance of the estimates from them is told.

    \b
    Examples:
      ueloc localize reports.csv --city helsinki -o fixes.geojson
      ueloc localize drive.csv --format drive_test --city helsinki -o fixes.csv
    """  # noqa: D301, click reads the escape
    from ueloc_core.localization.fix_files import write_fixes, writer_for  # noqa: PLC0415

    writer_for(output)
    file = _read_reports(reports, city, store_url, format_name)
    _tell_bad_rows(file.bad_rows, bad_rows_path)
    for what, count in file.skipped.items():
        if count:
            click.echo(f"{count} {what} left out", err=True)
    if not file.report_ids:
        raise ReportError("no report could be used", where=str(reports))
    table = _locate(_locator(city, store_url), file, city)
    write_fixes(table, output)
    click.echo(
        f"{len(table)} reports located, {len(file.bad_rows)} values not used: {output}", err=True
    )
    _tell_distances(table, file)


@main.command()
@click.argument("name", required=False)
def formats(name: str | None) -> None:
    """List the formats of logs that 'localize' reads, or print one as a mapping.

    Without NAME, each format is listed with the columns that it looks for; those in brackets may
    be missing. With NAME it is printed as YAML, to be changed into a mapping of your own.

    \b
    Example:
      ueloc formats drive_test > my_scanner.yaml
    """  # noqa: D301, click reads the escape
    from ueloc_core.measurement.log_mappings import described_columns  # noqa: PLC0415
    from ueloc_core.measurement.log_presets import PRESETS, mapping_named  # noqa: PLC0415

    if name is not None:
        click.echo(mapping_named(name).to_yaml().rstrip())
        return
    for preset, mapping in PRESETS.items():
        click.echo(f"{preset}: {mapping.description}")
        for column in described_columns(mapping):
            click.echo(f"  {column}")


@main.command()
@_city_option
@_store_option
def sectors(city: City, store_url: str | None) -> None:
    """List the sectors of a city as CSV.

    These are the values that sector_id may take.
    """
    table = _sectors(city, store_url)
    click.echo(table.to_csv(index=False, float_format="%.6f").rstrip())


@main.command()
def cities() -> None:
    """List the cities that have a file."""
    for name, city in load_cities().items():
        width_m, height_m = city.extent_m
        click.echo(
            f"{name:<16} {city.title or name} ({len(city.tile_names)} tiles, "
            f"{width_m / 1000:.1f} x {height_m / 1000:.1f} km, {city.crs_code})"
        )


@main.command()
@_city_option
@_store_option
def report(city: City, store_url: str | None) -> None:
    """Print the accuracy of the last evaluation.

    Every method stands next to the oracle; the full report lies where the last line says.
    """
    import pandas as pd  # noqa: PLC0415

    from ueloc_core.evaluation.report import summary_text  # noqa: PLC0415
    from ueloc_core.provenance import ArtifactKey  # noqa: PLC0415

    folder = _store(store_url).require(ArtifactKey(city.name, "evaluation")).path
    click.echo(summary_text(pd.read_parquet(folder / "metrics.parquet")))
    click.echo(f"\nReport: {(folder / 'report.html').resolve()}")


@main.command()
@_city_option
@_store_option
@click.argument("tile")
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder to write to. [default: CITY_TILE]",
)
def export(city: City, store_url: str | None, tile: str, out: Path | None) -> None:
    """Write the scene of a TILE for other programs.

    scene.glb opens in any 3D viewer (metres, y up); the GeoTIFF files of the context rasters
    (heights, materials, roads, terrain, water, vegetation) open in QGIS in their place.
    """
    from ueloc_core.provenance import ArtifactKey  # noqa: PLC0415
    from ueloc_core.scene.export import export_geotiffs, export_glb  # noqa: PLC0415

    scene = _store(store_url).require(ArtifactKey(city.name, "scene", city.tile(tile).name))
    folder = out or Path(f"{city.name}_{tile}")
    files = [export_glb(scene.path, folder / "scene.glb"), *export_geotiffs(scene.path, folder)]
    for path in files:
        click.echo(path)
    click.echo("(c) OpenStreetMap contributors, ODbL", err=True)


@main.command("export-map")
@_city_option
@_store_option
@click.option(
    "--layer",
    default="rsrp_dbm",
    show_default=True,
    help="Layer of the radio maps, or one that follows from them.",
)
@click.option(
    "--sector",
    "sector_id",
    type=int,
    help="A sector (see 'ueloc sectors'). [default: the strongest one of each grid cell]",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    required=True,
    help="GeoTIFF file to write (.tif).",
)
def export_map(
    city: City, store_url: str | None, layer: str, sector_id: int | None, output: Path
) -> None:
    """Write a layer of the radio maps as a GeoTIFF.

    Layers that the maps hold (rsrp_dbm, first_arrival_ns and the like) are those of a sector;
    without --sector, the file covers the city, and each grid cell shows its strongest sector.
    Layers that follow from all sectors (cqi, throughput_mbps and the like) cover the city, or
    with --sector (sinr_db, rsrq_db) its own window.

    \b
    Examples:
      ueloc export-map --city helsinki -o rsrp.tif
      ueloc export-map --city helsinki --layer first_arrival_ns --sector 101 -o delay.tif
      ueloc export-map --city helsinki --layer throughput_mbps -o rate.tif
    """  # noqa: D301, click reads the escape
    from ueloc_core.provenance import ArtifactKey  # noqa: PLC0415
    from ueloc_core.radio import export as maps  # noqa: PLC0415
    from ueloc_core.radio.mosaic import open_mosaic  # noqa: PLC0415

    store = _store(store_url)

    def folders(stage: str) -> dict[str, Path]:
        keys = {tile: ArtifactKey(city.name, stage, tile) for tile in city.tile_names}
        return {tile: store.require(key).path for tile, key in keys.items()}

    maps.check_ending(output)
    if layer not in maps.STORED:
        maps.check_derived(city, layer, sector_id)
        raster = maps.derived_layer(city, folders("radio_map"), layer, sector_id)
    elif sector_id is None:
        raster = maps.best_layer(open_mosaic(city, folders("radio_map")), layer)
    else:
        raster = maps.sector_layer(city, folders("radio_map"), layer, sector_id)
    click.echo(maps.export_layer(raster, output))
    click.echo("(c) OpenStreetMap contributors, ODbL", err=True)


@main.command()
@click.argument("city_name", metavar="CITY")
@click.option("--refresh", is_flag=True, help="Download again, however old the extract is.")
def download(city_name: str, refresh: bool) -> None:
    """Fetch the OpenStreetMap extract of a CITY, and say what it holds.

    Cities whose source is 'overpass' are downloaded from the server UELOC_OVERPASS_URL (if it
    is not set, from OSMnx's own) into the folder UELOC_CACHE (~/.cache/ueloc). A download is
    kept for source.max_age_days. A local file is taken instead where source.path or the folder
    UELOC_EXTRACTS gives one.
    """
    from ueloc_core.geodata.overpass import about_extract, download_extract  # noqa: PLC0415
    from ueloc_core.geodata.repair import read_elements  # noqa: PLC0415
    from ueloc_core.geodata.sources import local_source, source_label  # noqa: PLC0415

    city = load_city(city_name)
    label = source_label(city)
    path = local_source(city)
    if path is None or (refresh and label == "overpass"):
        with _bar("Downloading") as progress:
            path = download_extract(city, progress=progress)
    elements = read_elements(path, city.bbox)
    ways = elements.ways.values()
    date = about_extract(path).get("data_of") if label == "overpass" else None
    click.echo(path)
    click.echo(
        f"{city.name}: {label}{f', data of {date}' if date else ''}, "
        f"{path.stat().st_size / 1e6:.2f} MB, "
        f"{sum('building' in way.tags for way in ways)} buildings, "
        f"{sum('highway' in way.tags for way in ways)} roads, "
        f"{len(elements.relations)} multipolygons; "
        "(c) OpenStreetMap contributors, ODbL",
        err=True,
    )


@main.command("new-city")
@click.argument("name")
@click.option("--place", help="Name of the place, looked up at UELOC_NOMINATIM_URL.")
@click.option("--bbox", "bbox_text", metavar="W,S,E,N", help="Bounding box in degrees.")
@click.option("--title", help="Name of the city for people. [default: the place, else NAME]")
@click.option(
    "--folder",
    type=click.Path(path_type=Path, file_okay=False),
    help="Where to write the file. [default: cities/, or the folder UELOC_CITIES]",
)
def new_city(
    name: str, place: str | None, bbox_text: str | None, title: str | None, folder: Path | None
) -> None:
    """Write the city file of a place: NAME.yaml.

    Give either --place or --bbox. The extract will come from Overpass (see 'ueloc download').
    No file is overwritten.

    \b
    Examples:
      ueloc new-city monaco --place Monaco
      ueloc new-city soho --bbox -0.1405,51.5098,-0.1294,51.5163
    """  # noqa: D301, click reads the escape
    from ueloc_core.new_city import write_new_city  # noqa: PLC0415

    if (place is None) == (bbox_text is None):
        raise UelocError("give either --place or --bbox", where="new-city")
    if bbox_text is not None:
        bbox, asked = _bbox(bbox_text), f"--bbox {bbox_text}"
    else:
        from ueloc_core.geodata.overpass import geocode_bbox  # noqa: PLC0415

        assert place is not None
        bbox, asked = geocode_bbox(place), f"--place {place}"
    city = write_new_city(
        name, bbox, folder or cities_dir(), title=title or place or name, asked=asked
    )
    width_m, height_m = city.extent_m
    click.echo((folder or cities_dir()) / f"{name}.yaml")
    click.echo(
        f"{len(city.tile_names)} tiles, {width_m / 1000:.1f} x {height_m / 1000:.1f} km, "
        f"{city.crs_code}; next: ueloc download {name}",
        err=True,
    )


def _bbox(text: str) -> tuple[float, float, float, float]:
    try:
        west, south, east, north = (float(side) for side in text.split(","))
    except ValueError as error:
        raise UelocError(
            "not a bounding box",
            where=f"--bbox {text}",
            remedy="Give west,south,east,north in degrees, such as 7.41,43.72,7.45,43.75.",
        ) from error
    return west, south, east, north


@contextmanager
def _bar(label: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar that takes the steps done and the steps in all."""
    with click.progressbar(length=1, label=label, file=sys.stderr, show_pos=True) as bar:

        def show(done: int, of: int) -> None:
            bar.length = of
            bar.update(done - bar.pos)
            bar.render_progress()

        yield show


def _store(url: str | None) -> "Store":
    """The store of a URL, else the one that the pipeline uses."""
    from ueloc_core.provenance import Store  # noqa: PLC0415

    if url is None:
        url = os.environ.get("UELOC_STORE") or "data"
        url = url if "://" in url else str(CITIES_DIR.parent / Path(url).expanduser())
    return Store(url)


def _sectors(city: City, store_url: str | None) -> "pd.DataFrame":
    import pandas as pd  # noqa: PLC0415

    from ueloc_core.provenance import ArtifactKey  # noqa: PLC0415
    from ueloc_core.radio.sites import load_sectors  # noqa: PLC0415

    store = _store(store_url)
    keys = [ArtifactKey(city.name, "sites", tile) for tile in city.tile_names]
    table = pd.concat([load_sectors(store.require(key).path) for key in keys], ignore_index=True)
    if table.empty:
        raise StoreError(f"{city.name} has no sectors", where=store.url)
    return table.sort_values("sector_id", ignore_index=True)


def _read_reports(
    path: Path, city: City, store_url: str | None, format_name: str | None
) -> "ReportFile":
    """The reports of a file in the project's own format, or by the mapping of another one."""
    from ueloc_core.measurement.log_files import read_log_file  # noqa: PLC0415
    from ueloc_core.measurement.log_presets import mapping_named  # noqa: PLC0415
    from ueloc_core.measurement.report_files import read_report_file  # noqa: PLC0415

    mapping = None if format_name is None else mapping_named(format_name)
    known = _sectors(city, store_url)
    if mapping is None:
        return read_report_file(path, known["sector_id"].tolist(), city)
    return read_log_file(path, mapping, known, city)


def _locator(city: City, store_url: str | None) -> "Locator":
    from ueloc_core.localization.localize import Locator  # noqa: PLC0415

    return Locator.load(city, _store(store_url))


def _locate(locator: "Locator", file: "ReportFile", city: City) -> "pd.DataFrame":
    """The fixes of all reports, batch by batch: posteriors are large."""
    import pandas as pd  # noqa: PLC0415

    from ueloc_core.localization.fix_files import fix_table  # noqa: PLC0415

    tables: list[pd.DataFrame] = []
    with click.progressbar(
        length=len(file.report_ids), label="Locating", file=sys.stderr, show_pos=True
    ) as bar:
        for start in range(0, len(file.report_ids), _BATCH):
            batch = slice(start, start + _BATCH)
            fixes: Sequence[Fix] = locator.locate(file.reports.isel(report=batch))
            tables.append(fix_table(fixes, file.report_ids[batch], city))
            bar.update(len(fixes))
    return pd.concat(tables, ignore_index=True)


def _tell_distances(table: "pd.DataFrame", file: "ReportFile") -> None:
    """How far the estimates lie from the positions that the file states, if it does."""
    import numpy as np  # noqa: PLC0415

    apart_m = np.hypot(
        table["x_m"].to_numpy() - file.reports["x_m"].to_numpy(),
        table["y_m"].to_numpy() - file.reports["y_m"].to_numpy(),
    )
    apart_m = apart_m[np.isfinite(apart_m)]
    if len(apart_m):
        click.echo(
            f"from the {len(apart_m)} stated positions: median {np.median(apart_m):.0f} m, "
            f"90% within {np.quantile(apart_m, 0.9):.0f} m",
            err=True,
        )


def _tell_bad_rows(bad_rows: "Sequence[BadRow]", path: Path | None) -> None:
    if path is not None:
        try:
            with path.open("w", encoding="utf-8", newline="") as stream:
                writer = csv.writer(stream)
                writer.writerow(["line", "field", "value", "reason"])
                writer.writerows((b.line, b.field, b.value, b.reason) for b in bad_rows)
        except OSError as error:
            raise UelocError(f"cannot be written ({error.strerror})", where=str(path)) from error
    for bad in bad_rows[:_SHOWN_BAD_ROWS]:
        click.echo(f"line {bad.line}: {bad.field} = '{bad.value}': {bad.reason}", err=True)
    more = len(bad_rows) - _SHOWN_BAD_ROWS
    if more > 0:
        where = f"see {path}" if path else "give --bad-rows FILE to see them all"
        click.echo(f"... and {more} more ({where})", err=True)


if __name__ == "__main__":
    main()
