"""What becomes of an object on a kernel, foreseen from a profile of that kernel: no VM is booted."""
