"""Configurations -> objects and run folders: the only library package that knows Hydra."""
