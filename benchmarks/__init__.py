"""Speed beside the peers; see README.md in this folder. Not part of the installed package."""
