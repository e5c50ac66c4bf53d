"""Ready mappings: drive tests, MDT traces and measurements of OpenCelliD.

Names of columns are compared without case, blanks count as underscores. Exports differ from tool
to tool: `LogMapping.to_yaml` of a preset is where a mapping of one's own starts.
"""

from pathlib import Path
from typing import Any

from ueloc_core.errors import ReportError
from ueloc_core.measurement.log_mappings import LogMapping, read_mapping


def _may(column: Any, unit: str = "") -> dict[str, Any]:
    """A column that a file may lack."""
    return {"column": column, "unit": unit, "optional": True}


_DRIVE_TEST = LogMapping.model_validate(
    {
        "description": "drive test: one row a sample, neighbours in numbered columns",
        "time": _may(("Timestamp", "Time"), "iso8601"),
        "track": _may(("Device", "UE", "IMEI")),
        "one_terminal": True,
        "position": {
            "lon": _may(("Longitude", "Lon")),
            "lat": _may(("Latitude", "Lat")),
        },
        "radio": {
            "column": ("Technology", "RAT"),
            "values": ("NR", "5G", "5G NR", "5GNR", "NR5G", "NR SA", "NR NSA"),
            "optional": True,
        },
        "serving": {
            "sector": {"columns": ("NR_NCI",), "optional": True},
            "pci": "NR_PCI",
            "channel": _may("NR_ARFCN"),
            "rsrp": "NR_SS_RSRP",
            "rsrq": _may("NR_SS_RSRQ"),
            "sinr": _may("NR_SS_SINR"),
        },
        "neighbours": {
            "count": 8,
            "pci": "NR_N{n}_PCI",
            "channel": _may("NR_N{n}_ARFCN"),
            "rsrp": ("NR_N{n}_RSRP", "NR_N{n}_SS_RSRP"),
            "rsrq": _may(("NR_N{n}_RSRQ", "NR_N{n}_SS_RSRQ")),
            "sinr": _may(("NR_N{n}_SINR", "NR_N{n}_SS_SINR")),
            "optional": True,
        },
        "values": {
            "cqi": _may("NR_CQI"),
            "ri": _may("NR_RI"),
            "ta": _may("NR_TA", "steps"),
            "throughput": _may("NR_DL_Throughput", "mbps"),
            "bler": _may("NR_DL_BLER", "percent"),
            "speed": _may("Speed", "km_h"),
            "heading": _may("Heading", "deg"),
        },
        "beams": {
            "count": 4,
            "index": "NR_Beam{n}_Index",
            "rsrp": "NR_Beam{n}_RSRP",
            "optional": True,
        },
    }
)

_MDT = LogMapping.model_validate(
    {
        "description": "immediate MDT (TS 37.320): one row a report, neighbours in lists",
        "time": _may("timestamp", "unix_ms"),
        "track": _may(("trace_session", "trace_recording_session_reference")),
        "position": {"lon": _may("longitude"), "lat": _may("latitude")},
        "serving": {
            "sector": {"columns": ("serving_nci",), "optional": True},
            "pci": "serving_pci",
            "channel": _may("serving_arfcn"),
            "rsrp": {"column": "serving_rsrp", "unit": "nr_code"},
            "rsrq": _may("serving_rsrq", "nr_code"),
            "sinr": _may("serving_sinr", "nr_code"),
        },
        "neighbours": {
            "separator": ";",
            "pci": "neighbour_pci",
            "channel": _may("neighbour_arfcn"),
            "rsrp": {"column": "neighbour_rsrp", "unit": "nr_code"},
            "rsrq": _may("neighbour_rsrq", "nr_code"),
            "sinr": _may("neighbour_sinr", "nr_code"),
            "optional": True,
        },
        "values": {
            "cqi": _may("cqi"),
            "ri": _may("ri"),
            "ta": _may("timing_advance", "steps"),
            "aoa": _may("ul_aoa", "deg"),
            "ul_sinr": _may("ul_sinr", "dB"),
            "throughput": _may("dl_throughput", "kbps"),
        },
    }
)

_OPENCELLID = LogMapping.model_validate(
    {
        "description": "OpenCelliD measurements: one serving cell a row",
        "time": _may(("measured_at", "measured"), "unix_ms"),
        "position": {"lon": _may("lon"), "lat": _may("lat")},
        "radio": {"column": ("radio", "act"), "values": ("NR", "LTE"), "optional": True},
        "serving": {
            "sector": {"columns": ("mcc", "net", "area", "cell")},
            "rsrp": {"column": "signal", "unit": "dBm"},
        },
        "values": {
            "ta": _may("ta", "lte_steps"),
            "speed": _may("speed", "m_s"),
            "heading": _may("direction", "deg"),
        },
    }
)

PRESETS: dict[str, LogMapping] = {
    "drive_test": _DRIVE_TEST,
    "mdt": _MDT,
    "opencellid": _OPENCELLID,
}
"""Ready mappings by name."""


def mapping_named(name: str) -> LogMapping:
    """The preset of a name, or the mapping of a YAML file.

    Raises
    ------
    ReportError
        If there is no such preset, or the file is no mapping.
    """
    if Path(name).suffix in (".yaml", ".yml"):
        return read_mapping(Path(name))
    if name not in PRESETS:
        raise ReportError(
            f"unknown format '{name}'",
            where="--format",
            remedy=f"Give {', '.join(PRESETS)}, or the path of a mapping (.yaml); "
            "see 'ueloc formats'.",
        )
    return PRESETS[name]
