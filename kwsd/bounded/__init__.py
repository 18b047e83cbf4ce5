"""Files and bytes from outside, read within bounds.

What anybody may have written (a file of the state directory, a word that is imported, a model
bundle, a configuration, a recording) is checked here before anything is allocated for it: what kind
of file it is and how large before it is read, what an archive claims before it is unpacked, the
shape of an array before it is made, and that numbers are finite.
"""
