"""Forecast what a long run will take: the same run on shrunken copies of the suite, extrapolated."""
