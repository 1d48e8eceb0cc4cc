"""The modules of a distribution's kernel: which of them a VM can use, their dependencies, and the file system image of them.

A Debian kernel brings 4000 modules (400 MB), nearly all for hardware that no VM has. What is kept: everything but hardware (net/, fs/,
crypto/, lib/, …) less what DROPPED names, and of drivers/ what DRIVERS names.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from kmatrix.host import ext4
from kmatrix.host.errors import InfraError, InputError
from kmatrix.host.later import later
from kmatrix.kernels.entry import MTIME

if TYPE_CHECKING:
    from kmatrix.fetch import archive
else:
    archive = later("kmatrix.fetch.archive")

# Below drivers/: kept. A folder stands for all in it; a file is named without .ko.
DRIVERS = (
    *("block/brd", "block/loop", "block/nbd", "block/null_blk", "block/virtio_blk", "block/zram"),
    *("cdrom", "char/hw_random/rng-core", "char/hw_random/virtio-rng", "char/virtio_console", "crypto/virtio", "dax"),
    *(
        "firmware/qemu_fw_cfg",
        "md/dm-bufio",
        "md/dm-crypt",
        "md/dm-delay",
        "md/dm-flakey",
        "md/dm-mod",
        "md/dm-snapshot",
        "md/dm-verity",
    ),
    # virtme's initramfs asks for these (MODALIASES: i8042, atkbd).
    *("input/keyboard/atkbd", "input/serio/i8042", "input/serio/libps2", "input/serio/serio", "input/vivaldi-fmap"),
    *("net/bonding", "net/can/dev", "net/can/vcan", "net/can/vxcan", "net/ethernet/intel/e1000", "net/ipvlan", "net/netdevsim"),
    *("net/ovpn", "net/ppp/ppp_generic", "net/ppp/pppox", "net/slip/slhc", "net/team", "net/vxlan", "net/wireguard"),
    *("nvdimm", "nvme/common", "nvme/host/nvme", "nvme/host/nvme-core", "pps/pps_core", "ptp/ptp", "ptp/ptp_kvm"),
    *("scsi/scsi_common", "scsi/scsi_debug", "scsi/scsi_mod", "scsi/sd_mod", "scsi/sr_mod", "scsi/virtio_scsi"),
    *("vhost/vhost", "vhost/vhost_iotlb", "vhost/vhost_net", "vhost/vhost_vsock", "virtio"),
    *("watchdog/i6300esb", "watchdog/softdog", "watchdog/watchdog"),
)

# Left out: hardware, other hypervisors, file systems of other systems and of other machines (a cell's VM has no network), tests.
DROPPED = (
    *("samples", "security", "sound", "virt", "arch/x86/events", "arch/x86/kvm", "arch/x86/platform", "arch/arm64/kvm"),
    *("crypto/tcrypt", "drivers/virtio/virtio_vdpa", "kernel/locking", "kernel/torture", "lib/kunit"),
    # Of drivers/net's own files the software devices are kept (veth, tun, vrf, …), and these are not.
    *(
        f"drivers/net/{name}"
        for name in ("LAPBETHER", "mdio", "mhi_net", "mii", "rionet", "sb1000", "sungem_phy", "thunderbolt-net")
    ),
    *("drivers/net/xen-netfront", "net/vmw_vsock/hv_sock", "net/vmw_vsock/vmw_vsock_vmci_transport"),
    *("net/6lowpan", "net/9p/9pnet_rdma", "net/9p/9pnet_xen", "net/appletalk", "net/atm", "net/ax25", "net/batman-adv"),
    *(
        "net/bluetooth",
        "net/caif",
        "net/ceph",
        "net/dccp",
        "net/decnet",
        "net/dsa",
        "net/hsr",
        "net/ieee802154",
        "net/ipx",
        "net/lapb",
    ),
    *("net/mac80211", "net/mac802154", "net/mctp", "net/netrom", "net/nfc", "net/phonet", "net/qrtr", "net/rds", "net/rfkill"),
    *("net/rose", "net/rxrpc", "net/smc", "net/sunrpc", "net/tipc", "net/wimax", "net/wireless", "net/x25"),
    *(
        "fs/adfs",
        "fs/affs",
        "fs/afs",
        "fs/bcachefs",
        "fs/befs",
        "fs/bfs",
        "fs/cachefiles",
        "fs/ceph",
        "fs/cifs",
        "fs/coda",
        "fs/dlm",
    ),
    *("fs/ecryptfs", "fs/efs", "fs/f2fs", "fs/freevxfs", "fs/gfs2", "fs/hfs", "fs/hfsplus", "fs/hpfs", "fs/jffs2", "fs/jfs"),
    *("fs/ksmbd", "fs/lockd", "fs/minix", "fs/nfs", "fs/nfs_common", "fs/nfsd", "fs/nilfs2", "fs/ocfs2", "fs/omfs", "fs/orangefs"),
    *("fs/qnx4", "fs/qnx6", "fs/reiserfs", "fs/romfs", "fs/smb", "fs/sysv", "fs/ubifs", "fs/ufs", "fs/vboxsf"),
)
_TESTS = re.compile(r"(^|[-_])(test|kunit|selftest)|_(test|kunit)$")

# Debian ships no modules.dep (depmod makes it); these it ships, and depmod needs them to know what is built in.
INDEX_FILES = ("modules.builtin", "modules.builtin.modinfo", "modules.order")
_UUID = "6b6d6174-7269-4000-8000-000000000001"  # of every modules image: nothing tells two apart but their content
_LARGEST = 128 << 20  # bytes of a module
_SUFFIX = re.compile(r"\.ko(\.xz|\.zst|\.gz)?$")


def module_name(path: str) -> str:
    """The module's name, as modprobe has it: no folder, no suffix, underscores."""
    return _SUFFIX.sub("", PurePosixPath(path).name).replace("-", "_")


def is_module(path: str) -> bool:
    """Whether the file name is a module's, packed or not."""
    return _SUFFIX.search(path) is not None


def wanted(path: str) -> bool:
    """Whether the module at `path` (below lib/modules/<release>/, such as `kernel/net/sched/cls_bpf.ko.xz`) is one a VM can use.

    Modules outside kernel/ (a user's own: extra/, updates/) all are.
    """
    if not is_module(path):
        return False
    if not path.startswith("kernel/"):
        return True
    stem = _SUFFIX.sub("", path.removeprefix("kernel/"))
    if _under(stem, DROPPED) or _TESTS.search(PurePosixPath(stem).name):
        return False
    if not stem.startswith("drivers/") or re.fullmatch(r"drivers/net/[^/]+", stem):
        return True
    return _under(stem.removeprefix("drivers/"), DRIVERS)


def _under(path: str, places: Iterable[str]) -> bool:
    return any(path == place or path.startswith(f"{place}/") for place in places)


def missing_dependencies(folder: Path) -> set[str]:
    """The modules that those under `folder` (lib/modules/<release>) depend on, and that are neither there nor built in."""
    have, needed = set(), set()
    for path in folder.rglob("*.ko"):
        have.add(module_name(path.name))
        needed |= dependencies(path.read_bytes())
    builtin = folder / "modules.builtin"
    if builtin.is_file():
        have |= {module_name(line) for line in builtin.read_text().splitlines()}
    return needed - have


def dependencies(module: bytes) -> set[str]:
    """The names in a module's `depends=` (.modinfo), as modpost wrote it."""
    match = re.search(rb"\0depends=([^\0]*)\0", module)
    names = match[1].decode(errors="replace").split(",") if match else []
    return {name.replace("-", "_") for name in names if name}


def write_module(data: bytes, name: str, to: Path) -> int:
    """Write a module to `to` (a folder), uncompressed: neither virtme's initramfs nor every guest kernel unpacks them. Returns its size.

    Raises InputError when the module does not decompress.
    """
    if PurePosixPath(name).suffix != ".ko":
        try:
            data, name = archive.bounded(data, _LARGEST), PurePosixPath(name).stem
        except archive.MALFORMED as error:
            raise InputError(f"does not decompress: {error}", where=name) from error
        if not data.startswith(b"\x7fELF"):
            raise InputError("does not decompress to a module", where=name)
    write_file(data, to / name)
    return len(data)


def write_file(data: bytes, to: Path) -> None:
    """Write `data` to the file `to`, its folder made if need be."""
    to.parent.mkdir(parents=True, exist_ok=True)
    to.write_bytes(data)


def depmod(root: Path, release: str) -> None:
    """Write modules.dep and its kin for `root`/lib/modules/`release` (by kmod's depmod, which reads modules of any arch)."""
    _run([find_tool("depmod", "kmod"), "-b", str(root), release])


def make_image(root: Path, image: Path) -> None:
    """Write `root`/lib/modules as the ext4 file system `image`: the same bytes for the same content."""
    ext4.make(root / "lib/modules", image, uuid=_UUID, epoch=MTIME, label="modules")


def find_tool(name: str, package: str) -> str:
    """The path of a system tool, looked for in the sbin folders too; InfraError naming the package when it is not there."""
    path = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if path is None:
        raise InfraError(f"{name} is not installed", fix=f"apt-get install {package}")
    return path


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False, env=os.environ | {"LC_ALL": "C"})
    if done.returncode == 0:
        return
    said = (done.stderr or done.stdout).strip().splitlines()
    if any(os.strerror(errno.ENOSPC) in line for line in said):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    raise InfraError(f"{Path(command[0]).name} failed: {said[-1] if said else f'exit status {done.returncode}'}")
