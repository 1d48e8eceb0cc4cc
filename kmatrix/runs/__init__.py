"""What is run: a cell, an object without a manifest, a bisection, a shell; and the machine room that joins kernels, images and VMs for them."""
