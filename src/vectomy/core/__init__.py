"""What every room uses: errors, configuration, linear algebra, files that appear whole or not at
all, progress.
"""
