"""The command line: what it asks, what it says, nothing that decides.

::

    entry.py      the commands; each builds settings and calls one public function
    options.py    their options
    progress.py   the bar, its lines, its JSON
    rendering.py  what a person reads where a program reads JSON
    doctor.py     what this machine can run
    describe.py   what a bundle or an output is, from its own metadata
"""
