"""Damaged and malicious inputs of every kind, given to everything that reads them.

A case is one damaged input (of a checkpoint, an Edit, a tokenizer, a prompt file, a journal, a run
folder, a GGUF file, a reply of a server, ...). It may succeed, and then an oracle looks at the
result, or end in a VectomyError of one readable line. Anything else is a failure: another
exception, a hang, memory, a file written or changed outside of the output, an output that is half
written, a wrong result. A case is a function of the seed and its number alone.
"""
