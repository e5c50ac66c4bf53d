"""OpenStreetMap features of a city, and rasters of them."""
