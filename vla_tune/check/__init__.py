"""Whether what will run is what was trained."""
