"""The command line: options, messages and output; it decides nothing.

::

    entry.py          the process: its commands, its exit code
    commands/         a file for each command: its options, the call of one public function
    options.py        what an option is; options of several commands
    configuration.py  options given in the environment and in a file
    console.py        results and errors written, signals handled
    progress.py       the bar, its lines, its JSON
    rendering.py      what a person reads where a program reads JSON
    doctor.py         what this machine can run
    describe.py       what a bundle or an output is, from its own metadata
    show.py           answers in their contexts
"""
