"""kmatrix: does an eBPF collector degrade the way it promised, on every kernel and architecture it promised it for?"""

__version__ = "0.2.0"
