"""What goes in: prompts and their sources, the contrast and its splits, preference pairs, trait
files, bundled prompts.
"""
