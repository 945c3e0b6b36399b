"""Data sets, a network and the fetching of files for the recipes that come with this package."""
