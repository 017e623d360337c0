"""Trained methods as files of other libraries, and back: peft, adapters and transformers.

    files = peft_files.write(model)               # name -> bytes; nothing is on disk yet
    config = peft_files.read_config(directory)
    found = peft_files.read(directory, config, site)     # the method, its options and its leaves

Each library has a module, and each module one table: method -> codec. What a library cannot
represent is an InputError that names the library that can.
"""
