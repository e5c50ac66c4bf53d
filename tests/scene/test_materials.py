"""Radio materials against ITU-R P.2040 and P.527."""

import os
import sys
from pathlib import Path

import numpy as np
import pytest

from ueloc_core.errors import SceneError
from ueloc_core.geodata.buildings import MATERIALS
from ueloc_core.geodata.schemas import GROUND_MATERIALS
from ueloc_core.scene.materials import CATALOGUE, material_at, water_properties


@pytest.mark.parametrize("frequency_ghz", [1.0, 3.5, 28.0, 60.0])
def test_every_wall_roof_and_ground_has_a_material(frequency_ghz):
    for name in (*MATERIALS[1:], *GROUND_MATERIALS):
        material = material_at(name, frequency_ghz * 1e9)
        assert material.thickness_m > 0
        assert bool(material.itu_name) != (material.relative_permittivity > 1)


def test_classes_have_a_frequency_range():
    assert material_at("brick", 3.5e9).itu_name == "brick"
    assert material_at("brick", 60e9).itu_name == "concrete"
    assert material_at("dry_ground", 3.5e9).itu_name == "medium_dry_ground"
    assert material_at("dry_ground", 28e9).itu_name == "concrete"
    with pytest.raises(SceneError, match=r"ITU-R P.2040 does not define concrete at 0.7 GHz"):
        material_at("concrete", 0.7e9)


def test_fresh_water_is_that_of_the_recommendation():
    """At 20 degrees: 80.2 below the relaxation, which lies near 17 GHz; Debye's half there."""
    static, _ = water_properties(1e6, temperature_c=20.0)
    assert static == pytest.approx(80.2, abs=0.3)
    frequency = np.linspace(5e9, 40e9, 701)
    epsilon, sigma = np.array([water_properties(f, temperature_c=20.0) for f in frequency]).T
    loss = sigma / (2 * np.pi * frequency * 8.8541878128e-12)
    assert frequency[np.argmax(loss)] == pytest.approx(17e9, rel=0.05)
    assert loss.max() == pytest.approx(37, rel=0.05)
    assert (np.diff(epsilon) < 0).all()


def test_salt_makes_water_conduct():
    fresh, salt = (water_properties(1e8, salinity_g_per_kg=s, temperature_c=20.0) for s in (0, 35))
    assert fresh[1] < 0.1
    assert salt[1] == pytest.approx(4.8, abs=0.3)
    assert 68 < salt[0] < 74


@pytest.mark.slow
def test_our_classes_are_sionnas():
    library = Path(sys.prefix) / "lib" / "libLLVM.so.23.1"
    if library.is_file():
        os.environ.setdefault("DRJIT_LIBLLVM_PATH", str(library))
    sionna_rt = pytest.importorskip("sionna.rt")
    table = sionna_rt.radio_materials.itu.ITU_MATERIALS_PROPERTIES
    for material in CATALOGUE.values():
        assert (material.lowest_ghz, material.highest_ghz) in table[material.itu_name]
