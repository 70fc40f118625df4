"""The commands, a file each: options -> settings -> one call -> the summary and the exit code.

What a command needs is imported inside it, so that `batchqa --help` is quick and needs no model, no torch and
no transformers.
"""
