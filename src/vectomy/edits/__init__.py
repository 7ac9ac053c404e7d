"""The Edit: its file, its operations on writers, its hooks at run time, and (export/) its forms on
disk. No live model is loaded here.
"""
