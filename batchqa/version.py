"""The version of batchqa, where everything (the package, the command, the outputs' records) reads it."""

VERSION = "0.2.0.dev0"
