"""Meta-World's fifty tasks (arXiv 1910.10897, version 3 of the package) as one environment each."""
