"""Where files are: the calls that touch a local disk or an object store, and the lock.

`locations` turns a URI into pyarrow's file system and that library's errors into ours, `files` and `objects`
are the operations that the commit protocol stands on, `lock` keeps two runs from one local output.
"""
