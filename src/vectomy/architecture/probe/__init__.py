"""Find the residual writers of a live model numerically, with no table of names.

The stream is what one block hands to the next. Each block runs alone, with the output of every leaf
module held at what it was in a clean run: what is left are the residual additions and the
arithmetic between them. A random change along one unit vector u of the stream is put on a
parameter; when the block's output changes by a multiple of u at every token, the parameter writes
to the stream along that axis. The same is seen at the input of every norm, and of a change put on
the output of every norm: so a writer is found whose output passes one norm, or two, on its way. A
change that arrives in any other shape has to vanish along u when u is taken out of the writers that
were found (an inner layer, a gate that multiplies a writer's output); else no projection of weights
can follow it, and the probe stops with the parameter's name.

After path patching (Goldowsky-Dill et al., arXiv 2304.05969): everything but one path is frozen.
"""

from vectomy.architecture.probe.probed_part import ProbedWriter
from vectomy.architecture.probe.writer_probe import probe

__all__ = ["ProbedWriter", "probe"]
