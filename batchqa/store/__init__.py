"""Where files are: what the commit protocol needs of a local file system or an object store (`Store`).

`local` and `object_store` are the two; they stand on `files` with `lock`, and `objects` with `conditional`,
which alone touch the disk and the store. `layout` has every name of an output there. `locations` turns URIs
into pyarrow's file systems and their errors into ours, for reading too.
"""
